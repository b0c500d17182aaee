"""Selection: profile, filters, ties, the books' say, and the walk down the ranking."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from dolphin.alpha.selection import (
    ALIGNMENT_MIN,
    DEPTH_QUALITY_MIN,
    IRP_PRICES,
    LATENCY_MAX,
    NOISE_MAX,
    PROFILE_ROWS,
    depth_adjusted_ars,
    impulse_latency,
    impulse_response,
    rank_assets,
    select_asset,
    window_of,
)
from dolphin.domain.codes import DIRECT, INVERSE
from dolphin.numerics.portable import log1p


def path(steps: Sequence[float], start: float = 1000.0) -> np.ndarray:
    assert len(steps) == 49
    return np.concatenate([[start], start + np.cumsum(np.array(steps))])


def test_the_page_s_constants() -> None:
    assert (IRP_PRICES, NOISE_MAX, LATENCY_MAX, ALIGNMENT_MIN, DEPTH_QUALITY_MIN) == (
        50,
        500.0,
        20,
        0.20,
        0.20,
    )


def test_a_profile_by_hand() -> None:
    """Down 2, up 1, then down 4 in steps of 1, then flat: SHORT gains 5 net after an early 2."""
    steps = [-2.0, 1.0, -1.0, -1.0, -1.0, -1.0] + [0.0] * 43
    mfe, mae, efficiency, alignment, noise, latency, ars = impulse_response(path(steps), 0, -1, False)
    assert (mfe, mae) == (5.0, 0.0)
    assert efficiency == 5.0 / 1e-6
    assert alignment == 5 / 49
    mean = 5.0 / 49
    squares = 0.0
    for r in [2.0, -1.0, 1.0, 1.0, 1.0, 1.0] + [0.0] * 43:
        squares = squares + (r - mean) * (r - mean)
    assert noise == squares / 49
    assert latency == 1
    assert ars == 0.5 * log1p(efficiency) + 0.35 * alignment - 0.15 * noise * 1000.0


def test_the_other_direction_sees_the_mirror() -> None:
    steps = [-2.0, 1.0, -1.0, -1.0, -1.0, -1.0] + [0.0] * 43
    mfe, mae, efficiency, alignment, _, latency, _ = impulse_response(path(steps), 0, 1, False)
    assert (mfe, mae, efficiency, latency) == (0.0, 5.0, 0.0, 50)
    assert alignment == 1 / 49


def test_an_excursion_against_us_comes_first() -> None:
    steps = [3.0, -1.0, -1.0, -1.0, -1.0, -1.0] + [0.0] * 43
    mfe, mae, efficiency, *_ = impulse_response(path(steps), 0, -1, False)
    assert (mfe, mae) == (2.0, 3.0)
    assert efficiency == 2.0 / (3.0 + 1e-6)


@pytest.mark.parametrize("bar", [1, 7, 20, 21, 49])
def test_latency_is_the_first_bar_at_a_tenth_of_the_gain(bar: int) -> None:
    """0 before; exactly a tenth on `bar`; the whole gain on the last."""
    steps = [0.0] * 49
    steps[bar - 1] = -1.0
    steps[48] += -9.0
    assert impulse_response(path(steps), 0, -1, False)[5] == bar


def test_just_below_a_tenth_is_not_there_yet() -> None:
    steps = [0.0] * 49
    steps[2], steps[5], steps[10] = -0.875, -0.25, -8.875
    assert impulse_response(path(steps, 1024.0), 0, -1, False)[5] == 6


def test_no_gain_has_no_latency() -> None:
    assert impulse_response(path([0.0] * 49), 0, -1, False)[5] == 50
    assert impulse_response(path([1.0] * 49), 0, -1, False)[5] == 50


def test_only_the_fifty_prices_from_start_count() -> None:
    steps = [-1.0, 0.5] * 24 + [-1.0]
    prices = np.concatenate([[7.0, 5000.0], path(steps), [9.0]])
    assert impulse_response(prices, 2, -1, False) == impulse_response(path(steps), 0, -1, False)


def test_relative_steps_are_shares_of_the_first_price() -> None:
    steps = [-1.0, 0.5] * 24 + [-1.0]
    mfe, mae, _, alignment, noise, latency, _ = impulse_response(path(steps), 0, -1, True)
    absolute = impulse_response(path(steps), 0, -1, False)
    assert mfe == pytest.approx(absolute[0] / 1000.0)
    assert mae == pytest.approx(absolute[1] / 1000.0)
    assert noise == pytest.approx(absolute[4] / 1e6)
    assert (alignment, latency) == (absolute[3], absolute[5])


@pytest.mark.parametrize(
    ("quality", "factor"),
    [
        (0.0, 0.90),
        (math.nextafter(0.3, 0), 0.90),
        (0.3, 0.95),
        (math.nextafter(0.5, 0), 0.95),
        (0.5, 1.0),
        (1.0, 1.0),
        (math.nextafter(1.0, 2), 1.05),
        (1.5, 1.05),
        (math.nextafter(1.5, 2), 1.10),
    ],
)
def test_deep_books_raise_and_thin_ones_lower_a_score(quality: float, factor: float) -> None:
    assert depth_adjusted_ars(2.0, quality) == 2.0 * factor
    assert depth_adjusted_ars(-2.0, quality) == -2.0 / factor
    assert depth_adjusted_ars(0.0, quality) == 0.0
    assert depth_adjusted_ars(0.5, quality) == 0.5 * factor


def rank(
    rows: list[np.ndarray],
    *,
    direction: int = -1,
    min_alignment: float = 0.0,
    quality: Sequence[float] | None = None,
    counts: Sequence[int] | None = None,
    relative: bool = False,
    first: Sequence[int] | None = None,
    steps: list[int] | None = None,
) -> list[tuple[int, int, float]]:
    prices = np.ascontiguousarray(np.array(rows).T)
    length, n = prices.shape
    order, actions, aligned = (np.full(n, -7, np.int16) for _ in range(3))
    ars = np.zeros(n)
    found = rank_assets(
        prices,
        np.array(counts if counts is not None else [length] * n, np.int64),
        np.array(first if first is not None else [0] * n, np.int64),
        direction,
        min_alignment,
        relative,
        quality is not None,
        np.array(quality if quality is not None else [9.0] * n),
        np.empty((50, n)),
        np.empty((6, n)),
        order,
        actions,
        aligned,
        ars,
    )
    if steps is not None:
        steps.extend(aligned[:found].tolist())
    return list(zip(order[:found].tolist(), actions[:found].tolist(), ars[:found].tolist(), strict=True))


def falling(size: float) -> np.ndarray:
    """Falls by `size` on every second bar: alignment 25/49 SHORT."""
    return path([-size, 0.0] * 24 + [-size])


def test_ranking_is_by_score_and_ties_keep_the_universe_s_order() -> None:
    rows = [falling(0.01), falling(0.001), falling(0.01), falling(0.001), falling(0.1)]
    got = rank(rows)
    scores = [impulse_response(row, 0, -1, False)[6] for row in rows]
    expected = sorted(range(5), key=lambda i: -scores[i])
    assert [g[0] for g in got] == expected
    assert scores[0] == scores[2]
    assert expected.index(0) + 1 == expected.index(2)
    assert all(score == scores[i] and action == DIRECT for i, action, score in got)


def test_the_better_direction_is_kept_with_its_own_numbers() -> None:
    row = path([0.01, 0.0] * 24 + [0.01])
    assert rank([row]) == [(0, INVERSE, impulse_response(row, 0, 1, False)[6])]
    assert rank([row], direction=1) == [(0, DIRECT, impulse_response(row, 0, 1, False)[6])]


def test_a_tie_of_directions_is_direct() -> None:
    """+1, -2, +1, then steps that mirror themselves under a sign change of the whole path."""
    steps = [0.0] * 49
    steps[0:4] = [0.5, -1.0, 1.0, -0.5]
    row = path(steps)
    own, other = (impulse_response(row, 0, d, False) for d in (-1, 1))
    assert own[6] == other[6], "the example must tie"
    assert rank([row]) == []  # alignment 2/49
    steps = [0.5, -1.0, 0.5, 0.5, -1.0, 0.5, 0.0] * 7
    row = path([x / 64 for x in ([0.5, -0.5, -0.5, 0.5] * 12 + [0.0])], 1024.0)
    own, other = (impulse_response(row, 0, d, False) for d in (-1, 1))
    assert own[6] == other[6], "the example must tie"
    assert [a for _, a, _ in rank([row])] == [DIRECT]


def test_fifty_prices_are_needed_and_the_last_fifty_count() -> None:
    long = np.concatenate([[3000.0, 10.0], falling(0.01), [77.0]])
    assert rank([long], counts=[49]) == []
    assert rank([long], counts=[52]) == [(0, DIRECT, impulse_response(falling(0.01), 0, -1, False)[6])]
    assert len(rank([long], counts=[50])) <= 1
    assert len(rank([falling(0.01)], counts=[50])) == 1


def test_forty_nine_prices_never_borrow_one_from_the_end_of_the_row() -> None:
    """An index before the row's start would wrap round to its last entry, which fits in here."""
    row = falling(0.01)
    row[-1] = row[0] + 0.01
    assert rank([row], counts=[49]) == []


