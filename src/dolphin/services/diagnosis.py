"""From facts to one verdict, one cause and one next action.

Entry points: `diagnose`, `Verdict`, `RULES`. The rules are tried in their order, and the first that finds
something speaks: money at risk, then what stops everything, then the door, then data, then machinery. So the
one cause is what stops trading now; what is broken beside it, and needs a hand of its own, comes second.
Pure.

An action is one command that a tired person can paste and that cannot make things worse.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, NamedTuple

from dolphin.services.facts import BEAT_AGE_MAX_S, TRADERS, Facts, PositionFact, SafetyFact, ServiceFact

OK: Final = "OK"
MONEY_AT_RISK: Final = "MONEY AT RISK"
HALTED: Final = "TRADING HALTED"
NOT_TRADING: Final = "NOT TRADING"
DEGRADED: Final = "DEGRADED"
DOWN: Final = "DOWN"
VERDICTS: Final = (OK, DEGRADED, NOT_TRADING, HALTED, DOWN, MONEY_AT_RISK)

SAFETY_AGE_MAX_S: Final = 30.0
#: The spec's limit beyond which a value counts nothing; between 30 s and this it is late.
STALE_S: Final = 120.0
#: How far decisions may lie behind the scans.
BEHIND_S: Final = 30.0
#: A category of the survival stack above this shuts nothing; without any drawdown capital stands at 0.97.
WELL: Final = 0.9
HEALTH_AGE_MAX_S: Final = 45.0
#: How long the universe may be without its first snapshot.
UNIVERSE_FIRST_S: Final = 180.0
DISK_FULL_MB: Final = 50.0
DISK_LOW_MB: Final = 1000.0


class Verdict(NamedTuple):
    """What is the matter; rule is the name of the rule that found it, also what is broken beside it."""

    verdict: str
    cause: str
    action: str
    rule: str
    also: tuple[str, ...] = ()


Finding = tuple[str, str]


class Rule(NamedTuple):
    """One line of the table: `find` gives (cause, action) or None."""

    name: str
    verdict: str
    find: Callable[[Facts], Finding | None]


def diagnose(facts: Facts) -> Verdict:
    """The first rule's word; OK when none has any."""
    for rule in RULES:
        found = rule.find(facts)
        if found is not None:
            return Verdict(rule.verdict, *found, rule.name, _also(facts, rule, found))
    return Verdict(OK, _well(facts), f"nothing to do; watch with {facts.command('status --watch')}", "ok")


def _also(facts: Facts, speaking: Rule, found: Finding) -> tuple[str, ...]:
    """The causes of second rank: what needs a hand of its own, and not the same one as what speaks."""
    if speaking.verdict not in (HALTED, DEGRADED, NOT_TRADING):
        return ()
    second = [rule.find(facts) for rule in RULES if rule.name in SECOND and rule.name != speaking.name]
    return tuple(cause for cause, action in filter(None, second) if action != found[1])


def age(seconds: float) -> str:
    """`12 s`, `5 min`, `3 h 20 min`, `2 d 4 h`."""
    whole = int(max(0.0, seconds))
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min"
    if whole < 172_800:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def _position(position: PositionFact) -> str:
    return f"a position in {position.asset} of {position.notional:,.0f} USDT"


def _state(service: ServiceFact | None) -> str:
    """What became of a service, for a sentence."""
    if service is None:
        return "is not there"
    if service.held_by:
        return f"was stopped by {service.held_by}"
    if service.state == "EXITED" and service.exit_status < 0:
        return "was killed"
    if service.state == "EXITED":
        return f"ended with status {service.exit_status}"
    return {
        "RUNNING": "runs",
        "STARTING": "is starting",
        "STOPPED": "is stopped",
        "BACKOFF": "dies as soon as it starts, and is tried again",
        "FATAL": "died again and again, and was given up",
        "STOPPING": "is stopping",
    }.get(service.state, f"is {service.state}")


def _help(facts: Facts, name: str) -> str:
    """The next step for a service that should run: its log where it died, its start where it is stopped."""
    service = facts.service(name)
    if service is not None and service.state in ("EXITED", "FATAL", "BACKOFF") and not service.held_by:
        return facts.command(f"logs {name}")
    if service is not None and service.state == "STARTING":
        return facts.command("status --watch")
    if service is not None and service.state == "RUNNING":
        restart = facts.command(f"down {name}")
        return f"{restart} && {facts.command(f'up {name}')}"
    return facts.command(f"up {name}")


