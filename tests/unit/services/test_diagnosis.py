"""The table of rules: every rule by its own fact, their order, and a screen that fits 80 columns."""

from __future__ import annotations

import shlex
from itertools import combinations
from typing import Any

import msgspec
import pytest
from status_homes import (
    KEYS,
    OFF,
    OPEN,
    health,
    safety,
    service,
    switch,
    trader,
    well,
    without_manager,
)

from dolphin.commands.status import as_json, lines
from dolphin.services.diagnosis import RULES, VERDICTS, age, diagnose
from dolphin.services.facts import Facts, GridFact

DEAD: dict[str, Any] = {"state": "FATAL", "pid": 0, "uptime_s": 0.0}
KILLED: dict[str, Any] = {"state": "EXITED", "pid": 0, "uptime_s": 0.0, "exit_status": -1}
GONE = GridFact(connected=False, port_open=False, members=("127.0.0.1:5701",))
BOTH = msgspec.structs.replace(
    switch(), by="anna, oracle", oracle="scan 7 differs",
    told="HALT by anna since 2027-01-15T08:00:00Z: out; HALT by oracle since 2027-01-15T08:00:00Z: scan 7",
)  # fmt: skip
ALL_OFF: dict[str, Any] = {s.name: {**OFF, "beat_age_s": None, "phase": ""} for s in well().services}

