"""The step's own kernels, on states made by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from dolphin.domain import codes
from dolphin.domain.params import CHAMPION, GREEN, ParameterSet
from dolphin.engine import entry, holding, record
from dolphin.engine import state as st
from dolphin.engine import step as k

OPTIONS = st.EngineOptions()


def bar(
    vel_div: float = -0.03, *, vol_ok: bool = True, refusal: int = codes.REASON_NONE, n: int = 2
) -> st.BarInput:
    return st.BarInput(vel_div, 0.0, 0.0, vol_ok, refusal, 1.0, np.full(n, math.nan), np.zeros(n, np.bool_))


def test_prices_are_appended_where_there_are_any() -> None:
    s = st.new_state(5, 1.0)
    k.append_prices(s, np.array([1.5, math.nan, 0.0, -2.0, 5e-324]))
    assert s.n_prices.tolist() == [1, 0, 0, 0, 1]
    assert s.prices[0, 0] == 1.5
    assert s.prices[0, 4] == 5e-324


def test_a_history_past_500_keeps_the_last_200() -> None:
    s = st.new_state(1, 1.0)
    for i in range(1, 501):
        k.append_prices(s, np.array([float(i)]))
    assert s.n_prices[0] == 500
    assert s.prices[:500, 0].tolist() == [float(i) for i in range(1, 501)]
    k.append_prices(s, np.array([501.0]))
    assert s.n_prices[0] == 200
    assert s.prices[:200, 0].tolist() == [float(i) for i in range(302, 502)]
    k.append_prices(s, np.array([502.0]))
    assert s.prices[:201, 0].tolist() == [float(i) for i in range(302, 503)]


def test_the_proxy_is_ranked_among_the_last_500() -> None:
    s = st.new_state(1, 1.0)
    seen: list[float] = []
    rng = np.random.default_rng(1)
    for _ in range(620):
        instability, velocity = (float(x) for x in rng.integers(0, 9, 2))
        k.proxy_update(s, instability, velocity)
        seen = [*seen, instability - velocity][-500:]
        rank = (sum(x < seen[-1] for x in seen) + 0.5 * sum(x == seen[-1] for x in seen)) / len(seen)
        assert s.floats[st.PROXY_SCALE] == min(max(1.0 + 0.4 * (rank - 0.5), 0.8), 1.2)
    assert s.ints[st.PROXY_COUNT] == 620


def test_the_first_proxy_is_its_own_middle_and_nan_is_no_proxy() -> None:
    s = st.new_state(1, 1.0)
    k.proxy_update(s, 3.0, 1.0)
    assert s.floats[st.PROXY_SCALE] == 1.0
    k.proxy_update(s, 4.0, 1.0)
    assert s.floats[st.PROXY_SCALE] == 1.0 + 0.4 * (0.75 - 0.5)
    k.proxy_update(s, math.nan, 1.0)
    assert s.ints[st.PROXY_COUNT] == 2
    assert s.floats[st.PROXY_SCALE] == 1.0 + 0.4 * (0.75 - 0.5)


@pytest.mark.parametrize("n", [1, 9, 10, 11, 199, 200, 201, 450])
def test_the_trend_looks_back_over_the_ring(n: int) -> None:
    s = st.new_state(1, 1.0)
    for i in range(n):
        s.vel_divs[i % st.VEL_DIV_KEPT] = float(i * i)
    s.ints[st.BAR_COUNT] = n
    for lookback in (1, 10, 200):
        expected = 0.0 if n < lookback else float((n - 1) ** 2 - (n - lookback) ** 2)
        assert k.vel_div_trend(s, lookback) == expected


@pytest.mark.parametrize("results", ["", "L", "WL", "LLLL", "WWLLL", "LWWLLL", "LLLLLLWWWWW", "WLWLWLWLWLW"])
def test_the_last_five_results(results: str) -> None:
    s = st.new_state(1, 1.0)
    for i, word in enumerate(results):
        s.last_losses[i % 5] = 1 if word == "L" else 0
    s.ints[st.RESULTS] = len(results)
    assert entry.recent_results(s.ints, s.last_losses) == (results[-5:].count("L"), len(results[-5:]))


def books(quality: float = 1.0, **changes: object) -> st.Books:
    arrays = {name: np.full(2, 0.25) for name in st.BOOK_ARRAYS}
    values = {
        "present": True,
        "median_imbalance": 0.0,
        "agreement": 0.0,
        "cascade_count": 0,
        "regime_signal": 0,
    }
    return st.Books(**(values | arrays | {"depth_quality": np.full(2, quality)} | changes))  # type: ignore[arg-type]


def edge(params: ParameterSet, wired: st.Books, draws: Sequence[float]) -> tuple[float, int]:
    s = st.new_state(2, 1.0)
    p = st.step_params(params, ["BTCUSDT", "ETHUSDT"], OPTIONS)
    quality, fill = (wired.depth_quality[1], wired.fill_probability[1]) if wired.present else (0.0, 0.0)
    got = holding.ob_edge(p, s.ints, wired.present, quality, fill, np.array(draws))
    return got, int(s.ints[st.DRAW_POSITION])


def test_the_edge_without_books_is_one_draw() -> None:
    absent = st.absent_books(2)
    assert edge(CHAMPION, absent, [math.nextafter(0.40, 0.0)]) == (5.0 * 1e-4, 1)
    assert edge(CHAMPION, absent, [0.40]) == (0.0, 1)
    assert edge(CHAMPION.with_values({"use_ob_edge": False}), absent, [0.0]) == (0.0, 0)


def test_the_edge_with_books_is_their_fill_probability() -> None:
    assert edge(CHAMPION, books(math.nextafter(0.5, 1.0)), [0.0]) == (0.25 * 5.0 * 1e-4, 0)
    assert edge(CHAMPION, books(0.5), [0.0]) == (0.0, 0)
    assert edge(CHAMPION.with_values({"use_ob_edge": False}), books(2.0), [0.0]) == (0.0, 0)


def gate(bar_idx: int = 150, **changes: object) -> int:
    s = st.new_state(2, 25.0)
    s.ints[st.BAR_COUNT] = 100
    s.ints[st.LAST_EXIT_BAR] = 149
    given: dict[str, object] = {"vol_ok": True, "refusal": codes.REASON_NONE}
    for name, value in changes.items():
        if name == "CAPITAL":
            s.floats[st.CAPITAL] = value
        elif name in given:
            given[name] = value
        else:
            s.ints[getattr(st, name)] = value
    moment = bar(**given)  # type: ignore[arg-type]
    p = st.step_params(CHAMPION, ["BTCUSDT", "ETHUSDT"], OPTIONS)
    return entry.entry_gate(p, s.floats, s.ints, bar_idx, moment.vol_ok, moment.refusal)


#: What shuts each gate, in the order of the gates.
SHUT = [
    (codes.JUST_EXITED, {"LAST_EXIT_BAR": 150}),
    (codes.DAY_HALT, {"RED_HALT": 1}),
    (codes.POSTURE_HALT, {"POSTURE": codes.TURTLE}),
    (codes.WARMING_UP, {"BAR_COUNT": 99}),
    (codes.VOL_GATE, {"vol_ok": False}),
    (codes.STALE_SCAN, {"refusal": codes.STALE_SCAN}),
    (codes.NO_CAPITAL, {"CAPITAL": 0.0}),
]


def test_all_gates_open() -> None:
    assert gate() == codes.REASON_NONE
    assert gate(POSTURE=codes.STALKER, CAPITAL=5e-324) == codes.REASON_NONE


@pytest.mark.parametrize("first", range(len(SHUT)), ids=[codes.REASONS[r] for r, _ in SHUT])
def test_the_first_shut_gate_is_named(first: int) -> None:
    assert gate(**SHUT[first][1]) == SHUT[first][0]
    together = {name: value for _, changes in SHUT[first:] for name, value in changes.items()}
    assert gate(**together) == SHUT[first][0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"LAST_EXIT_BAR": 151}, codes.JUST_EXITED),
        ({"POSTURE": codes.HIBERNATE}, codes.POSTURE_HALT),
        ({"CAPITAL": -1.0}, codes.NO_CAPITAL),
        ({"refusal": codes.LEDGER_HALT}, codes.LEDGER_HALT),
    ],
)
def test_gates_beyond_their_edge(changes: dict[str, object], reason: int) -> None:
    assert gate(**changes) == reason


def chosen(params: ParameterSet, symbols: list[str], stale: Sequence[bool], lengths: Sequence[int]) -> int:
    s = st.new_state(len(symbols), 1.0)
    s.n_prices[:] = lengths
    out_f, out_i = np.zeros(len(record.OUT_FLOAT_NAMES)), np.zeros(len(record.OUT_INT_NAMES), np.int64)
    return entry.choose_asset(
        st.step_params(params, symbols, OPTIONS),
        s,
        st.excluded_assets(params, symbols),
        st.History(s.prices, s.n_prices, s.first),
        np.array(stale),
        st.absent_books(len(symbols)),
        st.Ranking(st.NONE, s.order, s.actions, s.aligned, s.ars),
        out_f,
        out_i,
    )


def test_without_selection_it_is_bitcoin_or_nothing() -> None:
    off = CHAMPION.with_values({"use_asset_selection": False})
    assert chosen(off, ["ETHUSDT", "BTCUSDT"], [False, False], [5, 1]) == 1
    assert chosen(off, ["ETHUSDT", "BTCUSDT"], [True, False], [0, 1]) == 1
    assert chosen(off, ["ETHUSDT", "BTCUSDT"], [False, True], [5, 5]) == st.NONE
    assert chosen(off, ["ETHUSDT", "BTCUSDT"], [False, False], [5, 0]) == st.NONE
    assert chosen(off, ["ETHUSDT", "ADAUSDT"], [False, False], [5, 5]) == st.NONE
    assert chosen(CHAMPION, ["ETHUSDT", "BTCUSDT"], [False, False], [49, 49]) == st.NONE


@pytest.mark.parametrize(("params", "sign"), [(CHAMPION, 1.0), (GREEN, -1.0)])
def test_an_adverse_turn_is_three_bars_in_a_row_beyond_the_level(params: ParameterSet, sign: float) -> None:
    """Strictly beyond 0.02; a bar on the level starts the count again."""
    s = st.new_state(1, 1000.0)
    s.ints[st.POSITION] = 0
    s.ints[st.ENTRY_BAR] = 0
    s.floats[st.ENTRY_PRICE] = 100.0
    s.floats[st.LEVERAGE] = 1.0
    p = st.step_params(params, ["BTCUSDT"], st.EngineOptions(vd_enabled=True))
    out_f, out_i = np.zeros(len(record.OUT_FLOAT_NAMES)), np.zeros(len(record.OUT_INT_NAMES), np.int64)
    beyond = math.nextafter(0.02, 1.0)
    reasons = []
    for i, size in enumerate([beyond, beyond, 0.02, beyond, beyond, beyond], start=1):
        moment = bar(sign * size, n=1)._replace(prices=np.array([100.0]))
        k.step(p, s, np.zeros(1, np.bool_), i, moment, st.absent_books(1), np.array([0.9]), out_f, out_i)
        reasons.append(codes.REASONS[out_i[record.O_REASON]])
    assert reasons == ["NONE"] * 5 + ["VD_ADVERSE_TURN"]


def test_the_record_s_slots_are_their_names() -> None:
    for names, prefix in ((record.OUT_FLOAT_NAMES, "O_"), (record.OUT_INT_NAMES, "O_")):
        short = {"dc_change_bps": "DC_CHANGE"}
        for i, name in enumerate(names):
            assert getattr(record, prefix + short.get(name, name.upper())) == i
    aliases = {"regime_size_mult": "REGIME"}
    for names in (st.FLOAT_NAMES, st.INT_NAMES):
        for i, name in enumerate(names):
            assert getattr(st, aliases.get(name, name.upper())) == i