# --- nothing here -------------------------------------------------------------------------------------------


def _no_home(facts: Facts) -> Finding | None:
    if facts.home_there:
        return None
    return f"there is no system in {facts.home}", facts.command("up")


def _settings(facts: Facts) -> Finding | None:
    if not facts.settings_trouble:
        return None
    return facts.settings_trouble, f"ls -la {facts.quoted_home}"


# --- money --------------------------------------------------------------------------------------------------


def _unattended(facts: Facts) -> Finding | None:
    trader = facts.trader
    if trader is None or trader.position is None or facts.trader_alive:
        return None
    opened = _position(trader.position)
    if facts.manager != "up" or not facts.grid.connected:
        return f"{opened} is open and nothing manages it: no trader runs", facts.command("up --all")
    service = facts.service("trader")
    action = facts.command("up trader")
    return f"{opened} is open and nothing manages it: the trader {_state(service)}", action


def _unmanaged(facts: Facts) -> Finding | None:
    """A trader is there, and the position's bars are not decided."""
    trader = facts.trader
    if trader is None or trader.position is None or trader.bar_age_s is None:
        return None
    opened = _position(trader.position)
    scan_age_s = facts.scan_age_s
    if scan_age_s is not None and trader.bar_age_s - scan_age_s > BEHIND_S:
        return (
            f"{opened} is open and the trader decided nothing for {age(trader.bar_age_s)}, though scans come",
            _help(facts, _leading(facts)),
        )
    newest_s = trader.bar_age_s if scan_age_s is None else scan_age_s
    if newest_s > STALE_S:
        scanner = facts.service("scanner")
        return (
            f"{opened} is open and no scan came for {age(newest_s)}: the scanner {_state(scanner)}",
            _help(facts, "scanner"),
        )
    return None


def _leading(facts: Facts) -> str:
    """The trader that should decide: the journal's newest term names it."""
    owner = "" if facts.trader is None else facts.trader.leader.partition(":")[0]
    return owner if owner in TRADERS else TRADERS[0]


def _ledger(facts: Facts) -> Finding | None:
    if facts.trader is None or not facts.trader.halted:
        return None
    return (
        f"the ledger does not balance, no entries until a person has looked: {facts.trader.halted}",
        f"dolphin audit {facts.quoted_home}/trader",
    )


def _oracle(facts: Facts) -> Finding | None:
    switch = facts.switch
    if switch is None or not switch.oracle:
        return None
    others = "" if switch.by == "oracle" else f" (and more holds the kill switch on: {switch.told})"
    return (
        f"the oracle found a scan that does not certify: {switch.oracle}; once that is understood, `dolphin"
        f" resume --oracle` lifts the kill switch{others}",
        facts.command("logs oracle"),
    )


def _switch(facts: Facts) -> Finding | None:
    switch = facts.switch
    if switch is None:
        return None
    position = None if facts.trader is None else facts.trader.position
    if switch.state == "FLATTEN" and position is not None:
        rest = f"; {_position(position)} closes on the next scan"
        return f"kill switch {switch.told}{rest}", facts.command("status --watch")
    rest = "" if position is None else f"; {_position(position)} is still managed"
    return f"kill switch {switch.told}{rest}", facts.command("resume --all" if switch.damaged else "resume")


def _disk_full(facts: Facts) -> Finding | None:
    if facts.disk_free_mb is None or facts.disk_free_mb >= DISK_FULL_MB:
        return None
    return (
        f"the disk is full ({facts.disk_free_mb:.0f} MB free): no decision can be made durable",
        f"du -xh --max-depth=2 {facts.quoted_home} | sort -h | tail",
    )


def _journal(facts: Facts) -> Finding | None:
    if not facts.trader_trouble:
        return None
    return f"the trader's journal cannot be read: {facts.trader_trouble}", facts.command("logs trader")


# --- what stops everything ----------------------------------------------------------------------------------