def noisy(spike: float) -> np.ndarray:
    """Falls with one late spike up, so that only the noise grows with it."""
    steps = [-0.01, 0.0] * 24 + [-0.01]
    steps[1] = -spike
    return path(steps, 1e6)


def test_noise_above_five_hundred_is_dropped() -> None:
    quiet, loud = noisy(158.0), noisy(158.3)
    assert impulse_response(quiet, 0, -1, False)[4] < 500.0 < impulse_response(loud, 0, -1, False)[4]
    assert len(rank([quiet])) == 1
    assert rank([loud]) == []


def test_noise_of_five_hundred_exactly_stays() -> None:
    """Integer steps in pairs of opposite sign: mean 0, squares 49 x 500, nothing rounded."""
    sizes = [20.0, 27.0, 30.0, 101.0] + [1.0] * 20
    steps = [s for size in sizes for s in (-size, size)] + [0.0]
    assert impulse_response(path(steps, 1e6), 0, -1, False)[4] == 500.0
    assert len(rank([path(steps, 1e6)])) == 1


def late(bar: int) -> np.ndarray:
    """Nothing but tiny steps until `bar`, then nearly the whole gain."""
    steps = [-1e-7 if i % 2 == 0 else 0.0 for i in range(49)]
    steps[bar - 1] = -1.0
    return path(steps)


