"""Facts of a healthy system, and real homes in every state of ruin, for the tests of the status."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from dolphin.domain import codes
from dolphin.domain.decision import Decision
from dolphin.journal.fenced import FencedJournal
from dolphin.services.facts import (
    AlertFact,
    Facts,
    GridFact,
    HealthFact,
    PositionFact,
    SafetyFact,
    ServiceFact,
    SwitchFact,
    TraderFact,
)
from dolphin.services.home import Home, SystemSettings
from dolphin.services.table import SERVICES

NOW_NS = 1_800_000_000 * 10**9
OPEN = PositionFact(asset="ETCUSDT", notional=12_345.6, leverage=3.2, pnl=-0.0123)
KEYS = {
    "exf_latest": "fresh", "acb_boost": "fresh", "latest_eigen_scan": "fresh",
    "obf_universe_latest": "absent",
}  # fmt: skip
OFF: dict[str, Any] = {"state": "STOPPED", "pid": 0, "uptime_s": 0.0}


def service(name: str, **changes: Any) -> ServiceFact:
    """A service that runs, but for `changes`."""
    well: dict[str, Any] = {
        "state": "RUNNING", "pid": 100, "uptime_s": 8000.0, "beat_age_s": 2.0, "phase": "running",
        "restarts": 0,
    }  # fmt: skip
    return ServiceFact(name=name, **{**well, **changes})


def well(**changes: Any) -> Facts:
    """A system in which all is well, but for `changes` of facts, or of a service's values by a dict."""
    of_services = {name: value for name, value in changes.items() if isinstance(value, dict)}
    services = tuple(service(spec.name, **of_services.pop(spec.name, {})) for spec in SERVICES)
    assert not of_services
    facts = Facts(
        home="desk",
        now_ns=NOW_NS,
        services=services,
        grid=GridFact(connected=True, port_open=True, nodes=1, members=("127.0.0.1:5701",)),
        safety=SafetyFact(
            posture="APEX", rm=0.97, age_s=3.0, target=0.97, weakest="capital", weakest_value=0.97
        ),
        trader=TraderFact(
            source="journal", capital=25_100.5, equity=25_050.0, trades=12, fence=7, leader="trader:100",
            scan_number=4000, bar_age_s=3.0,
        ),
        scan_age_s=3.0,
        scan_number=4000,
        health=HealthFact(
            rm_meta=0.86, status="GREEN", age_s=5.0, m1=1.0, m2=1.0, m3=0.875, m4=0.8, m5=0.5, keys=KEYS
        ),
        alerts=(AlertFact(age_s=60.0, kind="leader", service="trader", text="trader leads BLUE"),),
        disk_free_mb=50_000.0,
    )  # fmt: skip
    for name, value in changes.items():
        if not isinstance(value, dict):
            facts = msgspec.structs.replace(facts, **{name: value})
    return facts


def trader(facts: Facts, **changes: Any) -> Facts:
    """The same with other facts of the trader."""
    assert facts.trader is not None
    return msgspec.structs.replace(facts, trader=msgspec.structs.replace(facts.trader, **changes))


def safety(posture: str, rm: float, **changes: Any) -> SafetyFact:
    """A posture."""
    given: dict[str, Any] = {"age_s": 3.0, "target": rm, **changes}
    return SafetyFact(posture=posture, rm=rm, **given)


def switch(state: str = "HALT", by: str = "anna", reason: str = "exchange maintenance") -> SwitchFact:
    """A kill switch that is on."""
    told = f"{state} by {by} since 2027-01-15T08:00:00Z: {reason}"
    return SwitchFact(state=state, by=by, reason=reason, told=told, oracle=reason if by == "oracle" else "")


def health(**changes: Any) -> HealthFact:
    """The health service's word."""
    facts = well().health
    assert facts is not None
    return msgspec.structs.replace(facts, **changes)


# --- homes on disk ------------------------------------------------------------------------------------------


def make_home(root: Path, port: int) -> Home:
    """A home that `up` has made, with nothing running."""
    home = Home(root)
    home.save(SystemSettings(grid_members=(f"127.0.0.1:{port}",)))
    return home


def write_journal(home: Home, now_ns: int, *, action: int, violation: str = "", bars: int = 3) -> None:
    """A trader's journal whose last bar is `now_ns`."""
    path = home.trader / "journal.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    journal = FencedJournal.take_term(path, {}, fence=7, owner="trader:4242", now_ns=now_ns)
    for bar in range(bars):
        last = bar == bars - 1
        with journal.transaction(durable=last):
            journal.add_decision(
                Decision(
                    bar_idx=bar, timestamp_ns=now_ns - (bars - 1 - bar) * 5 * 10**9, scan_number=100 + bar,
                    action=action if last else codes.ACTION_NONE, asset="ETCUSDT" if last else "",
                    notional=12_345.6 if last else 0.0, leverage=3.2, capital=25_100.0, pnl_pct=-0.01,
                ),
                25_000.0,
            )  # fmt: skip
            if violation and last:
                journal.add_event(now_ns, "invariant", violation)
    journal.close()


def without_manager(facts: Facts) -> Facts:
    """The same as it looks when the process manager was killed: processes and hearts, and no states."""
    return msgspec.structs.replace(
        facts,
        manager="down",
        manager_trouble="no process manager answers",
        services=tuple(
            msgspec.structs.replace(s, state="", uptime_s=0.0, restarts=None) for s in facts.services
        ),
    )