def _manager_log(facts: Facts) -> str:
    return f"tail -n 50 {facts.quoted_home}/logs/supervisord.log"


def _nothing_runs(facts: Facts) -> Finding | None:
    if facts.manager == "up" or facts.anything_alive:
        return None
    if facts.manager == "silent":
        return f"no service is alive, and the process manager does not answer: {facts.manager_trouble}", (
            _manager_log(facts)
        )
    grid = "the grid is up" if facts.grid.port_open else "neither is the grid"
    return f"the process manager is not running and no service is alive; {grid}", facts.command("up")


def _grid(facts: Facts) -> Finding | None:
    grid = facts.grid
    if grid.connected:
        return None
    where = ", ".join(grid.members) or "its address"
    if grid.port_open:
        why = f"the grid at {where} takes connections and does not answer"
    else:
        why = f"the grid at {where} is down"
    effect = "traders act as HIBERNATE 30 s later"
    if not grid.ours:
        return f"{why}; {effect}; somebody else runs it", facts.command("status --watch")
    if grid.port_open:
        return f"{why}; {effect}", f"tail -n 50 {facts.quoted_home}/grid/*.log"
    return f"{why}; {effect}", facts.command("up")


# --- the door -----------------------------------------------------------------------------------------------


def _no_posture(facts: Facts) -> Finding | None:
    safety = facts.safety
    watchdog = facts.service("watchdog")
    if safety is None:
        if watchdog is not None and watchdog.up:
            return None
        return f"no posture was published yet: the watchdog {_state(watchdog)}", _help(facts, "watchdog")
    if 0.0 <= safety.age_s <= SAFETY_AGE_MAX_S:
        return None
    if safety.age_s < 0.0:
        return (
            f"the posture's stamp lies {age(-safety.age_s)} ahead of this clock: traders act as HIBERNATE",
            "dolphin doctor",
        )
    return (
        f"the posture is {age(safety.age_s)} old, so traders act as HIBERNATE:"
        f" the watchdog {_state(watchdog)}",
        _help(facts, "watchdog"),
    )


_ORGANS: Final = {
    "invariant": "the scan path is silent or the grid is away",
    "structural": "the forewarner sees danger in the structure",
    "microstructure": "order books are thin or stale",
    "environment": "implied volatility jumped",
    "capital": "the drawdown is deep",
}


_SHUT: Final = {"HIBERNATE": "positions are closed, no entries", "TURTLE": "no new entries"}


def _opening(facts: Facts) -> Finding | None:
    safety = facts.safety
    if safety is None or safety.posture not in _SHUT:
        return None
    minutes = _minutes_left(safety)
    if minutes is None:
        return None
    return (
        f"posture {safety.posture} (Rm {safety.rm:.2f}): {_SHUT[safety.posture]}; what shut it is over,"
        f" and Rm rises slowly: about {minutes} min more",
        facts.command("status --watch"),
    )


def _shut(facts: Facts) -> Finding | None:
    safety = facts.safety
    if safety is None or safety.posture not in _SHUT or _minutes_left(safety) is not None:
        return None
    cause = f"posture {safety.posture} (Rm {safety.rm:.2f}): {_SHUT[safety.posture]}"
    if safety.weakest_value is not None and safety.weakest_value < WELL:
        cause += f"; weakest is {safety.weakest} at {safety.weakest_value:.2f}"
        cause += f": {_ORGANS[safety.weakest]}" if safety.weakest in _ORGANS else ""
    if safety.weakest == "invariant" and safety.weakest_value == 0.0:
        for name in ("scanner", "scan_bridge"):
            service = facts.service(name)
            if service is None or not service.up:
                return f"{cause}; the {name} {_state(service)}", _help(facts, name)
        return cause, facts.command("logs scanner")
    return f"{cause}; it opens by itself when that is over", facts.command("status --watch")


def _minutes_left(safety: SafetyFact) -> int | None:
    """How long Rm still rises to the level of the next posture; None while its target lies below that.

    A rise is 2 % of the way a minute, and at most 0.05 a minute (spec 05, section 2), which 2 % never reach.
    """
    level = {"HIBERNATE": 0.50, "TURTLE": 0.75}[safety.posture]
    if safety.target is None or safety.target <= level:
        return None
    if safety.rm >= level:
        return 1
    return 1 + math.ceil(math.log((safety.target - safety.rm) / (safety.target - level)) / 0.02)