def test_latency_above_twenty_is_dropped() -> None:
    assert impulse_response(late(20), 0, -1, False)[5] == 20
    assert len(rank([late(20)])) == 1
    assert impulse_response(late(21), 0, -1, False)[5] == 21
    assert rank([late(21)]) == []


def aligned(n: int) -> np.ndarray:
    """Exactly n of 49 steps fall; the rest are flat."""
    return path([-0.01] * n + [0.0] * (49 - n))


def test_alignment_below_a_fifth_is_dropped() -> None:
    assert rank([aligned(9)]) == []
    assert len(rank([aligned(10)])) == 1


def exact_alignment(n: int) -> float:
    return n / 49


def test_the_set_s_own_alignment_gate_counts_only_above_zero() -> None:
    n = 22
    assert len(rank([aligned(n)], min_alignment=exact_alignment(n))) == 1
    assert rank([aligned(n)], min_alignment=math.nextafter(exact_alignment(n), 1.0)) == []
    assert len(rank([aligned(n)], min_alignment=0.0)) == 1
    assert len(rank([aligned(10)], min_alignment=0.0)) == 1


def test_filters_look_at_the_inverse_direction_where_it_is_kept() -> None:
    for row in (noisy(160.0), late(21), aligned(9)):
        mirrored = 2 * row[0] - row
        assert rank([mirrored]) == []
    assert [a for _, a, _ in rank([2 * aligned(10)[0] - aligned(10)])] == [INVERSE]
    mirrored = 2 * aligned(22)[0] - aligned(22)
    assert rank([mirrored], min_alignment=0.45) == []


def test_books_adjust_the_score_before_the_ranking() -> None:
    rows = [falling(0.01), falling(0.01)]
    plain_score = rank(rows)[0][2]
    got = rank(rows, quality=[0.4, 1.2])
    assert got == [(1, DIRECT, plain_score * 1.05), (0, DIRECT, plain_score * 0.95)]
    loser = falling(1.0)
    score = rank([loser])[0][2]
    assert score < 0.0
    assert rank([loser], quality=[2.0]) == [(0, DIRECT, score / 1.10)]


def test_relative_steps_reach_the_ranking() -> None:
    row = falling(0.4)
    assert rank([row], relative=True)[0][2] == impulse_response(row, 0, -1, True)[6]


N = 4
FREE = {
    "order": [2, 0, 3, 1],
    "actions": [DIRECT] * N,
    "aligned": [25] * N,
    "min_alignment": 0.0,
    "excluded": [False] * N,
    "stale": [False] * N,
    "books": False,
    "quality": [0.0] * N,
}


def pick(count: int = N, **changes: object) -> int:
    return walk(count, **changes)[0]


def walk(count: int = N, **changes: object) -> tuple[int, int, int]:
    values = FREE | changes
    return select_asset(
        np.array(values["order"], np.int16),
        np.array(values["actions"], np.int16),
        np.array(values["aligned"], np.int16),
        count,
        values["min_alignment"],
        np.array(values["excluded"]),
        np.array(values["stale"]),
        values["books"],
        np.array(values["quality"]),
    )


def test_the_first_survivor_is_taken() -> None:
    assert pick() == 0
    assert pick(actions=[INVERSE, DIRECT, DIRECT, DIRECT]) == 1
    assert pick(excluded=[False, False, True, False]) == 1
    assert pick(stale=[True, False, True, False]) == 2
    assert pick(actions=[INVERSE, INVERSE, INVERSE, DIRECT]) == 3


def test_no_survivor_is_no_asset() -> None:
    assert pick(count=0) == -1
    assert pick(actions=[INVERSE] * N) == -1
    assert pick(excluded=[True] * N) == -1
    assert pick(stale=[True] * N) == -1
    assert pick(count=1, excluded=[False, False, True, False]) == -1


