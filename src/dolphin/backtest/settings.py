"""What a backtest is asked to do, what is refused before anything is written, and what its folder remembers.

Entry points: `BacktestSettings`, `check`, `identity_of`, `manifest_of`. Both engines share them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from dolphin.alpha.volatility import VOL_THRESHOLD
from dolphin.domain.codes import MC_ABSENT, MC_STATUSES
from dolphin.domain.errors import DataError, StoreError
from dolphin.domain.params import ParameterSet
from dolphin.host.finish import JOURNAL_FILE
from dolphin.host.identity import DATA_SHA256, Identity, data_sha256, warnings_of
from dolphin.host.session import Session
from dolphin.host.summary import forewarner_told, training_days
from dolphin.journal.bar_columns import BARS_FILE
from dolphin.market.scan_cache import CacheReader
from dolphin.risk.forewarner import Verdict
from dolphin.services.forewarner_gate import Assessor, mc_status_by_day

MODELLED: Final = "Backtest: fills are modelled, no order was ever sent."

#: The engines: the whole period in one kernel, or bar by bar.
PERIOD, STEP = "period", "step"
ENGINES: Final = (PERIOD, STEP)


@dataclass(frozen=True, kw_only=True, slots=True)
class BacktestSettings:
    """What a backtest is asked to do.

    assessor is the forewarner that begins the days. mc_status gives its codes by day where they are known
    without it (a reproduction), forewarner then says what decided them.
    """

    set_name: str
    params: ParameterSet
    folder: Path
    deployment: str = "BLUE"
    vol_threshold: float = VOL_THRESHOLD
    posture_when_unknown: int = 0
    allow_partial: bool = False
    first_day: str | None = None
    last_day: str | None = None
    report: bool = True
    mc_status: Mapping[str, int] = field(default_factory=dict)
    forewarner: str = ""
    assessor: Assessor | None = None

    def codes(self, days: tuple[str, ...]) -> Mapping[str, int]:
        """The forewarner's gate code of each day; empty without one."""
        if self.assessor is None:
            return self.mc_status
        found = mc_status_by_day(self.assessor, self.params, days)
        return dict(zip(days, found.tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class RecordedVerdict:
    """A forewarner that says again what a run was told, whatever it is asked."""

    identity: str
    gate: str
    why: str = ""

    def assess(self, params: ParameterSet, boost: float, timestamp_ns: int) -> Verdict:
        """The recorded gate; the numbers behind it are not kept."""
        return Verdict(self.gate, self.gate, 0.0, 0.0, "recorded", timestamp_ns)


def warnings(settings: BacktestSettings, session: Session) -> list[str]:
    """What a person must know of a backtest before its figures."""
    found = warnings_of(session)
    if settings.assessor is not None and settings.assessor.why:
        found.append(f"The forewarner answers with its fallback: {settings.assessor.why}.")
    return found


@dataclass(frozen=True, slots=True)
class Checked:
    """A backtest that nothing speaks against: its session, its days, and what is wrong with allowed ones."""

    session: Session
    days: tuple[str, ...]
    faults: tuple[str, ...]


def chosen_days(cache: CacheReader, first: str | None, last: str | None) -> tuple[str, ...]:
    """The days of a cache from the first to the last. Raises DataError where there is none."""
    days = tuple(day for day in cache.days() if (first or "") <= day <= (last or "9999-12-31"))
    if not days:
        raise DataError(f"{cache.folder}: no day between {first} and {last}")
    return days


def require_free(folder: Path) -> None:
    """Raise StoreError when the folder holds a run."""
    if any((folder / name).exists() for name in (JOURNAL_FILE, BARS_FILE)):
        raise StoreError(f"{folder}: a run is here already; choose another --out")


def check(cache: CacheReader, settings: BacktestSettings) -> Checked:
    """Look at everything that can be refused; writes nothing.

    Raises ConfigError for settings that may not trade, DataError for a day that is refused, StoreError when
    the folder holds another run.
    """
    session = identity_of(cache, settings).session(cache.symbols)
    days = chosen_days(cache, settings.first_day, settings.last_day)
    found = [f"{day}: {fault}" for day in days for fault in cache.check(day, settings.allow_partial)]
    faults = (*found, *cache.check_end(settings.last_day, settings.allow_partial))
    require_free(settings.folder)
    return Checked(session, days, faults)


def told_of_period(cache: CacheReader, settings: BacktestSettings, days: tuple[str, ...]) -> dict[str, Any]:
    """What a summary says of the market that lay there and of the forewarner, beside its figures."""
    gaps = cache.gaps(days)
    found: dict[str, Any] = {
        "gaps": len(gaps),
        "bars_missing": sum(gap.n_missing for gap in gaps),
    }
    codes = settings.codes(days)
    if codes:
        gates = Counter(MC_STATUSES[codes.get(day, MC_ABSENT)] for day in days)
        found["forewarner"] = forewarner_told(gates, training_days(settings.assessor), days)
    return found


def identity_of(cache: CacheReader, settings: BacktestSettings) -> Identity:
    """The settings that decide the decisions."""
    return Identity(
        feed="cache",
        source=cache.manifest.source or str(cache.folder),
        source_id=cache.manifest.source_id,
        universe_id=cache.manifest.universe_id,
        set_name=settings.set_name,
        params=settings.params,
        deployment=settings.deployment,
        vol_threshold=settings.vol_threshold,
        posture_when_unknown=settings.posture_when_unknown,
        forewarner=settings.forewarner if settings.assessor is None else settings.assessor.identity,
    )


def manifest_of(
    cache: CacheReader, settings: BacktestSettings, days: tuple[str, ...], engine: str
) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """(recorded, days): what else a folder must remember to be reproduced.

    recorded goes into the journal's settings; days is the SHA-256 of each day's file and the forewarner's
    word on it.
    """
    hashes = {day: cache.manifest.days[day].sha256 for day in days}
    recorded = {
        "engine": engine,
        "cache": str(cache.folder.resolve()),
        "first_day": days[0],
        "last_day": days[-1],
        "allow_partial": str(settings.allow_partial).lower(),
        DATA_SHA256: data_sha256(hashes),
    }
    words = {day: MC_STATUSES[code] for day, code in settings.codes(days).items() if day in hashes}
    return recorded, {
        day: {"sha256": sha256, **({"mc_status": words[day]} if day in words else {})}
        for day, sha256 in hashes.items()
    }
