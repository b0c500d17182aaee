"""`run` on a live feed: held while back-filled, late scans refused, a gap told and not made up."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dolphin.domain.bar import Bar
from dolphin.domain.clock import NS_PER_S
from dolphin.domain.params import load_set
from dolphin.host.finish import JOURNAL_FILE
from dolphin.journal.store import Journal
from dolphin.market.feed import digest
from dolphin.market.scan_store import ScanStore
from dolphin.market.synthetic import SyntheticFeed
from dolphin.services.embedded import RunSettings, run
from dolphin.services.kill_switch import SWITCH_FILE, KillSwitch
from dolphin.services.live_hold import NAME, WarmupHold

STEP = 5 * NS_PER_S
WARM = 751


class LiveWalk:
    """A synthetic market as a live feed: 751 bars of the past, then bars that are due when asked for."""

    n_bars = None
    interval_ns = STEP

    def __init__(self, newest_ns: int, live_bars: int) -> None:
        inner = SyntheticFeed(seed=4, days=0.1, edge_bps=0.0, assets=8)
        self.name, self.symbols, self.rejections = "walk", inner.symbols, inner.rejections
        self.notes: list[str] = []
        self.source_id = digest({"walk": list(self.symbols)})
        self.live_bars = 0
        self._newest_ns, self._n = newest_ns, live_bars
        self._prices = [bar.prices for bar in inner.bars()]

    def bars(self, skip: int = 0) -> Iterator[Bar]:
        for k in range(WARM):
            yield Bar(self._newest_ns - (WARM - 1 - k) * STEP, self._prices[k])
        for k in range(1, self._n + 1):
            self.live_bars += 1
            yield Bar(self._newest_ns + k * STEP, self._prices[WARM + k])

    def close(self) -> None:
        """Nothing is open."""


def settings(folder: Path, **options: object) -> RunSettings:
    return RunSettings(
        feed_name="binance", set_name="gold", params=load_set("gold"), folder=folder, live=True, report=False,
        **options,  # type: ignore[arg-type]
    )  # fmt: skip


def events(folder: Path) -> list[tuple[str, str]]:
    journal = Journal.read_only(folder / JOURNAL_FILE)
    try:
        return [(kind, text) for _, kind, text in journal.events()]
    finally:
        journal.close()


def now_ns() -> int:
    return time.time_ns() // STEP * STEP


def test_entries_are_held_until_most_of_the_window_is_live(tmp_path: Path) -> None:
    heard = 0
    hold = WarmupHold(tmp_path / "switch.json", lambda: heard, 5, needed=3)
    state = hold.read()
    assert state is not None
    assert state.state == "HALT"
    assert "mostly back-filled" in state.told()
    assert hold.read() == state
    KillSwitch(tmp_path / "switch.json").engage("FLATTEN", by="me", reason="enough", now_ns=7)
    both = hold.read()
    assert both is not None
    assert both.state == "FLATTEN"
    assert NAME in both.engaged
    heard = 3
    alone = hold.read()
    assert alone is not None
    assert NAME not in alone.engaged
    KillSwitch(tmp_path / "switch.json").lift()
    assert hold.read() is None


@pytest.mark.parametrize("trade_backfilled", [False, True])
def test_a_live_run_says_what_holds_it(tmp_path: Path, trade_backfilled: bool) -> None:
    summary = run(LiveWalk(now_ns(), 5), settings(tmp_path, trade_backfilled=trade_backfilled))
    assert summary["ledger_balanced"]
    held = [text for kind, text in events(tmp_path) if kind == "kill_switch"]
    assert bool(held) is not trade_backfilled
    assert all("warm-up" in text for text in held)
    assert len(list(ScanStore(tmp_path).scans(0))) == 5
    assert not (tmp_path / SWITCH_FILE).exists()


def test_a_restart_fills_the_gap_from_its_feed_and_refuses_its_late_scans(tmp_path: Path) -> None:
    newest = now_ns()
    first = run(LiveWalk(newest - 60 * STEP, 10), settings(tmp_path))
    assert first["counts"]["scans_stale"] == 10
    second = run(LiveWalk(newest, 4), settings(tmp_path, resume=True))
    stamps = np.array([scan.timestamp_ns for scan in ScanStore(tmp_path).scans(0)])
    assert (np.diff(stamps) == STEP).all()
    assert len(stamps) == 64
    # Ten before and fifty of the gap: older than 10 s when they are decided.
    assert 47 <= second["counts"]["scans_stale"] <= 60
    assert second["ledger_balanced"]


def test_a_gap_longer_than_the_warm_up_stays_a_gap(tmp_path: Path) -> None:
    newest = now_ns()
    run(LiveWalk(newest - 2_000 * STEP, 3), settings(tmp_path))
    run(LiveWalk(newest, 2), settings(tmp_path, resume=True))
    steps = np.diff([scan.timestamp_ns for scan in ScanStore(tmp_path).scans(0)])
    assert (steps > STEP).sum() == 1
    assert steps.max() == (2_000 - WARM + 1 - 3) * STEP