def test_a_book_too_thin_is_passed_over_only_with_books() -> None:
    thin, enough = math.nextafter(0.20, 0.0), 0.20
    assert pick(books=True, quality=[thin] * N) == -1
    assert pick(books=True, quality=[enough] * N) == 0
    assert pick(books=True, quality=[enough, thin, thin, thin]) == 1
    assert pick(books=False, quality=[thin] * N) == 0


def test_a_level_that_is_never_reached_has_the_latency_of_no_gain() -> None:
    window = path([0.01] * 49).reshape(50, 1)
    assert impulse_latency(window, 0, 1.0, False, 0.49) == 5
    assert impulse_latency(window, 0, 1.0, False, 1e9) == 50


def test_the_steps_in_the_kept_direction_go_with_their_asset() -> None:
    """Ranked out of the universe's order, so that every array has to move."""
    downs = [25, 28, 31, 34, 37]
    rows = [path([-1e-5 * 4.0**k] * n + [0.0] * (49 - n)) for k, n in enumerate(downs)]
    steps: list[int] = []
    got = rank(rows, steps=steps)
    assert [g[0] for g in got] == [4, 3, 2, 1, 0]
    assert steps == downs[::-1]
    assert PROFILE_ROWS == 6


def test_a_tie_of_the_two_directions_is_direct_either_way() -> None:
    """Two steps of one size, each way as often, both ways as far."""
    row = path([0.5, -1.0, 0.5, -0.5, 1.0, -0.5] * 8 + [0.0])
    both = [impulse_response(row, 0, d, False) for d in (-1, 1)]
    assert both[0][6] == both[1][6]
    assert both[0][3] == both[1][3] == 24 / 49
    assert [g[1] for g in rank([row])] == [DIRECT]
    assert [g[1] for g in rank([row], direction=1)] == [DIRECT]


def test_assets_that_end_apart_are_gathered_each_with_its_own_last_prices() -> None:
    """One has 50 prices to the bar, one more, one too few though it ends late."""
    row = falling(0.01)
    other = np.concatenate([np.full(10, 7.0), falling(0.1)])
    padded = np.concatenate([row, np.full(10, np.nan)])
    late = np.concatenate([np.full(11, np.nan), falling(1.0)[:49]])
    got = rank([padded, other, late], counts=[50, 60, 60], first=[0, 0, 11])
    expected = {0: impulse_response(row, 0, -1, False)[6], 1: impulse_response(other, 10, -1, False)[6]}
    assert {asset: score for asset, _, score in got} == expected
    assert rank([padded, other, late], counts=[49, 59, 59], first=[0, 10, 10]) == []


def test_assets_that_end_together_are_read_where_they_lie() -> None:
    prices, window = np.ones((60, 3)), np.zeros((50, 3))
    first = np.zeros(3, np.int64)
    for end in (50, 60):
        begin, rows = window_of(prices, np.full(3, end), first, window)
        assert begin == end - 50
        assert np.shares_memory(rows, prices)
    begin, rows = window_of(prices, np.array([60, 60, 59]), first, window)
    assert begin == 0
    assert np.shares_memory(rows, window)


def test_a_relative_step_is_divided_by_the_first_price() -> None:
    window = np.concatenate([[100.0], np.linspace(101.5, 1000.0, 49)]).reshape(50, 1)
    assert impulse_latency(window, 0, 1.0, True, 0.149) == 1
    assert impulse_latency(window, 0, 1.0, False, 14.9) == 1


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_the_level_is_not_reached_a_hundredth_below_it(sign: float) -> None:
    """20 steps to just under a tenth of the best, which the 21st passes: dropped, not kept."""
    steps = [0.04975] * 20 + [1.0] * 9 + [0.0] * 20
    row = path([sign * x for x in steps])
    direction = 1 if sign > 0 else -1
    assert impulse_response(row, 0, direction, False)[5] == 21
    assert rank([row], direction=direction) == []


def test_a_walk_counts_only_assets_aligned_enough() -> None:
    aligned = [30, 20, 25, 22]
    assert walk(aligned=aligned, min_alignment=0.0) == (0, 1, 4)
    assert walk(aligned=aligned, min_alignment=22 / 49) == (0, 1, 3)
    assert walk(aligned=aligned, min_alignment=22.5 / 49) == (0, 1, 2)
    assert walk(aligned=aligned, min_alignment=0.45, actions=[INVERSE, DIRECT, DIRECT, DIRECT]) == (2, 2, 2)
    assert walk(aligned=aligned, min_alignment=0.5, actions=[INVERSE] * 4) == (-1, 0, 2)
    assert walk(aligned=aligned, min_alignment=0.9) == (-1, 0, 0)
