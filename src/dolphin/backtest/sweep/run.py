"""Running a sweep: the plan's bindings over a cache's days, part by part, on all cores.

Entry point: `sweep`.

1. Rows do not depend on the number of threads, on the size of parts, nor on kills between.
2. A combination that breaks a rule is counted and listed with the rule; it is no trial.
3. The ledger of trials is written before a part gets its name: what anybody can have seen is counted.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from dolphin import __version__
from dolphin.backtest.period import BatchResult, Binding, PeriodRunner
from dolphin.backtest.sweep.design import Enumerated, binding, enumerated
from dolphin.backtest.sweep.plan import Plan
from dolphin.backtest.sweep.store import REFUSED, Manifest, Rows, SweepStore, canonical_bytes, joined
from dolphin.backtest.sweep.trials import Entry, TrialLedger
from dolphin.domain.bar import FloatArray
from dolphin.domain.errors import DataError, StoreError
from dolphin.domain.params import ParameterSet
from dolphin.host.summary import sharpe_ratio
from dolphin.market.cache_format import put_bytes
from dolphin.market.columns import Columns, period_inputs
from dolphin.market.scan_cache import CacheReader

#: Bindings of one part: a fraction of a second to a minute of work.
BINDINGS_PER_PART: Final = 500
#: Memory that a period may take by default, bytes; the process around it takes about 0.4 GB.
MEMORY_MAX: Final = 1_500_000_000
#: Bytes of one price of a period: mapped, laid out by time and by asset, stale and known marks.
_BYTES_PER_PRICE: Final = 28
#: Bytes of one asset in a shared ranking, and how many bars may have one (`period.TABLE_ROWS_MAX`).
_BYTES_PER_RANK: Final = 14
#: What decides a row, below the package's folder.
_CODE: Final = (
    "kernel.py", "domain", "numerics", "alpha", "engine", "host/draws.py", "host/summary.py",
    "market/cache_format.py", "market/scan_cache.py", "market/columns.py", "backtest/period.py",
    "backtest/sweep",
)  # fmt: skip

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class Sweep:
    """A finished sweep.

    rows : every binding in the order of the plan. base : the base set's row and daily equity, run beside the
    plan. trials_ledger : trials of all sweeps on any of these days, this one among them. computed : bindings
    that this call ran, the others were there. seconds : that it took them.
    """

    plan: Plan
    manifest: Manifest
    runner: PeriodRunner
    design: Enumerated
    days: tuple[str, ...]
    notes: tuple[str, ...]
    rows: Rows
    base: Rows
    trials_ledger: int
    ledger_path: Path
    computed: int
    seconds: float

    def params(self, k: int) -> ParameterSet:
        """The parameter set of row k."""
        return binding(self.plan, self.plan.base_set, self.design.points[self.design.runs[k]])


def open_days(plan: Plan, cache: CacheReader, progress: Progress | None = None) -> Columns:
    """The plan's days as columns. Raises DataError for days that are not there, PartialDayError."""
    every = cache.days()
    days = [day for day in every if (plan.first_day or "") <= day <= (plan.last_day or "9999-12-31")]
    if not days:
        span = f"it has {every[0]} to {every[-1]}" if every else "it is empty, build it first"
        raise DataError(
            f"{cache.folder}: no day from {plan.first_day or 'the first'} to {plan.last_day or 'the last'};"
            f" {span}"
        )

    def on_day(done: int, total: int) -> None:
        if progress is not None:
            progress("reading days", done, total)

    return Columns.open(cache, days, plan.allow_partial, on_day)


def require_fitting(n_bars: int, n_assets: int, n_days: int, memory: int = MEMORY_MAX) -> None:
    """Refuse a period that does not fit into memory, saying how many days do. Raises DataError."""
    need = bytes_of(n_bars, n_assets)
    if need <= memory:
        return
    fitting = int(n_days * memory / need)
    raise DataError(
        f"{n_days} days of {n_assets} assets take {need / 1e9:.1f} GB, allowed are {memory / 1e9:.1f}; about"
        f" {fitting} days fit: set first_day and last_day, or allow more with --memory-gb"
    )


def bytes_of(n_bars: int, n_assets: int) -> int:
    """Bytes that a period takes while bindings run over it, about."""
    return n_bars * n_assets * _BYTES_PER_PRICE + min(n_bars, 1_000_000) * n_assets * _BYTES_PER_RANK


