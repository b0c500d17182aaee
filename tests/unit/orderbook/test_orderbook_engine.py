"""The book engine: both ways in, getters, eviction, absence, state, and its slow twin."""

from __future__ import annotations

import inspect
import timeit
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from book_engine_twin import EngineTwin, middle, taken
from book_snapshots import S, book, hostile

from dolphin.domain.clock import day_start_ns
from dolphin.domain.errors import DataError, InvariantError
from dolphin.kernel import MODE, plain
from dolphin.orderbook import engine as engine_module
from dolphin.orderbook.constants import BARS_KEPT
from dolphin.orderbook.engine import BookEngine, BookState
from dolphin.orderbook.fold import FEATURE_NAMES
from dolphin.orderbook.snapshot import BookSnapshot
from dolphin.orderbook.values import (
    NEUTRAL_MACRO,
    NEUTRAL_MARKET,
    NEUTRAL_PLACEMENT,
    NEUTRAL_SIGNAL,
    AlphaBooks,
)

BTC, ETH, SOL = SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
BID = [30.0, 5.0, 4.0, 3.0, 2.0]
ASK = [10.0, 6.0, 4.0, 1.0, 1.0]


class Recorded:
    """A provider over bars of snapshots, five seconds apart."""

    label = "test"

    def __init__(self, start_ns: int, bars: list[dict[str, BookSnapshot | None]]) -> None:
        self.start_ns, self.bars = start_ns, bars
        self.at: dict[str, BookSnapshot | None] = {}
        self.advanced: list[int] = []

    def advance(self, now_ns: int) -> None:
        self.advanced.append(now_ns)
        self.at = self.bars[(now_ns - self.start_ns) // (5 * S)]

    def newest(self, symbol: str) -> BookSnapshot | None:
        return self.at.get(symbol)


def market(seed: int, n_bars: int, symbols: tuple[str, ...], start_ns: int = 0) -> list[dict[str, Any]]:
    """Hostile bars of hostile books, some of them silent."""
    rng = np.random.default_rng(seed)
    scale = np.exp(np.cumsum(rng.standard_normal((n_bars, len(symbols))) * 0.1, axis=0))
    bars = []
    for t in range(n_bars):
        now_ns = start_ns + t * 5 * S
        made = {s: hostile(rng, now_ns, scale[t, i]) for i, s in enumerate(symbols)}
        bars.append({} if t < 2 or 40 <= t < 44 or t == 50 else made)
    return bars


def everything(engine: BookEngine, bar: int) -> dict[str, Any]:
    return {
        "market": engine.get_market(bar)._asdict() | engine.get_macro(bar)._asdict(),
        "features": {
            s: engine.get_placement(s, bar)._asdict() | engine.get_signal(s, bar)._asdict()
            for s in engine.symbols
        },
    }


def same_books(a: AlphaBooks | None, b: AlphaBooks | None) -> bool:
    if a is None or b is None:
        return a is b
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("host", [lambda kernel: kernel, plain], ids=["as run", "plain"])
@pytest.mark.parametrize(("n", "seed"), [(1, 0), (3, 1), (8, 2)])
def test_the_engine_is_its_slow_twin_bit_for_bit(n: int, seed: int, host: Callable[[Any], Any]) -> None:
    symbols = tuple(f"A{i}USDT" for i in range(n))
    engine, twin = BookEngine(symbols, host), EngineTwin(list(symbols))
    counts = np.zeros(5, np.int64)
    for t, books in enumerate(market(seed, 220, symbols)):
        report = engine.step_live(t, t * 5 * S, books.get)
        counts += [report.n_fresh, report.n_missing, report.n_stale, report.n_refused, report.n_hidden]
        expected = twin.step(t * 5 * S, books)
        got = everything(engine, t)
        assert got["features"] == expected["features"], t
        degraded = got["market"].pop("degraded")
        assert got["market"] == expected["market"], t
        assert report.present == engine.present == (not degraded) == expected["present"], t
    assert (counts > 0).all(), counts


def test_step_live_fetches_each_symbol_once() -> None:
    asked: list[str] = []

    def newest(symbol: str) -> BookSnapshot:
        asked.append(symbol)
        return book(BID, ASK)

    report = BookEngine(SYMBOLS).step_live(0, 0, newest)
    assert asked == list(SYMBOLS)
    assert report == (0, 3, 0, 0, 0, 0, True, ())


def test_step_live_fills_the_placement_cache() -> None:
    engine = BookEngine(SYMBOLS)
    engine.step_live(7, 0, {ETH: book(BID, ASK)}.get)
    placement = engine.get_placement(ETH, 7)
    assert placement == (40.0, 1.0, 0.5, 100.0 * (1.0 - 40.0 / 66.0), 100.0)
    assert not placement.visible
    assert engine.get_placement(BTC, 7) == NEUTRAL_PLACEMENT


def test_step_live_fills_the_signal_cache() -> None:
    engine = BookEngine(SYMBOLS)
    engine.step_live(0, 0, {ETH: book(BID, ASK)}.get)
    engine.step_live(1, 0, {ETH: book(ASK, BID)}.get)
    lean = 22.0 / 66.0
    assert engine.get_signal(ETH, 0) == (lean, lean, 1.0, 20.0 / 40.0 - 2.0 / 26.0, 0.0)
    assert engine.get_signal(ETH, 1) == (-lean, 0.0, 0.5, -20.0 / 40.0 + 2.0 / 26.0, 0.0)
    assert engine.get_signal(BTC, 1) == NEUTRAL_SIGNAL


def test_step_live_computes_market_features() -> None:
    engine = BookEngine(SYMBOLS)
    level = [1.0] * 5
    engine.step_live(0, 0, {BTC: book(BID, ASK), ETH: book(BID, BID), SOL: book([3.0] * 5, level)}.get)
    assert engine.get_market(0) == (22.0 / 66.0, 2.0 / 3.0, 22.0 / 66.0 + 0.0 + 0.5, 3, False)
    assert engine.get_macro(0) == (0.0, 0.0, 0, -1)
    half = [b / 2 for b in BID]
    engine.step_live(1, 0, {BTC: book(half, half), ETH: book(half, half)}.get)
    found = engine.get_macro(1)
    assert found.cascade_count == 1  # -25 % and -50 %
    assert found.regime_signal == 1
    assert found.depth_velocity < 0.0
    assert found.acceleration == found.depth_velocity
    # the mean of the two middles of an even count
    assert engine.get_market(1)[:3] == (0.0, 1.0, 0.0)


def test_step_live_skips_none() -> None:
    engine = BookEngine(SYMBOLS)
    report = engine.step_live(0, 0, {BTC: None, ETH: book(BID, ASK)}.get)
    assert (report.n_fresh, report.n_missing) == (1, 2)
    assert report.notices == ()
    assert engine.get_market(0).n_assets == 1


def test_step_live_warns_when_stale() -> None:
    engine = BookEngine(SYMBOLS)
    books = {s: book(BID, ASK, 0) for s in SYMBOLS}
    assert engine.step_live(0, 5 * S, books.get).notices == ()
    stale = engine.step_live(1, 5 * S + 1, books.get)
    assert (stale.n_fresh, stale.n_stale, stale.present) == (0, 3, True)
    assert len(stale.notices) == 1
    assert "BTCUSDT, ETHUSDT, SOLUSDT" in stale.notices[0]
    assert engine.step_live(2, 6 * S, books.get).notices == ()
    gone = engine.step_live(3, 7 * S, books.get)
    assert not gone.present
    assert len(gone.notices) == 1
    assert "3 bars" in gone.notices[0]
    assert engine.step_live(4, 8 * S, books.get).notices == ()
    assert engine.alpha_books() is None
    assert engine.alpha_books(2) is not None
    back = engine.step_live(5, 9 * S, {BTC: book(BID, ASK, 9 * S)}.get)
    assert back.present
    assert back.notices == ("books: back after 4 bars without any snapshot",)
    # a clock behind the book's own says as little about its age
    assert engine.step_live(6, 9 * S, {BTC: book(BID, ASK, 15 * S)}.get).n_stale == 1


def test_many_assets_that_turn_at_once_are_one_line() -> None:
    symbols = tuple(f"A{i}" for i in range(9))
    engine = BookEngine(symbols)
    first = engine.step_live(0, 0, {s: book(BID, [-1.0]) for s in symbols}.get)
    assert first.notices[0].startswith("books of A0, A1, A2, A3, A4 and 4 more: ")
    assert "finite" in first.notices[0]
    hidden = engine.step_live(1, 0, {s: book([], ASK, visible=(0.0, 0.0, 0.0)) for s in symbols}.get)
    assert "shows nothing" in hidden.notices[0]


def test_books_are_absent_before_the_first_snapshot() -> None:
    engine = BookEngine(SYMBOLS)
    assert not engine.present
    assert engine.alpha_books() is None
    assert engine.last_bar == -1
    notices = [engine.step_live(t, 0, {}.get).notices for t in range(5)]
    assert [len(lines) for lines in notices] == [0, 0, 1, 0, 0]
    assert engine.alpha_books() is None
    assert engine.get_market(4).degraded


def test_evicts_after_501_bars() -> None:
    engine = BookEngine((BTC,))
    kept = BARS_KEPT
    for t in range(kept + 1):
        engine.step_live(t, t, {BTC: book([float(t + 1), *BID[1:]], ASK, t)}.get)
        if t == kept - 1:
            assert engine.get_placement(BTC, 0).depth_1pct_usd == 11.0
    state = engine.state()
    assert len(state.bars) == kept
    assert state.bars[0] == 1
    assert engine.get_placement(BTC, 1).depth_1pct_usd == 12.0
    assert engine.get_placement(BTC, 0) == engine.get_placement(BTC, kept)
    rows = engine._rows
    for t in range(kept + 1, kept + 40):
        engine.step_live(t, t, {BTC: book(BID, ASK, t)}.get)
    assert engine._rows is rows
    assert len(engine._bars) == len(engine._instants_ns) == kept


def test_index_resolution_live_and_fallback() -> None:
    engine = BookEngine((BTC,))
    assert engine.get_placement(BTC, 3) == NEUTRAL_PLACEMENT
    assert engine.get_signal(BTC, 3) == NEUTRAL_SIGNAL
    assert engine.get_market(3) == NEUTRAL_MARKET
    assert engine.get_macro(3) == NEUTRAL_MACRO
    for t, depth in ((10, 1.0), (12, 2.0), (20, 3.0)):
        engine.step_live(t, t * S, {BTC: book([depth, *BID[1:]], [0.0, *ASK[1:]], t * S)}.get)
    depths = {bar: engine.get_placement(BTC, bar).depth_1pct_usd for bar in (10, 11, 12, 19, 20, 99)}
    assert depths == {10: 1.0, 11: 1.0, 12: 2.0, 19: 2.0, 20: 3.0, 99: 3.0}
    assert engine.get_placement(BTC, 9).depth_1pct_usd == 3.0  # live: the latest known one
    assert engine.get_placement("NOSUCH", 20) == NEUTRAL_PLACEMENT
    assert engine.get_signal("NOSUCH", 20) == NEUTRAL_SIGNAL


def test_a_replay_never_reads_a_later_bar() -> None:
    start = day_start_ns("2024-07-18")
    bars = market(5, 120, SYMBOLS, start)
    provider = Recorded(start, bars)
    engine = BookEngine(SYMBOLS)
    instants = start + np.arange(120) * 5 * S
    engine.preload_date("2024-07-18", np.arange(100, 220), instants, provider)
    assert engine.get_placement(BTC, 99) == NEUTRAL_PLACEMENT
    assert engine.get_signal(BTC, 99) == NEUTRAL_SIGNAL
    assert engine.get_market(99) == NEUTRAL_MARKET
    assert engine.get_macro(99) == NEUTRAL_MACRO
    assert engine.alpha_books(99) is None
    assert engine.get_macro_at(start - 1) == NEUTRAL_MACRO
    assert len({engine.get_macro(t) for t in range(100, 220)}) > 3
    for t in range(120):
        assert engine.get_macro_at(start + t * 5 * S) == engine.get_macro(100 + t)
        assert engine.get_macro_at(start + t * 5 * S + 1) == engine.get_macro(100 + t)


def test_a_clock_set_back_makes_no_value_known_earlier() -> None:
    engine = BookEngine((BTC,))
    for t, (now_ns, depth) in enumerate(((10, 1.0), (5, 2.0))):
        engine.step_live(t, now_ns, {BTC: book([depth] * 5, [depth] * 5, now_ns)}.get)
    assert engine.get_macro_at(9) == NEUTRAL_MACRO
    assert engine.get_macro_at(10) == engine.get_macro(1)


def test_median_depth_ema_converges() -> None:
    engine = BookEngine((BTC,))
    engine.step_live(0, 0, {BTC: book([1000.0, *BID[1:]], ASK)}.get)
    qualities = []
    for t in range(1, 1500):
        engine.step_live(t, t, {BTC: book([190.0, *BID[1:]], ASK, t)}.get)
        qualities.append(engine.get_placement(BTC, t).depth_quality)
    assert np.diff(qualities).min() > -1e-12
    assert qualities[0] == pytest.approx(200.0 / (0.99 * 1010.0 + 0.01 * 200.0))
    assert qualities[-1] == pytest.approx(1.0, abs=1e-5)


def preloaded_and_live(seed: int) -> tuple[BookEngine, BookEngine, list[Any], list[dict[str, Any]]]:
    start = day_start_ns("2024-07-18")
    bars = market(seed, 150, SYMBOLS, start)
    provider = Recorded(start, bars)
    day, live = BookEngine(SYMBOLS), BookEngine(SYMBOLS)
    instants = start + np.arange(150) * 5 * S
    day.preload_date("2024-07-18", np.arange(150), instants, provider)
    reports = []
    for t, instant in enumerate(instants.tolist()):
        provider.advance(instant)
        reports.append(live.step_live(t, instant, provider.newest))
    return day, live, reports, bars


def test_a_preloaded_day_is_the_live_one_but_for_the_reference_depth() -> None:
    day, live, reports, _ = preloaded_and_live(3)
    changed = set()
    for t in range(150):
        a, b = everything(day, t), everything(live, t)
        for symbol in SYMBOLS:
            changed |= {k for k, v in a["features"][symbol].items() if v != b["features"][symbol][k]}
        changed |= {k for k, v in a["market"].items() if v != b["market"][k]}
        assert (day.alpha_books(t) is not None) == reports[t].present
    assert changed == {"depth_quality", "fill_probability", "depth_velocity", "acceleration"}
    # references that stand still do not move their mean, whoever joins or changes reach
    assert max(abs(day.get_macro(t).depth_velocity) for t in range(150)) < 1e-14


def test_the_reference_of_a_preloaded_day_is_the_median_of_its_depths() -> None:
    day, live, _, bars = preloaded_and_live(4)
    depths = {}
    for t in range(150):
        for symbol in SYMBOLS:
            if seen(live, bars, t, symbol):
                placement = live.get_placement(symbol, t)
                depths.setdefault((symbol, placement.reach_bps), []).append(placement.depth_1pct_usd)
    checked = 0
    for t in range(150):
        for symbol in SYMBOLS:
            if seen(live, bars, t, symbol):
                got = day.get_placement(symbol, t)
                reference = middle(depths[symbol, got.reach_bps])
                expected = got.depth_1pct_usd / reference if reference > 0 else 0.0
                assert got.depth_quality == expected
                checked += 1
    assert checked > 200
    assert len(depths) > 6


def seen(engine: BookEngine, bars: list[dict[str, Any]], t: int, symbol: str) -> bool:
    """Whether the asset's snapshot counted on a bar, by the twin's own judgement."""
    return not isinstance(taken(bars[t].get(symbol), engine._instants_ns[t]), str)


def test_a_day_goes_on_from_the_day_before() -> None:
    start = day_start_ns("2024-07-18")
    days = [start, day_start_ns("2024-07-19")]
    engine = BookEngine(SYMBOLS)
    for k, begin in enumerate(days):
        provider = Recorded(begin, market(k, 80, SYMBOLS, begin))
        report = engine.preload_date(
            f"2024-07-{18 + k}", np.arange(80) + 80 * k, begin + np.arange(80) * 5 * S, provider
        )
        assert report.n_bars == 80
        assert report.n_absent > 0
        assert report.notices
        assert len(provider.advanced) == 160
    assert engine.get_placement(BTC, 79) == NEUTRAL_PLACEMENT
    live = engine.step_live(160, days[1] + 400 * S, {BTC: book(BID, ASK, days[1] + 400 * S)}.get)
    assert live.present
    assert engine.get_placement(BTC, 3) == engine.get_placement(BTC, 160)


@pytest.mark.parametrize(
    ("bars", "instants", "what"),
    [
        ([0, 1], [0], "2,"),
        ([], [], "0,"),
        ([1, 1], [0, 1], "must grow"),
        ([1, 2], [1, 1], "must grow"),
        ([0, 1], [0, 86_400 * S], "2024-07-19"),
        ([0, 1], [-1, 0], "2024-07-17"),
    ],
)
def test_a_day_that_is_none_is_refused(bars: list[int], instants: list[int], what: str) -> None:
    start = day_start_ns("2024-07-18")
    provider = Recorded(start, [{}])
    with pytest.raises(DataError, match=what):
        BookEngine(SYMBOLS).preload_date(
            "2024-07-18", np.array(bars, np.int64), np.array(instants, np.int64) + start, provider
        )


def test_bars_must_grow() -> None:
    engine = BookEngine(SYMBOLS)
    engine.step_live(3, 0, {}.get)
    with pytest.raises(DataError, match="bar 3 do not come after those of bar 3"):
        engine.step_live(3, 1, {}.get)
    start = day_start_ns("2024-07-18")
    with pytest.raises(DataError, match="do not come after"):
        engine.preload_date("2024-07-18", np.array([2]), np.array([start]), Recorded(start, [{}]))


@pytest.mark.parametrize("bars_carried", [1, 500])
def test_restoring_and_going_on_equals_never_having_stopped(bars_carried: int) -> None:
    bars = market(9, 160, SYMBOLS)
    whole = BookEngine(SYMBOLS)
    for stop in (0, 1, 43, 90):
        engine = BookEngine(SYMBOLS)
        for t in range(stop):
            engine.step_live(t, t * 5 * S, bars[t].get)
        state = engine.state(bars_carried)
        assert engine.withdrawals() == restored(state).withdrawals()
        engine = restored(state)
        whole = BookEngine(SYMBOLS)
        for t in range(160):
            expected = whole.step_live(t, t * 5 * S, bars[t].get)
            if t >= stop:
                assert engine.step_live(t, t * 5 * S, bars[t].get) == expected
                assert everything(engine, t) == everything(whole, t)
                assert same_books(engine.alpha_books(), whole.alpha_books())
                assert engine.withdrawals() == whole.withdrawals()
        if bars_carried == 500:
            assert engine.state() == whole.state()
            assert everything(engine, 17) == everything(whole, 17)


def restored(state: BookState) -> BookEngine:
    engine = BookEngine(state.symbols)
    engine.restore(state)
    return engine


def test_a_preloaded_day_is_restored_whole() -> None:
    day, _, _, _ = preloaded_and_live(3)
    copy = restored(day.state(1000))
    assert copy.get_placement(BTC, -1) == NEUTRAL_PLACEMENT
    assert [everything(copy, t) for t in range(150)] == [everything(day, t) for t in range(150)]


def test_a_state_of_another_universe_is_refused_and_changes_nothing() -> None:
    import msgspec

    engine = BookEngine(SYMBOLS)
    engine.step_live(0, 0, {BTC: book(BID, ASK)}.get)
    good = engine.state()
    with pytest.raises(InvariantError, match="universe of 1"):
        BookEngine((BTC,)).restore(good)
    for wrong in (
        msgspec.structs.replace(good, rows=good.rows[:-8]),
        msgspec.structs.replace(good, past={}),
        msgspec.structs.replace(good, instants_ns=()),
    ):
        with pytest.raises(InvariantError, match="bytes, expected"):
            engine.restore(wrong)
    assert engine.state() == good


def test_withdrawals_are_those_of_assets_just_seen() -> None:
    engine = BookEngine(SYMBOLS)
    assert engine.withdrawals() == []
    engine.step_live(0, 0, {BTC: book(BID, ASK), ETH: book(BID, ASK)}.get)
    engine.step_live(1, 0, {BTC: book([10.0, 0, 0, 0, 0], ASK)}.get)
    assert engine.withdrawals() == [-0.5]


def test_alpha_books_are_copies_by_universe_order() -> None:
    engine = BookEngine(SYMBOLS)
    engine.step_live(0, 0, {ETH: book(BID, ASK)}.get)
    books = engine.alpha_books()
    assert books is not None
    lean = 22.0 / 66.0
    assert books[:5] == (True, lean, 1.0, 0, -1)
    assert books.imbalance_ma5.tolist() == [0.0, lean, 0.0]
    assert books.persistence.tolist() == [0.0, 1.0, 0.0]
    assert books.depth_quality.tolist() == [1.0, 1.0, 1.0]
    assert books.fill_probability.tolist() == [0.5, 0.5, 0.5]
    assert books.withdrawal_velocity.tolist() == [0.0, 0.0, 0.0]
    books.depth_quality[:] = 9.0
    assert engine.get_placement(ETH, 0).depth_quality == 1.0


@pytest.mark.parametrize(("n", "leaning", "regime"), [(5, 3, 0), (8, 5, -1)])
def test_calm_needs_more_than_six_of_ten_to_agree(n: int, leaning: int, regime: int) -> None:
    symbols = tuple(f"A{i}" for i in range(n))
    engine = BookEngine(symbols)
    books = {s: book(BID, ASK) if i < leaning else book(ASK, BID) for i, s in enumerate(symbols)}
    engine.step_live(0, 0, books.get)
    assert engine.get_market(0).agreement_pct == leaning / n
    assert engine.get_macro(0).regime_signal == regime


@pytest.mark.parametrize(("age_ns", "n_fresh"), [(5 * S, 1), (-5 * S, 1), (5 * S + 1, 0), (-5 * S - 1, 0)])
def test_a_snapshot_counts_within_five_seconds_of_the_bar(age_ns: int, n_fresh: int) -> None:
    report = BookEngine((BTC,)).step_live(0, 50 * S, {BTC: book(BID, ASK, 50 * S - age_ns)}.get)
    assert (report.n_fresh, report.n_stale) == (n_fresh, 1 - n_fresh)


def test_the_references_of_two_days_are_not_compared() -> None:
    engine = BookEngine((BTC,))
    for k, depth in enumerate((100.0, 300.0)):
        start = day_start_ns("2024-07-18") + k * 86_400 * S
        provider = Recorded(start, [{BTC: book([depth] * 5, ASK, start + t * 5 * S)} for t in range(3)])
        instants = start + np.arange(3) * 5 * S
        engine.preload_date(f"2024-07-{18 + k}", np.arange(3) + 3 * k, instants, provider)
        assert [engine.get_macro(3 * k + t)[:2] for t in range(3)] == [(0.0, 0.0)] * 3
    # its depths are: they are known on the bar
    assert engine.get_signal(BTC, 3).withdrawal_velocity == (310.0 - 110.0) / 110.0


def test_an_asset_that_a_preloaded_day_never_shows_is_left_out_of_its_mean() -> None:
    engine = BookEngine((BTC, ETH))
    first, second = day_start_ns("2024-07-18"), day_start_ns("2024-07-19")
    both = [dict.fromkeys((BTC, ETH), book(BID, ASK, first + t * 5 * S)) for t in range(3)]
    alone = [{BTC: book([30.0 + 10.0 * t, *BID[1:]], ASK, second + t * 5 * S)} for t in range(3)]
    engine.preload_date("2024-07-18", np.arange(3), first + np.arange(3) * 5 * S, Recorded(first, both))
    engine.preload_date("2024-07-19", np.arange(3, 6), second + np.arange(3) * 5 * S, Recorded(second, alone))
    macros = [engine.get_macro(bar) for bar in range(6)]
    # A day's reference is one number, and so is their mean.
    assert [macro[:2] for macro in macros] == [(0.0, 0.0)] * 6


def test_what_was_taken_may_be_changed_afterwards() -> None:
    """A host keeps the arrays that it read, and may read into them again."""
    engine, other = BookEngine((BTC, ETH)), BookEngine((BTC, ETH))
    for t in range(2):
        books = {BTC: book([10.0 - t, *BID[1:]], ASK)}
        arrivals = engine.read(0, books.get)
        engine.take(t, 0, arrivals)
        other.step_live(t, 0, books.get)
        arrivals.status[:] = 0
        arrivals.bid[:] = 7.0
    assert engine.withdrawals() == other.withdrawals()
    assert engine.state() == other.state()


def test_the_features_are_the_newest_of_each_asset_and_a_copy() -> None:
    engine = BookEngine(SYMBOLS)
    engine.step_live(0, 0, {ETH: book(BID, ASK)}.get)
    engine.step_live(1, 0, {BTC: book(ASK, BID)}.get)
    features = engine.features()
    for i, symbol in enumerate(SYMBOLS):
        expected = (*engine.get_placement(symbol, 1), *engine.get_signal(symbol, 1))
        assert tuple(features[:, i].tolist()) == expected
    assert engine.fresh().tolist() == [True, False, False]
    features[:] = 9.0
    assert (engine.features() != 9.0).all()


def test_no_read_of_the_engine_can_block() -> None:
    """Everything on the decision path is pure: the module knows no lock, clock, file or socket to wait on."""
    import ast

    imported = set()
    for module in (engine_module, inspect.getmodule(engine_module.read_snapshots)):
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").split(".")[0])
    assert imported == {"__future__", "bisect", "collections", "typing", "msgspec", "numpy", "dolphin"}


@pytest.mark.skipif(MODE != "compiled", reason="figures of the compiled form")
def test_getters_and_steps_are_fast() -> None:
    """The documented bounds, several times what was measured; the best of five, for a busy machine."""
    symbols = tuple(f"A{i}" for i in range(50))
    engine = BookEngine(symbols)
    books = {s: book(BID, ASK) for s in symbols}
    engine.step_live(0, 0, books.get)
    bars = iter(range(1, 10_000))
    step = min(timeit.repeat(lambda: engine.step_live(next(bars), 0, books.get), number=50, repeat=5)) / 50
    assert step < 1e-3
    for read in (
        lambda: engine.get_placement("A7", 120),
        lambda: engine.get_signal("A7", 120),
        lambda: engine.get_market(120),
        lambda: engine.get_macro(120),
        lambda: engine.get_macro_at(0),
    ):
        assert min(timeit.repeat(read, number=500, repeat=5)) / 500 < 10e-6


def test_feature_names_are_those_of_the_getters() -> None:
    from dolphin.orderbook.values import Placement, Signal

    assert (*Placement._fields, *Signal._fields) == FEATURE_NAMES
