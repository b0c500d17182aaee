"""Running a sweep: the plan's bindings over a cache's days, part by part, on all cores.

Entry point: `sweep`.

1. Rows do not depend on the number of threads, on the size of parts, on pieces, nor on kills between.
2. A combination that breaks a rule is counted and listed with the rule; it is no trial.
3. The ledger of trials is written before a part gets its name: what anybody can have seen is counted.

A period that does not fit into memory is run in pieces, pieces outside and parts inside. Laying out a piece
and ranking it costs as much as running hundreds of bindings over it, so it is done once for all parts; the
other order would do it once a part. So that a kill loses no more than the part at work all the same, a part
that has gone through a piece is written down: where its bindings stand (some 6 kB each, less on the disk) and
their daily equity. One part's bindings are in the memory at a time, however many there are. The pieces of a
resumed sweep are cut where parts stand, whatever the memory is now; those that all parts are through are laid
out once more, for the price histories and for the base set.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from dolphin import __version__
from dolphin.backtest.period import BatchResult, Binding, Carry, PeriodRunner
from dolphin.backtest.sweep.design import Enumerated, binding, enumerated
from dolphin.backtest.sweep.pieces import MEMORY_MAX, Period, Progress, joined_days, shared_by
from dolphin.backtest.sweep.plan import Plan
from dolphin.backtest.sweep.store import (
    REFUSED,
    Carried,
    Manifest,
    Rows,
    SweepStore,
    canonical_bytes,
    joined,
)
from dolphin.backtest.sweep.trials import Entry, TrialLedger
from dolphin.domain.bar import FloatArray, IntArray
from dolphin.domain.errors import StoreError
from dolphin.domain.params import ParameterSet
from dolphin.engine.engine import Snapshot
from dolphin.host.summary import sharpe_ratio
from dolphin.market.cache_format import put_bytes
from dolphin.market.scan_cache import CacheReader

#: Bindings of one part: a fraction of a second to a minute of work.
BINDINGS_PER_PART: Final = 500
#: What decides a row, below the package's folder.
_CODE: Final = (
    "kernel.py", "domain", "numerics", "alpha", "engine", "host/draws.py", "host/summary.py",
    "market/cache_format.py", "market/scan_cache.py", "market/columns.py", "backtest/period.py",
    "backtest/sweep",
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Sweep:
    """A finished sweep.

    rows : every binding in the order of the plan. base : the base set's row and daily equity, run beside the
    plan. trials_ledger : trials of all sweeps on any of these days, this one among them. computed : bindings
    that this call ended, the others were there. ran : whole bindings that its work comes to, less than that
    where some were on their way. seconds : that the bindings took, without layouts and rankings.
    """

    plan: Plan
    manifest: Manifest
    period: Period
    design: Enumerated
    days: tuple[str, ...]
    notes: tuple[str, ...]
    rows: Rows
    base: Rows
    trials_ledger: int
    ledger_path: Path
    computed: int
    ran: float
    seconds: float

    def params(self, k: int) -> ParameterSet:
        """The parameter set of row k."""
        return binding(self.plan, self.plan.base_set, self.design.points[self.design.runs[k]])


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


def data_of(cache: CacheReader, period: Period) -> dict[str, Any]:
    """What the sweep ran over; its sha256 covers universe, days and every day's file."""
    days = [[day, cache.manifest.days[day].sha256] for day in period.days]
    content = json.dumps([cache.manifest.universe_id, list(period.symbols), days])
    return {
        "sha256": hashlib.sha256(content.encode()).hexdigest(),
        "source": cache.manifest.source,
        "universe": cache.manifest.universe_id,
        "first_day": period.days[0],
        "last_day": period.days[-1],
        "days": len(period.days),
        "bars": period.n_bars,
        "assets": len(period.symbols),
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
    memory : bytes that the period may take; a longer one is run in pieces of whole days
    progress : gets a phase, what is done and how much there is
    bindings_per_part : of a new folder; one that is there keeps its own

    Raises
    ------
    DataError
        For days that are not there or not whole, and where not even one fits.
    StoreError
        For a folder that holds another sweep or is in use, and from the disk.
    ConfigError
        Where no combination keeps the rules.
    """
    store = SweepStore(folder)
    design = enumerated(plan)
    in_part = min(bindings_per_part, len(design.runs))
    period = Period(plan, cache, memory, shared_by(plan, design), in_part, progress)
    with store.held():
        wanted = Manifest(
            plan=plan.canonical(),
            plan_sha256=plan.digest(),
            data=data_of(cache, period),
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
        job = _Job(plan, design, period, store, manifest, ledger, threads, progress, wanted.code_sha256)
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
        store.end_carried()
    rows = joined(parts)
    base = rows_of(plan, [plan.base_set], np.zeros((1, len(plan.axes))), np.zeros(1, np.int64), job.base)
    if list(rows.columns) != list(base.columns):
        raise StoreError(
            f"{folder}: was written by {manifest.version} with other columns than {__version__} has; read its"
            " Parquet files as they are, or choose another --out"
        )
    data = manifest.data
    return Sweep(
        plan=plan,
        manifest=manifest,
        period=period,
        design=design,
        days=period.days,
        notes=period.notes,
        rows=rows,
        base=base,
        trials_ledger=max(len(rows), ledger.total(data["first_day"], data["last_day"])),
        ledger_path=ledger.path,
        computed=job.computed,
        ran=job.bars_run / period.n_bars,
        seconds=job.seconds,
    )


class _Job:
    """The parts of one sweep while they are run."""

    def __init__(
        self,
        plan: Plan,
        design: Enumerated,
        period: Period,
        store: SweepStore,
        manifest: Manifest,
        ledger: TrialLedger,
        threads: int | None,
        progress: Progress,
        code: str,
    ) -> None:
        self._plan, self._design, self._period, self._store = plan, design, period, store
        self._manifest, self._ledger, self._threads, self._progress = manifest, ledger, threads, progress
        self._base = plan.base_set
        known = [manifest.code_sha256, *(entry["sha256"] for entry in manifest.other_code)]
        self._stamps = tuple(self._stamp(c) for c in known)
        self._own_stamp = self._stamp(code)
        self._size, self._total = manifest.bindings_per_part, len(design.runs)
        self._found: list[Rows | None] = []
        self._next: dict[int, int] = {}  # of a part that is not whole yet: the piece to run
        self._seen = 0  # bindings of parts that stand anywhere on the disk
        self._loosest: list[Binding] = []
        self._base_carries: tuple[Carry, ...] = ()
        self._base_days: tuple[str, ...] = ()
        self._base_daily = np.zeros((1, 0))
        self.base = BatchResult(np.zeros(0), np.zeros((0, 0)))
        self.computed = 0
        self.seconds = 0.0
        self.bars_run = 0  # bars times bindings
        self._bars_there = 0

    def _stamp(self, code: str) -> str:
        return f"{self._manifest.plan_sha256}:{self._manifest.data['sha256']}:{code}"

    def parts(self) -> list[Rows]:
        """Every part, those that are there and those that are run now; then `base` is there, too."""
        self._look()
        self._period.walk(self._piece)
        self._count(self._total)
        self._progress("bindings", self._total, self._total)
        return [part for part in self._found if part is not None]

    def _look(self) -> None:
        """Find what is on the disk, and cut the period where parts stand."""
        period = self._period
        self._found = [self._store.part(k, self._stamps) for k in range(-(-self._total // self._size))]
        stand: dict[int, str] = {}
        for number, part in enumerate(self._found):
            if part is not None:
                self._store.drop_carried(number)
                self._seen += len(part)
                self._bars_there += len(part) * period.n_bars
                continue
            carried = self._store.carried(number, self._stamps)
            if carried is not None and carried.through in period.days[:-1]:
                stand[number] = carried.through
                self._seen += len(carried.carries)
        period.cut(min(self._size, self._total), set(stand.values()))
        after = {period.last_day(k): k + 1 for k in range(len(period.pieces))}
        for number, part in enumerate(self._found):
            if part is None:
                self._next[number] = after[stand[number]] if number in stand else 0
                n = len(self._at(number))
                self.computed += n
                self._bars_there += n * sum(period.bars_of(k) for k in range(self._next[number]))
        if self._next:
            self._loosest = self._loosest_of()

    def _piece(self, k: int, runner: PeriodRunner) -> Snapshot | None:
        """Run every part that has come to piece k over it, and the base set."""
        last = k == len(self._period.pieces) - 1
        due = [number for number, piece in self._next.items() if piece == k]
        if due and self._loosest:
            runner.run_many(self._loosest, self._threads)
        started = time.monotonic()
        for number in due:
            self._part(number, k, runner, last)
        self.seconds += time.monotonic() - started
        base = (self._base, self._plan.options)
        batch = runner.run_many([base], threads=1, carries=self._base_carries, keep=not last)
        self._base_carries = batch.carries
        self._base_days, self._base_daily = joined_days(
            self._base_days, self._base_daily, runner.days, batch.daily_equity
        )
        self.base = BatchResult(batch.totals, self._base_daily)
        return None if last else runner.run(*base).state

    def _part(self, number: int, k: int, runner: PeriodRunner, last: bool) -> None:
        """Run a part over piece k and write it down: its rows after the last piece, where it stands else."""
        at = self._at(number)
        sets = [self._params(int(place)) for place in at]
        days: tuple[str, ...] = ()
        daily = np.zeros((len(at), 0))
        carries: tuple[Carry, ...] = ()
        if k > 0:
            carried = self._store.carried(number, self._stamps)
            if carried is None or carried.through != self._period.last_day(k - 1):
                raise StoreError(
                    f"{self._store.folder}: where part {number} stood was changed meanwhile; run it again"
                )
            days, daily, carries = carried.days, carried.daily, carried.carries
        n_bars = self._period.n_bars
        before, bars = self._bars_there + self.bars_run, runner.n_bars
        batch = runner.run_many(
            [(params, self._plan.options) for params in sets],
            self._threads,
            lambda n: self._progress("bindings", (before + n * bars) // n_bars, self._total),
            carries=carries,
            keep=not last,
        )
        self.bars_run += len(at) * bars
        if k == 0:
            self._seen += len(at)
        days, daily = joined_days(days, daily, runner.days, batch.daily_equity)
        self._count(self._seen)
        if not last:
            through = self._period.last_day(k)
            self._store.put_carried(number, Carried(through, batch.carries, days, daily), self._own_stamp)
            self._next[number] = k + 1
            return
        made = rows_of(self._plan, sets, self._design.points[at], at, BatchResult(batch.totals, daily))
        made.columns["binding"][:] = np.arange(len(at)) + number * self._size
        self._store.put_part(number, made, days, self._own_stamp)
        self._found[number] = made
        self._store.drop_carried(number)

    def _loosest_of(self) -> list[Binding]:
        """Bindings that make the rankings for all parts: the loosest threshold of each direction."""
        loosest: dict[int, Binding] = {}
        for k in self._design.runs:
            params = self._params(int(k))
            if not params.use_asset_selection:
                continue
            now = loosest.get(params.direction)
            if now is None or (now[0].vel_div_threshold - params.vel_div_threshold) * params.direction > 0:
                loosest[params.direction] = (params, self._plan.options)
        return list(loosest.values())

    def _at(self, number: int) -> IntArray:
        """Positions in the design of a part's bindings."""
        return self._design.runs[number * self._size : (number + 1) * self._size]

    def _params(self, k: int) -> ParameterSet:
        return binding(self._plan, self._base, self._design.points[k])

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