def code_sha256() -> str:
    """SHA-256 (hex) over the source that decides a row: names and contents."""
    root = Path(__file__).resolve().parents[2]
    files = [
        path
        for place in _CODE
        for path in (sorted((root / place).rglob("*.py")) if (root / place).is_dir() else [root / place])
    ]
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def data_of(cache: CacheReader, columns: Columns) -> dict[str, Any]:
    """What the sweep ran over; its sha256 covers universe, days and every day's file."""
    days = [[day, cache.manifest.days[day].sha256] for day in columns.days]
    content = json.dumps([cache.manifest.universe_id, list(columns.symbols), days])
    return {
        "sha256": hashlib.sha256(content.encode()).hexdigest(),
        "source": cache.manifest.source,
        "universe": cache.manifest.universe_id,
        "first_day": columns.days[0],
        "last_day": columns.days[-1],
        "days": len(columns.days),
        "bars": len(columns),
        "assets": len(columns.symbols),
    }


def sweep(
    plan: Plan,
    cache: CacheReader,
    folder: Path,
    *,
    cache_root: Path,
    threads: int | None = None,
    other_code: bool = False,
    memory: int = MEMORY_MAX,
    progress: Progress = lambda phase, done, total: None,
    bindings_per_part: int = BINDINGS_PER_PART,
) -> Sweep:
    """Run a plan, or go on with it.

    Parameters
    ----------
    plan, cache, folder : what to run, over what, and where results go
    cache_root : folder that keeps the ledger of trials
    threads : all cores by default; results do not depend on it
    other_code : go on with a folder that other code began, and write that into its manifest
    memory : bytes that the period may take
    progress : gets a phase, what is done and how much there is
    bindings_per_part : of a new folder; one that is there keeps its own

    Raises
    ------
    DataError
        For days that are not there, are not whole, or do not fit.
    StoreError
        For a folder that holds another sweep or is in use, and from the disk.
    ConfigError
        Where no combination keeps the rules.
    """
    store = SweepStore(folder)
    design = enumerated(plan)
    columns = open_days(plan, cache, progress)
    require_fitting(len(columns), len(columns.symbols), len(columns.days), memory)
    with store.held():
        wanted = Manifest(
            plan=plan.canonical(),
            plan_sha256=plan.digest(),
            data=data_of(cache, columns),
            code_sha256=code_sha256(),
            version=__version__,
            bindings=len(design.runs),
            refused=len(design.refused),
            refused_by_rule=design.by_rule(),
            bindings_per_part=bindings_per_part,
        )
        manifest = store.adopt(wanted, other_code)
        if design.refused:
            lines = [
                json.dumps({"design_index": r.design_index, "rule": r.rule, "told": r.told})
                for r in design.refused
            ]
            put_bytes(folder / REFUSED, ("\n".join(lines) + "\n").encode())
        ledger = TrialLedger(cache_root, folder)
        runner = PeriodRunner(period_inputs(columns), vol_threshold=plan.vol_threshold)
        job = _Job(plan, design, runner, store, manifest, ledger, threads, progress, wanted.code_sha256)
        parts = job.parts()
        result = hashlib.sha256()
        for part in parts:
            result.update(canonical_bytes(part))
        if manifest.result_sha256 and manifest.result_sha256 != result.hexdigest():
            raise StoreError(
                f"{folder}: its rows give {result.hexdigest()[:12]}, its manifest says"
                f" {manifest.result_sha256[:12]}; parts were run again by other code: choose another --out"
            )
        if not manifest.result_sha256:
            manifest.result_sha256 = result.hexdigest()
            store.put_manifest(manifest)
    rows = joined(parts)
    base = rows_of(plan, [plan.base_set], np.zeros((1, len(plan.axes))), np.zeros(1, np.int64), job.base())
    if list(rows.columns) != list(base.columns):
        raise StoreError(
            f"{folder}: was written by {manifest.version} with other columns than {__version__} has; read its"
            " Parquet files as they are, or choose another --out"
        )
    data = manifest.data
    return Sweep(
        plan=plan,
        manifest=manifest,
        runner=runner,
        design=design,
        days=columns.days,
        notes=columns.notes,
        rows=rows,
        base=base,
        trials_ledger=max(len(rows), ledger.total(data["first_day"], data["last_day"])),
        ledger_path=ledger.path,
        computed=job.computed,
        seconds=job.seconds,
    )


