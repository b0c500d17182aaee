"""A run again from what its folder remembers: what has changed since, and whether the result is the same.

Entry points: `changes`, `again`, `compare`. A backtest is repeated here; a run's own feed and host live above
and are repeated by `dolphin.commands.reproduce`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dolphin.backtest import whole
from dolphin.backtest.folder import changed_days, settings_of, summary_of
from dolphin.backtest.replay import replay
from dolphin.backtest.settings import STEP, BacktestSettings, RecordedVerdict
from dolphin.backtest.verify import proven_market
from dolphin.domain.codes import MC_STATUSES, posture_code
from dolphin.domain.errors import DataError, DolphinError
from dolphin.domain.params import NAMED_SETS, ParameterSet
from dolphin.host.finish import versions
from dolphin.host.identity import CODE_SHA256, code_sha256
from dolphin.journal.bar_columns import read_journal
from dolphin.market.scan_cache import CacheReader

#: What a run came to and a repetition must come to, bit for bit.
COMPARED = (
    "scans",
    "trades",
    "capital",
    "equity",
    "roi",
    "gross",
    "fees",
    "slippage",
    "ob_edge",
    "max_drawdown",
)


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that is another than it was; a None was not there."""

    what: str
    then: str | None
    now: str | None


def parameters_of(meta: Mapping[str, str]) -> ParameterSet:
    """The recorded parameters. Raises DataError when they are not those of the recorded hash."""
    params = ParameterSet(**json.loads(meta["parameters"]))
    if params.hash() != meta["set_hash"]:
        raise DataError(
            f"the recorded parameters have hash {params.hash()}, recorded is {meta['set_hash']};"
            " the folder was changed"
        )
    return params


def changes(folder: Path, meta: Mapping[str, str]) -> list[Change]:
    """Code, versions, the named set and the data that are another now. Raises DataError."""
    settings = settings_of(folder)
    found: list[Change] = []
    if settings.get(CODE_SHA256) != code_sha256():
        found.append(Change("code", settings.get(CODE_SHA256), code_sha256()))
    then, now = settings.get("versions", {}), versions()
    found += [
        Change(f"version of {name}", then.get(name), now.get(name))
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    ]
    named = NAMED_SETS.get(meta["set"])
    if named is not None and named.hash() != meta["set_hash"]:
        found.append(Change(f"set {meta['set']}", meta["set_hash"], named.hash()))
    if "cache" in meta:
        found += _data_changes(meta, settings)
    return found


def _data_changes(meta: Mapping[str, str], settings: Mapping[str, Any]) -> list[Change]:
    try:
        cache = CacheReader(meta["cache"])
    except DolphinError as error:
        return [Change("data", meta["cache"], f"gone ({error})")]
    now = cache.manifest.days
    return [
        Change(f"data of {day}", settings["days"][day]["sha256"], now[day].sha256 if day in now else None)
        for day in changed_days(cache, settings)
    ]


def again(
    folder: Path,
    meta: Mapping[str, str],
    out: Path,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_day: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Repeat a backtest into `out` with the recorded settings, from the days' own files, hash checked.

    on_progress gets bars decided, on_day days read, each with how many there are. Gives the summary. Raises
    DolphinError.
    """
    settings = settings_of(folder)
    words = {day: entry["mc_status"] for day, entry in settings["days"].items() if "mc_status" in entry}
    asked = BacktestSettings(
        set_name=meta["set"],
        params=parameters_of(meta),
        folder=out,
        deployment=meta["deployment"],
        vol_threshold=float(meta["vol_threshold"]),
        posture_when_unknown=posture_code(meta["posture_when_unknown"]),
        allow_partial=meta["allow_partial"] == "true",
        first_day=meta["first_day"],
        last_day=meta["last_day"],
        report=False,
        mc_status={day: MC_STATUSES.index(word) for day, word in words.items()},
        forewarner=meta.get("forewarner", ""),
        assessor=_recorded(meta, words) if meta["engine"] == STEP else None,
    )
    cache = CacheReader(meta["cache"])
    n_bars = int(summary_of(folder)["bars"])
    reached = 0

    def count(done: int, total: int) -> None:
        nonlocal reached
        reached = done
        on_progress(done, total)

    if meta["engine"] == STEP:
        return replay(cache, asked, lambda step, done, total: count(done, total), lambda: reached >= n_bars)

    def told(progress: whole.Progress) -> None:
        if progress.phase == "backtest":
            count(progress.done, progress.total)

    ready = replace(whole.prepare(cache, asked), market=proven_market(cache, asked, on_day))
    return whole.backtest(cache, asked, told, lambda: reached >= n_bars, ready)


def _recorded(meta: Mapping[str, str], words: Mapping[str, str]) -> RecordedVerdict | None:
    """The forewarner's word on a backtest's days: one for all of them, as the breaker is neutral."""
    gates = sorted(set(words.values()))
    if len(gates) > 1:
        raise DataError(f"the forewarner's words differ by day ({', '.join(gates)}), bar by bar takes one")
    return RecordedVerdict(meta["forewarner"], gates[0]) if gates else None


def compare(folder: Path, summary: Mapping[str, Any], out: Path) -> list[Change]:
    """What the repetition in `out` came to otherwise than the run: digest, figures, trades, cash flows.

    Raises DataError when one of the folders cannot be read.
    """
    then = summary_of(folder)
    found = [
        Change(name, str(then.get(name)), str(summary.get(name)))
        for name in ("decisions_sha256", *COMPARED)
        if then.get(name) != summary.get(name)
    ]
    first, second = read_journal(folder), read_journal(out)
    try:
        # What the summary says of the run may not be what its journal holds.
        digest = first.decisions_sha256()
        if digest != then.get("decisions_sha256"):
            found.append(Change("digest of the folder's own records", then.get("decisions_sha256"), digest))
        a, b = first.trades(), second.trades()
        if a != b:
            k = next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
            found.append(
                Change(
                    "the first trade that differs",
                    a[k].trade_id if k < len(a) else None,
                    b[k].trade_id if k < len(b) else None,
                )
            )
        if first.cash_flows() != second.cash_flows():
            found.append(Change("cash flows", str(len(first.cash_flows())), str(len(second.cash_flows()))))
    finally:
        first.close()
        second.close()
    return found