#: name of the rule, facts, verdict, words of the cause, action
CASES: list[tuple[str, Facts, str, tuple[str, ...], str]] = [
    ("ok", well(), "OK", ("trading, posture APEX (Rm 0.97), no position",),
     "nothing to do; watch with dolphin status --watch --home desk"),
    ("ok", trader(well(), position=OPEN), "OK", ("a position in ETCUSDT of 12,346 USDT",),
     "nothing to do; watch with dolphin status --watch --home desk"),
    ("ok", well(trader=None), "OK", ("no decision yet",),
     "nothing to do; watch with dolphin status --watch --home desk"),
    ("ok", well(trader_standby=OFF), "OK", ("trading",),
     "nothing to do; watch with dolphin status --watch --home desk"),
    ("no_home", Facts(home="desk", now_ns=1, home_there=False), "DOWN", ("no system in desk",),
     "dolphin up --home desk"),
    ("settings", Facts(home="desk", now_ns=1, settings_trouble="desk/system.json: damaged"), "DOWN",
     ("damaged",), "ls -la desk"),
    ("unattended_position", trader(well(trader=KILLED, trader_standby=OFF), position=OPEN), "MONEY AT RISK",
     ("ETCUSDT of 12,346 USDT is open and nothing manages it", "the trader was killed"),
     "dolphin up trader --home desk"),
    ("unattended_position",
     trader(well(trader={**OFF, "held_by": "anna"}, trader_standby=OFF), position=OPEN), "MONEY AT RISK",
     ("the trader was stopped by anna",), "dolphin up trader --home desk"),
    ("unattended_position",
     trader(msgspec.structs.replace(well(**ALL_OFF), manager="down", grid=GONE), position=OPEN),
     "MONEY AT RISK", ("no trader runs",), "dolphin up --all --home desk"),
    ("unmanaged_position", trader(well(), position=OPEN, bar_age_s=47.0), "MONEY AT RISK",
     ("decided nothing for 47 s, though scans come",),
     "dolphin down trader --home desk && dolphin up trader --home desk"),
    ("unmanaged_position", trader(well(), position=OPEN, bar_age_s=47.0, leader="trader_standby:9"),
     "MONEY AT RISK", ("decided nothing",),
     "dolphin down trader_standby --home desk && dolphin up trader_standby --home desk"),
    ("unmanaged_position", trader(well(scanner=DEAD, scan_age_s=300.0), position=OPEN, bar_age_s=300.0),
     "MONEY AT RISK", ("no scan came for 5 min", "scanner died again and again"),
     "dolphin logs scanner --home desk"),
    ("unmanaged_position", trader(well(scanner=OFF, scan_age_s=None), position=OPEN, bar_age_s=300.0),
     "MONEY AT RISK", ("no scan came for 5 min", "scanner is stopped"), "dolphin up scanner --home desk"),
    ("ledger", trader(well(), halted="trade BLUE-1: legs do not sum"), "TRADING HALTED",
     ("the ledger does not balance", "legs do not sum"), "dolphin audit desk/trader"),
    ("oracle", well(switch=switch(by="oracle", reason="scan 7 differs")), "TRADING HALTED",
     ("does not certify: scan 7 differs",), "dolphin logs oracle --home desk"),
    ("oracle", well(switch=BOTH), "TRADING HALTED",
     ("does not certify: scan 7 differs", "`dolphin resume --oracle`", "HALT by anna"),
     "dolphin logs oracle --home desk"),
    ("kill_switch", well(switch=msgspec.structs.replace(switch(by="the switch itself"), damaged=True)),
     "TRADING HALTED", ("by the switch itself",), "dolphin resume --all --home desk"),
    ("kill_switch", well(switch=switch()), "TRADING HALTED",
     ("kill switch HALT by anna", "exchange maintenance"), "dolphin resume --home desk"),
    ("kill_switch", trader(well(switch=switch()), position=OPEN), "TRADING HALTED", ("is still managed",),
     "dolphin resume --home desk"),
    ("kill_switch", trader(well(switch=switch("FLATTEN")), position=OPEN), "TRADING HALTED",
     ("closes on the next scan",), "dolphin status --watch --home desk"),
    ("disk_full", well(disk_free_mb=3.0), "TRADING HALTED", ("the disk is full (3 MB free)",),
     "du -xh --max-depth=2 desk | sort -h | tail"),
    ("journal", well(trader=None, trader_trouble="journal.db: is damaged"), "TRADING HALTED",
     ("is damaged",), "dolphin logs trader --home desk"),
    ("nothing_runs", msgspec.structs.replace(well(**ALL_OFF), manager="down", grid=GONE), "DOWN",
     ("not running and no service is alive; neither is the grid",), "dolphin up --home desk"),
    ("nothing_runs", msgspec.structs.replace(well(**ALL_OFF), manager="down"), "DOWN", ("the grid is up",),
     "dolphin up --home desk"),
    ("nothing_runs", msgspec.structs.replace(well(**ALL_OFF), manager="silent"), "DOWN", ("does not answer",),
     "tail -n 50 desk/logs/supervisord.log"),
    ("grid", well(grid=GONE, safety=None, scan_age_s=None), "TRADING HALTED",
     ("127.0.0.1:5701 is down", "HIBERNATE"), "dolphin up --home desk"),
    ("grid", well(grid=GridFact(port_open=True, members=("127.0.0.1:5701",)), safety=None),
     "TRADING HALTED", ("takes connections and does not answer",), "tail -n 50 desk/grid/*.log"),
    ("grid", well(grid=GridFact(members=("10.0.0.1:5701",), ours=0), safety=None), "TRADING HALTED",
     ("somebody else runs it",), "dolphin status --watch --home desk"),
    ("no_posture", well(safety=safety("APEX", 0.97, age_s=44.0), watchdog=DEAD), "TRADING HALTED",
     ("the posture is 44 s old, so traders act as HIBERNATE", "watchdog died"),
     "dolphin logs watchdog --home desk"),
    ("no_posture", well(safety=safety("APEX", 0.97, age_s=44.0), watchdog=OFF), "TRADING HALTED",
     ("watchdog is stopped",), "dolphin up watchdog --home desk"),
    ("no_posture", well(safety=safety("APEX", 0.97, age_s=44.0)), "TRADING HALTED", ("watchdog runs",),
     "dolphin down watchdog --home desk && dolphin up watchdog --home desk"),
    ("no_posture", well(safety=safety("APEX", 0.97, age_s=-44.0)), "TRADING HALTED", ("44 s ahead",),
     "dolphin doctor"),
    ("no_posture", well(safety=None, watchdog=OFF), "TRADING HALTED", ("no posture was published",),
     "dolphin up watchdog --home desk"),
    ("posture", well(safety=safety("HIBERNATE", 0.3, weakest="structural", weakest_value=0.1)),
     "TRADING HALTED", ("HIBERNATE (Rm 0.30)", "structural at 0.10", "the forewarner"),
     "dolphin status --watch --home desk"),
    ("posture", well(safety=safety("TURTLE", 0.6, weakest="capital", weakest_value=0.6)), "TRADING HALTED",
     ("no new entries", "the drawdown is deep"), "dolphin status --watch --home desk"),
    ("posture", well(safety=safety("HIBERNATE", 0.0, weakest="invariant", weakest_value=0.0), scanner=OFF),
     "TRADING HALTED", ("the scanner is stopped",), "dolphin up scanner --home desk"),
    ("posture", well(safety=safety("HIBERNATE", 0.0, weakest="invariant", weakest_value=0.0)),
     "TRADING HALTED", ("the scan path is silent",), "dolphin logs scanner --home desk"),
    ("no_trader", well(trader=OFF, trader_standby=OFF), "NOT TRADING",
     ("the trader is not started", "nothing is at risk"), "dolphin up trader --home desk"),
    ("no_trader", well(trader={**OFF, "held_by": "anna"}, trader_standby=OFF), "NOT TRADING",
     ("was stopped by anna",), "dolphin up trader --home desk"),
    ("no_trader", well(trader=KILLED, trader_standby=OFF), "NOT TRADING", ("the trader was killed",),
     "dolphin logs trader --home desk"),
    ("no_scan", well(scan_age_s=300.0, scan_bridge=DEAD), "TRADING HALTED",
     ("no scan came for 5 min: the scan_bridge died",), "dolphin logs scan_bridge --home desk"),
    ("no_scan", well(scan_age_s=300.0), "TRADING HALTED", ("though scanner and bridge run",),
     "dolphin logs scanner --home desk"),
    ("no_scan", well(scan_age_s=None, scanner=OFF), "TRADING HALTED", ("there is no scan at all",),
     "dolphin up scanner --home desk"),
    ("trader_behind", trader(well(), bar_age_s=60.0), "TRADING HALTED",
     ("decided nothing for 60 s", "no position"), "dolphin logs trader --home desk"),
    ("stale_data", well(health=health(keys={**KEYS, "exf_latest": "stale"}), exf=DEAD), "DEGRADED",
     ("exf_latest is stale: exf died",), "dolphin logs exf --home desk"),
    ("stale_data", well(health=health(keys={**KEYS, "acb_boost": "absent"})), "DEGRADED",
     ("acb_boost is absent: acb runs",), "dolphin down acb --home desk && dolphin up acb --home desk"),
    ("manager", without_manager(well()), "DEGRADED", ("nothing that dies comes back",),
     "dolphin up --home desk"),
    ("manager", msgspec.structs.replace(without_manager(well()), manager="silent"), "DEGRADED",
     ("does not answer",), "tail -n 50 desk/logs/supervisord.log"),
    ("services", well(exf={**OFF, "held_by": "anna"}), "DEGRADED", ("exf was stopped by anna",),
     "dolphin up exf --home desk"),
    ("services", well(exf=OFF, acb=DEAD, watchdog={"state": "STARTING"}), "DEGRADED",
     ("acb died again and again, and was given up; nor do exf, watchdog run",),
     "dolphin logs acb --home desk"),
    ("services", well(watchdog={"state": "STARTING"}), "DEGRADED", ("watchdog is starting",),
     "dolphin status --watch --home desk"),
    ("services", well(exf={"state": "EXITED", "exit_status": 2, "pid": 0}), "DEGRADED",
     ("exf ended with status 2",), "dolphin logs exf --home desk"),
    ("services", well(exf={"state": "BACKOFF", "pid": 0}), "DEGRADED", ("dies as soon as it starts",),
     "dolphin logs exf --home desk"),
    ("standby", well(trader_standby=KILLED), "DEGRADED",
     ("trader_standby was killed; trader is there, no standby is left",),
     "dolphin logs trader_standby --home desk"),
    ("standby", well(trader=KILLED), "DEGRADED",
     ("trader was killed; trader_standby is there, no standby is left",), "dolphin logs trader --home desk"),
    ("ok", well(trader={**KILLED, "held_by": "anna"}), "OK", ("trading",),
     "nothing to do; watch with dolphin status --watch --home desk"),
    ("hung", well(acb={"beat_age_s": 95.0}), "DEGRADED", ("acb runs and gave no sign of life for 95 s",),
     "dolphin logs acb --home desk"),
    ("health", well(health=health(age_s=100.0)), "DEGRADED", ("told last 100 s ago",),
     "dolphin down meta_health --home desk && dolphin up meta_health --home desk"),
    ("health", well(health=None), "DEGRADED", ("told last never",),
     "dolphin down meta_health --home desk && dolphin up meta_health --home desk"),
    ("health", well(health=health(status="CRITICAL", rm_meta=0.5)), "DEGRADED", ("CRITICAL at 0.50",),
     "dolphin logs meta_health --home desk"),
    ("members", well(grid=GridFact(connected=True, port_open=True, nodes=2, members=("a:1", "b:1", "c:1"),
                                   ours=3)), "DEGRADED", ("2 of 3 grid members",), "dolphin up --home desk"),
    ("opening", well(safety=safety("HIBERNATE", 0.01, target=0.97)), "TRADING HALTED",
     ("what shut it is over", "about 37 min more"), "dolphin status --watch --home desk"),
    ("disk_low", well(disk_free_mb=300.0), "DEGRADED", ("300 MB left",),
     "du -xh --max-depth=2 desk | sort -h | tail"),
    ("stalker", well(safety=safety("STALKER", 0.8)), "DEGRADED", ("leverage of at most 2",),
     "dolphin status --watch --home desk"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "facts", "verdict", "words", "action"), CASES)