class _Job:
    """The parts of one sweep while they are run."""

    def __init__(
        self,
        plan: Plan,
        design: Enumerated,
        runner: PeriodRunner,
        store: SweepStore,
        manifest: Manifest,
        ledger: TrialLedger,
        threads: int | None,
        progress: Progress,
        code: str,
    ) -> None:
        self._plan, self._design, self._runner, self._store = plan, design, runner, store
        self._manifest, self._ledger, self._threads, self._progress = manifest, ledger, threads, progress
        self._base = plan.base_set
        known = [manifest.code_sha256, *(entry["sha256"] for entry in manifest.other_code)]
        self._stamps = tuple(self._stamp(c) for c in known)
        self._own_stamp = self._stamp(code)
        self.computed = 0
        self.seconds = 0.0

    def _stamp(self, code: str) -> str:
        return f"{self._manifest.plan_sha256}:{self._manifest.data['sha256']}:{code}"

    def base(self) -> BatchResult:
        return self._runner.run_many([(self._base, self._plan.options)], threads=1)

    def parts(self) -> list[Rows]:
        """Every part, those that are there and those that are run now."""
        size, total = self._manifest.bindings_per_part, len(self._design.runs)
        found = [self._store.part(number, self._stamps) for number in range(-(-total // size))]
        there = sum(len(part) for part in found if part is not None)
        if there < total:
            self._share_rankings()
        started = time.monotonic()
        for number, part in enumerate(found):
            if part is None:
                begin = number * size
                done = there + self.computed
                made = self._run(begin, min(begin + size, total), done)
                self.computed += len(made)
                self._count(there + self.computed)
                self._store.put_part(number, made, self._runner.days, self._own_stamp)
                found[number] = made
        self.seconds = time.monotonic() - started
        self._count(total)
        self._progress("bindings", total, total)
        return [part for part in found if part is not None]

    def _share_rankings(self) -> None:
        """Rank once for all parts: the loosest threshold of each direction makes the table that all share."""
        loosest: dict[int, Binding] = {}
        for k in self._design.runs:
            params = self._params(int(k))
            if not params.use_asset_selection:
                continue
            now = loosest.get(params.direction)
            if now is None or (now[0].vel_div_threshold - params.vel_div_threshold) * params.direction > 0:
                loosest[params.direction] = (params, self._plan.options)
        if loosest:
            self._runner.run_many(list(loosest.values()), self._threads)

    def _params(self, k: int) -> ParameterSet:
        return binding(self._plan, self._base, self._design.points[k])

    def _run(self, begin: int, end: int, done: int) -> Rows:
        at = self._design.runs[begin:end]
        sets = [self._params(int(k)) for k in at]
        total = len(self._design.runs)
        batch = self._runner.run_many(
            [(params, self._plan.options) for params in sets],
            self._threads,
            lambda n: self._progress("bindings", done + n, total),
        )
        made = rows_of(self._plan, sets, self._design.points[at], at, batch)
        made.columns["binding"][:] = np.arange(begin, end)
        return made

    def _count(self, trials: int) -> None:
        data = self._manifest.data
        self._ledger.put(
            f"{self._manifest.plan_sha256[:16]}-{data['sha256'][:16]}",
            Entry(
                data=data["sha256"],
                first_day=data["first_day"],
                last_day=data["last_day"],
                trials=trials,
                folder=self._store.folder.name,
            ),
        )


def rows_of(
    plan: Plan, sets: list[ParameterSet], points: FloatArray, design_index: Any, batch: BatchResult
) -> Rows:
    """The results of bindings as they are kept; money in USDT, shares as fractions, NaN where none exists."""
    totals, n = batch.totals, len(sets)
    columns: dict[str, np.ndarray[Any, Any]] = {
        "binding": np.zeros(n, np.int64),
        "design_index": np.asarray(design_index, np.int64),
    }
    for k, axis in enumerate(plan.axes):
        if axis.ratio_of:
            columns[axis.column] = points[:, k].copy()
        columns[axis.name] = np.array([getattr(params, axis.name) for params in sets])
    columns["set_hash"] = np.array([params.hash() for params in sets], "S16")
    for name in ("trades", "wins", "net"):
        columns[name] = totals[name].copy()
    initial = np.array([params.initial_capital for params in sets])
    columns["roi"] = totals["net"] / initial
    columns["roi_marked"] = totals["equity"] / initial - 1.0
    for name in ("gross_profit", "gross_loss", "price_pnl", "ob_edge", "entry_fees", "exit_fees"):
        columns[name] = totals[name].copy()
    columns["fees"] = totals["entry_fees"] + totals["exit_fees"]
    columns["slippage"] = totals["slippage"].copy()
    columns["profit_factor"] = _ratio(totals["gross_profit"], totals["gross_loss"])
    columns["win_rate"] = _ratio(totals["wins"], totals["trades"])
    columns["max_drawdown"] = totals["max_drawdown"].copy()
    found = [
        sharpe_ratio(levels, start)
        for levels, start in zip(batch.daily_equity.tolist(), initial.tolist(), strict=True)
    ]
    columns["sharpe"] = np.array([np.nan if value is None else value for value in found])
    for name in ("capital", "equity", "open_position"):
        columns[name] = totals[name].copy()
    return Rows(columns, batch.daily_equity)


def _ratio(above: Any, below: Any) -> FloatArray:
    there = below > 0
    return np.asarray(np.where(there, above / np.where(there, below, 1), np.nan), np.float64)