def _no_trader(facts: Facts) -> Finding | None:
    if facts.trader_alive:
        return None
    service = facts.service("trader")
    if service is None or service.state == "STOPPED":
        who = (
            f"was stopped by {service.held_by}"
            if service is not None and service.held_by
            else "is not started"
        )
        return f"the trader {who}; no position is open, nothing is at risk", facts.command("up trader")
    return f"the trader {_state(service)}; no position is open", _help(facts, "trader")


# --- data ---------------------------------------------------------------------------------------------------


def _no_scan(facts: Facts) -> Finding | None:
    scanner = facts.service("scanner")
    if facts.scan_age_s is None:
        if scanner is not None and scanner.up:
            return None
        return f"there is no scan at all: the scanner {_state(scanner)}", _help(facts, "scanner")
    if facts.scan_age_s <= STALE_S:
        return None
    for name in ("scanner", "scan_bridge"):
        service = facts.service(name)
        if service is None or service.state != "RUNNING":
            return (
                f"no scan came for {age(facts.scan_age_s)}: the {name} {_state(service)}",
                _help(facts, name),
            )
    return (
        f"no scan came for {age(facts.scan_age_s)}, though scanner and bridge run",
        facts.command("logs scanner"),
    )


def _behind(facts: Facts) -> Finding | None:
    trader = facts.trader
    if trader is None or trader.bar_age_s is None or facts.scan_age_s is None:
        return None
    if trader.bar_age_s - facts.scan_age_s <= BEHIND_S:
        return None
    return (
        f"the trader decided nothing for {age(trader.bar_age_s)}, though scans come; no position is open",
        facts.command(f"logs {_leading(facts)}"),
    )


def _capped(facts: Facts) -> Finding | None:
    safety = facts.safety
    if safety is None or safety.posture != "STALKER":
        return None
    weakest = f"; weakest is {safety.weakest}" if safety.weakest else ""
    return (
        f"posture STALKER (Rm {safety.rm:.2f}): trading goes on with a leverage of at most 2{weakest}",
        facts.command("status --watch"),
    )


_WRITERS: Final = {"exf_latest": "exf", "acb_boost": "acb", "obf_universe_latest": "obf_universe"}


def _stale_data(facts: Facts) -> Finding | None:
    health = facts.health
    if health is None or health.age_s > HEALTH_AGE_MAX_S:
        return None
    for key, writer in _WRITERS.items():
        word = health.keys.get(key, "")
        service = facts.service(writer)
        if writer == "obf_universe":
            # It is not part of every system, and its first minutes are without a snapshot.
            young = service is None or service.uptime_s < UNIVERSE_FIRST_S
            if writer not in facts.table or (word == "absent" and young):
                continue
        if word in ("stale", "absent"):
            return f"{key} is {word}: {writer} {_state(service)}", _help(facts, writer)
    return None


# --- machinery ----------------------------------------------------------------------------------------------


def _manager(facts: Facts) -> Finding | None:
    if facts.manager == "up":
        return None
    if facts.manager == "silent":
        return (
            f"the process manager does not answer, so nothing that dies comes back: {facts.manager_trouble}",
            _manager_log(facts),
        )
    return (
        "the process manager is gone; its services live on, and nothing that dies comes back",
        facts.command("up"),
    )


def _services(facts: Facts) -> Finding | None:
    if facts.manager != "up":
        return None
    missing = [
        service
        for name in facts.expected()
        if (service := facts.service(name)) is not None and service.state != "RUNNING"
    ]
    # What died before what is stopped, what is stopped before what is on its way.
    order = {"FATAL": 0, "EXITED": 1, "BACKOFF": 2, "STOPPED": 3, "STOPPING": 4}
    missing.sort(key=lambda service: order.get(service.state, 5))
    if not missing:
        return None
    first, more = missing[0], [service.name for service in missing[1:]]
    rest = f"; nor {'does' if len(more) == 1 else 'do'} {', '.join(more)} run" if more else ""
    return f"{first.name} {_state(first)}{rest}", _help(facts, first.name)