def test_rule(rule: str, facts: Facts, verdict: str, words: tuple[str, ...], action: str) -> None:
    found = diagnose(facts)
    assert (found.rule, found.verdict, found.action) == (rule, verdict, action)
    for word in words:
        assert word in found.cause


def test_every_rule_has_its_case() -> None:
    assert {case[0] for case in CASES} == {"ok", *(rule.name for rule in RULES)}
    assert {rule.verdict for rule in RULES} | {"OK"} == set(VERDICTS)


@pytest.mark.parametrize("posture", ["HIBERNATE", "TURTLE"])
def test_the_one_cause_is_what_stops_trading_now(posture: str) -> None:
    """Trading stands still for the posture, whoever died beside it: the standby leads."""
    found = diagnose(well(safety=safety(posture, 0.01, target=0.97), trader=KILLED, exf=DEAD))
    assert (found.verdict, found.rule) == ("TRADING HALTED", "opening")
    assert found.also == (
        "exf died again and again, and was given up",
        "trader was killed; trader_standby is there, no standby is left",
    )
    screen = list(lines(well(), found))
    assert screen[4:6] == [f"also     {cause}" for cause in found.also]


def test_what_the_cause_speaks_of_already_is_not_told_twice() -> None:
    found = diagnose(well(scan_age_s=300.0, scan_bridge=DEAD))
    assert (found.rule, found.also) == ("no_scan", ())
    assert diagnose(well()).also == ()


