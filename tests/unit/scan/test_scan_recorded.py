"""The scanner on a recorded market, against all eigenpairs by `acb_mat.eig` and the specification's formulas.

A scan in mid-panel is reached by restoring the scanner from the 752 prices before it.
"""

from __future__ import annotations

import csv
import itertools
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
from flint import ctx
from scan_textbook import columns, dominant, loadings, log_return
from test_scan_spectrum import as_arb, certified_bits

from dolphin.domain.bar import Bar
from dolphin.domain.scan import WINDOWS, regime_from_vel_div
from dolphin.kernel import MODE
from dolphin.scan import ROWS_NEEDED, RingRow, Scanner

pytestmark = pytest.mark.recordings

#: Uncompiled kernels need minutes for what follows.
N_ASSETS = 6 if MODE == "plain" else 50
BAR_NS = 60 * 10**9
#: The textbook loses about 60 of these.
BITS = 620


@pytest.fixture(scope="module")
def panel(recordings):
    """(symbols, close times in Unix ns, closing prices in USDT) of the most traded assets, April 2021."""
    folder = recordings / "klines"
    with (folder / "binance_spot_1m_202104_universe.csv").open() as lines:
        symbols = tuple(row["symbol"] for row in csv.DictReader(lines))[:N_ASSETS]
    table = pq.read_table(folder / "binance_spot_1m_close_wide_86sym_20210402_20210430.parquet")
    opened = table["ts"].to_numpy().astype("datetime64[ns]").astype(np.int64)
    prices = np.column_stack([table[symbol].to_numpy() for symbol in symbols])
    assert not np.isnan(prices).any()
    return symbols, opened + BAR_NS, prices


def spread_bars(n_bars, count, seed):
    """One random bar from each of `count` equal parts of what follows the warm-up."""
    edges = np.linspace(ROWS_NEEDED, n_bars, count + 1).astype(int)
    rng = np.random.default_rng(seed)
    return [int(rng.integers(a, b)) for a, b in itertools.pairwise(edges)]


def check_scan(panel, at):
    symbols, stamps, prices = panel
    table = prices[at - ROWS_NEEDED : at + 1].tolist()
    returns = [
        [log_return(p, base) if p != base else 0.0 for p, base in zip(row, before, strict=True)]
        for before, row in itertools.pairwise(table)
    ]
    n = len(symbols)
    fresh, run = np.ones(n, np.bool_), np.zeros(n, np.int64)
    rows = [
        RingRow(int(stamps[at - ROWS_NEEDED + k]), np.array(table[k]), np.array(row), fresh, run)
        for k, row in enumerate([[0.0] * n, *returns[:-1]])
    ]
    machine = Scanner.restore(symbols, rows)
    twin = Scanner.restore(symbols, rows, path="flint")
    bar = Bar(int(stamps[at]), np.array(table[-1]))
    former = machine._certified
    scan = machine.update(bar, at).scan
    assert twin.update(bar, at).scan == scan
    assert machine.ring_row().returns.tolist() == returns[-1]
    assert scan.outcome == ("ok",) * 4
    squares = 0.0
    for k, w in enumerate(WINDOWS):
        new, old = dominant(returns[-w:], BITS), dominant(returns[-1 - w : -1], BITS)
        ctx.prec = BITS
        for solver in (machine, twin):
            assert as_arb(solver._certified[k].lam).overlaps(new[0])
        assert as_arb(former[k].lam).overlaps(old[0])
        assert certified_bits(machine._certified[k].lam) >= 512
        expected = columns(new, old, int(stamps[at] - stamps[at - 1]))
        names = ("lambda_max", "velocity", "rotation", "instability")
        assert tuple(getattr(scan, f"w{w}_{name}") for name in names) == expected
        squares += expected[3] * expected[3]
        if w == 50:
            assert scan.asset_loadings == loadings(new[1])
    assert scan.vel_div == scan.w50_velocity - scan.w750_velocity
    assert scan.regime_signal == regime_from_vel_div(scan.vel_div)
    assert scan.instability_composite == math.sqrt(squares / 4)
    ctx.prec = 53


@pytest.mark.parametrize("part", range(2 if MODE == "plain" else 10))
def test_recorded_scan_equals_the_textbook(panel, part):
    check_scan(panel, spread_bars(len(panel[1]), 10, seed=20210402)[part])


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_200_recorded_scans_equal_the_textbook(panel):
    for at in spread_bars(len(panel[1]), 200, seed=20210430):
        check_scan(panel, at)


@pytest.mark.long
def test_fast_and_flint_agree_on_consecutive_recorded_bars(panel):
    symbols, stamps, prices = panel
    fast, flint = Scanner(symbols), Scanner(symbols, path="flint")
    n_scans = 0
    for t, row in zip(stamps[: ROWS_NEEDED + 200].tolist(), prices, strict=False):
        step = fast.update(Bar(t, row), 0)
        assert flint.update(Bar(t, row), 0) == step
        n_scans += step.scan is not None
    assert n_scans == 201
