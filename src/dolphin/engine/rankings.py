"""Rankings of many bars at once, and what walks down them find: tables that bindings of parameters share."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dolphin.alpha.selection import rank_assets, select_asset
from dolphin.domain.bar import BoolArray, FloatArray, IntArray, SmallIntArray
from dolphin.engine.market import Market, books_at, ends_at
from dolphin.engine.state import (
    NONE,
)
from dolphin.kernel import kernel


class Rankings(NamedTuple):
    """Rankings of some bars, made once for a market, a direction and a kind of step; see `rank_assets`."""

    row_of: IntArray  # (n,), or (0,) for none at all; NONE where a bar is not in the table
    n_ranked: IntArray  # (k,)
    order: SmallIntArray  # (k, a)
    actions: SmallIntArray
    aligned: SmallIntArray
    ars: FloatArray


class Picks(NamedTuple):
    """What a walk down those rankings finds for one alignment gate and one list of excluded symbols.

    The table has every bar beyond `threshold` whose volatility gate is open.
    """

    threshold: float
    bars: IntArray  # (k,), rising
    vel_div: FloatArray  # (k,), theirs, 1/s
    row_from: IntArray  # (n,), the first row whose bar is not before t, k for none; or (0,) for no table
    asset: SmallIntArray  # (k,), NONE for no survivor
    rank: SmallIntArray
    ranked: SmallIntArray
    ars: FloatArray


def no_rankings(n_assets: int) -> Rankings:
    """No table: every ranking is made when it is needed."""
    small = np.zeros((0, n_assets), np.int16)
    none = np.zeros(0, np.int64)
    return Rankings(none, none, small, small, small, np.zeros((0, n_assets)))


def no_picks() -> Picks:
    """No table: every ranking is walked down when it is needed."""
    none, small = np.zeros(0, np.int64), np.zeros(0, np.int16)
    return Picks(0.0, none, np.zeros(0), none, small, small, small, np.zeros(0))


@kernel
def pick_bars(
    m: Market,
    r: Rankings,
    bars: IntArray,
    min_alignment: float,
    excluded: BoolArray,
    asset: SmallIntArray,
    rank: SmallIntArray,
    ranked: SmallIntArray,
    ars: FloatArray,
) -> None:
    """Walk down the rankings of `bars` (k,), those of the table's rows, into the arrays (k,); see `Picks`."""
    for k in range(bars.shape[0]):
        t = bars[k]
        books = books_at(m, t)
        place, rank[k], ranked[k] = select_asset(
            r.order[k],
            r.actions[k],
            r.aligned[k],
            r.n_ranked[k],
            min_alignment,
            excluded,
            m.stale[t],
            books.present,
            books.depth_quality,
        )
        asset[k] = NONE
        ars[k] = 0.0
        if place >= 0:
            asset[k] = r.order[k, place]
            ars[k] = r.ars[k, place]


@kernel
def rank_bars(
    m: Market,
    bars: IntArray,
    direction: int,
    relative: bool,
    window: FloatArray,
    work: FloatArray,
    ends: IntArray,
    n_ranked: IntArray,
    order: SmallIntArray,
    actions: SmallIntArray,
    aligned: SmallIntArray,
    ars: FloatArray,
) -> None:
    """Rank the assets on each of `bars` (k,) into row k of the tables; see `Rankings` and `rank_assets`."""
    for k in range(bars.shape[0]):
        t = bars[k]
        ends_at(m, t, ends)
        books = books_at(m, t)
        n_ranked[k] = rank_assets(
            m.rows,
            ends,
            m.first,
            direction,
            0.0,
            relative,
            books.present,
            books.depth_quality,
            window,
            work,
            order[k],
            actions[k],
            aligned[k],
            ars[k],
        )