#: Facts that each set one rule off alone, by rule; together the earlier rule speaks.
PLANTED: dict[str, dict[str, Any]] = {
    "ledger": {"trader": trader(well(), halted="x").trader},
    "oracle": {"switch": switch(by="oracle")},
    "disk_full": {"disk_free_mb": 1.0},
    "grid": {"grid": GONE},
    "no_posture": {"safety": safety("APEX", 0.97, age_s=99.0)},
    "no_scan": {"scan_age_s": 999.0},
    "stale_data": {"health": health(keys={**KEYS, "exf_latest": "stale"})},
}


@pytest.mark.parametrize("pair", combinations(PLANTED, 2))
def test_earlier_rule_speaks(pair: tuple[str, str]) -> None:
    first, second = pair
    names = [rule.name for rule in RULES]
    assert names.index(first) < names.index(second)
    both = msgspec.structs.replace(well(), **PLANTED[second], **PLANTED[first])
    assert diagnose(both).rule == first


def test_money_comes_before_everything() -> None:
    names = [rule.name for rule in RULES]
    risky = [n for n, rule in enumerate(RULES) if rule.verdict == "MONEY AT RISK"]
    assert names[:2] == ["no_home", "settings"]
    assert risky == [2, 3]
    ruin = trader(
        well(**ALL_OFF, safety=safety("HIBERNATE", 0.0), disk_free_mb=0.0), position=OPEN, halted="x"
    )
    ruin = msgspec.structs.replace(ruin, manager="down", grid=GONE, switch=switch(), health=None)
    assert diagnose(ruin).verdict == "MONEY AT RISK"