def _standby(facts: Facts) -> Finding | None:
    """A trader that is not started is an intention; one that died, while the other one leads, is not."""
    if facts.manager != "up":
        return None
    for name in TRADERS:
        service = facts.service(name)
        if service is None or service.held_by or service.state not in ("FATAL", "EXITED", "BACKOFF"):
            continue
        for other in TRADERS:
            leader = facts.service(other)
            if other != name and leader is not None and leader.there:
                return f"{name} {_state(service)}; {other} is there, no standby is left", _help(facts, name)
    return None


def _hung(facts: Facts) -> Finding | None:
    if facts.manager != "up":
        return None
    for service in facts.services:
        beat_s = service.beat_age_s
        late = beat_s is not None and beat_s > BEAT_AGE_MAX_S and service.uptime_s > BEAT_AGE_MAX_S
        if service.state == "RUNNING" and late and beat_s is not None:
            return (
                f"{service.name} runs and gave no sign of life for {age(beat_s)}",
                facts.command(f"logs {service.name}"),
            )
    return None


def _health(facts: Facts) -> Finding | None:
    health = facts.health
    service = facts.service("meta_health")
    if health is None or health.age_s > HEALTH_AGE_MAX_S:
        since = "never" if health is None else f"{age(health.age_s)} ago"
        if health is None and service is not None and service.up and service.uptime_s < HEALTH_AGE_MAX_S:
            return None
        return (
            f"the health service told last {since}, so nothing is healed: it {_state(service)}",
            _help(facts, "meta_health"),
        )
    if health.status in ("CRITICAL", "DEAD"):
        return f"meta-health is {health.status} at {health.rm_meta:.2f}", facts.command("logs meta_health")
    return None


def _members(facts: Facts) -> Finding | None:
    grid = facts.grid
    if grid.nodes >= len(grid.members) or not grid.ours:
        return None
    return f"{grid.nodes} of {len(grid.members)} grid members are there", facts.command("up")


def _disk_low(facts: Facts) -> Finding | None:
    if facts.disk_free_mb is None or facts.disk_free_mb >= DISK_LOW_MB:
        return None
    return (
        f"the disk has {facts.disk_free_mb:.0f} MB left; a day of 5 s scans takes about 200",
        f"du -xh --max-depth=2 {facts.quoted_home} | sort -h | tail",
    )


def _well(facts: Facts) -> str:
    trader, safety = facts.trader, facts.safety
    where = f"posture {safety.posture} (Rm {safety.rm:.2f})" if safety is not None else "no posture yet"
    if trader is None:
        return f"everything runs, {where}; no decision yet"
    held = "no position" if trader.position is None else _position(trader.position)
    return f"trading, {where}, {held}"


RULES: Final = (
    Rule("no_home", DOWN, _no_home),
    Rule("settings", DOWN, _settings),
    Rule("unattended_position", MONEY_AT_RISK, _unattended),
    Rule("unmanaged_position", MONEY_AT_RISK, _unmanaged),
    Rule("ledger", HALTED, _ledger),
    Rule("oracle", HALTED, _oracle),
    Rule("kill_switch", HALTED, _switch),
    Rule("disk_full", HALTED, _disk_full),
    Rule("journal", HALTED, _journal),
    Rule("nothing_runs", DOWN, _nothing_runs),
    Rule("grid", HALTED, _grid),
    Rule("no_posture", HALTED, _no_posture),
    Rule("posture", HALTED, _shut),
    Rule("no_trader", NOT_TRADING, _no_trader),
    Rule("no_scan", HALTED, _no_scan),
    Rule("trader_behind", HALTED, _behind),
    Rule("opening", HALTED, _opening),
    Rule("stale_data", DEGRADED, _stale_data),
    Rule("manager", DEGRADED, _manager),
    Rule("services", DEGRADED, _services),
    Rule("hung", DEGRADED, _hung),
    Rule("health", DEGRADED, _health),
    Rule("members", DEGRADED, _members),
    Rule("standby", DEGRADED, _standby),
    Rule("disk_low", DEGRADED, _disk_low),
    Rule("stalker", DEGRADED, _capped),
)

#: Rules that may speak in second rank, beside another.
SECOND: Final = frozenset({"manager", "services", "standby", "members", "disk_low"})