@pytest.mark.parametrize(("rule", "facts", "verdict", "words", "action"), CASES)
def test_screen_fits_80_columns_and_begins_with_the_three_lines(
    rule: str, facts: Facts, verdict: str, words: tuple[str, ...], action: str
) -> None:
    screen = list(lines(facts, diagnose(facts)))
    assert screen[0] == f"DOLPHIN  {verdict}"
    assert screen[1].startswith("why      ")
    done = next(n for n, line in enumerate(screen) if line.startswith("do       "))
    assert screen[done] == f"do       {action}"
    for n, line in enumerate(screen):
        assert len(line) <= 80 or n == done, line
        assert "\x1b" not in line
    said = " ".join(line.strip() for line in screen[1:done])
    for word in words:
        assert word in said


def test_colour_is_an_extra_and_the_word_stays() -> None:
    plain = list(lines(well(), diagnose(well())))
    coloured = list(lines(well(), diagnose(well()), colour=True))
    assert coloured[0] == "DOLPHIN  \x1b[1;32mOK\x1b[0m"
    assert coloured[1:] == plain[1:]


def with_senses(facts: Facts, *names: str, **changes: Any) -> Facts:
    """The same system, asked to run with these services too."""
    told = tuple(service(name, **changes) for name in names)
    return msgspec.structs.replace(facts, services=(*facts.services, *told), table=(*facts.table, *names))


def test_services_on_request_are_missed_where_they_were_asked_for() -> None:
    stale = {"health": health(keys={**KEYS, "obf_universe_latest": "stale"})}
    assert diagnose(well(**stale)).verdict == "OK"
    found = diagnose(with_senses(well(**stale), "obf_universe"))
    assert (found.rule, found.cause) == ("stale_data", "obf_universe_latest is stale: obf_universe runs")
    # Its first snapshot takes its time.
    assert diagnose(with_senses(well(), "obf_universe", uptime_s=100.0)).verdict == "OK"
    assert "is absent" in diagnose(with_senses(well(), "obf_universe", uptime_s=181.0)).cause
    found = diagnose(with_senses(well(), "obf", **DEAD))
    assert (found.rule, found.verdict, found.action) == (
        "services",
        "DEGRADED",
        "dolphin logs obf --home desk",
    )


def test_home_with_blanks_can_be_pasted() -> None:
    facts = msgspec.structs.replace(well(switch=switch()), home="my desk; rm -rf /")
    assert shlex.split(diagnose(facts).action) == ["dolphin", "resume", "--home", "my desk; rm -rf /"]


def test_json_has_verdict_and_facts() -> None:
    found = as_json(well(), diagnose(well()))
    assert found["verdict"] == "OK"
    read = msgspec.json.decode(msgspec.json.encode(found))
    assert read["rule"] == "ok"
    assert read["facts"]["trader"]["fence"] == 7


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(-1.0, "0 s"), (0.0, "0 s"), (119.9, "119 s"), (120.0, "2 min"), (7199.0, "119 min"),
     (7200.0, "2 h 0 min"), (172_799.0, "47 h 59 min"), (172_800.0, "2 d 0 h")],
)  # fmt: skip
def test_ages(seconds: float, told: str) -> None:
    assert age(seconds) == told
