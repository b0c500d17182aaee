"""The scanner: rules of the bar, the same bits on every path and after a restore, the textbook formulas."""

from __future__ import annotations

import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scan_markets import STEP_NS, make_bars
from scan_textbook import columns, dominant, loadings, log_return

from dolphin.domain.bar import Bar
from dolphin.domain.errors import DataError, InvariantError
from dolphin.domain.scan import COLUMNS, OUTCOMES, WARMUP_PRICES, WINDOWS, regime_from_vel_div
from dolphin.scan import ROWS_NEEDED, RingRow, Scanner, decode_row, encode_row, row_bytes, scanner, warm
from dolphin.scan.solution import Ball

nan = math.nan


def run(scanner, bars, first_number=0):
    return [scanner.update(bar, first_number + k) for k, bar in enumerate(bars)]


def scans_of(steps):
    return [step.scan for step in steps if step.scan is not None]


@pytest.fixture(scope="module")
def fast(bars, symbols):
    """(scanner after all bars, its steps, its ring rows)."""
    machine = Scanner(symbols)
    steps, rows = [], []
    for k, bar in enumerate(bars):
        steps.append(machine.update(bar, k))
        rows.append(machine.ring_row())
    return machine, steps, rows


def test_first_scan_comes_with_price_752(fast, bars):
    _, steps, _ = fast
    assert ROWS_NEEDED == WARMUP_PRICES == 752
    assert [k for k, s in enumerate(steps) if s.scan is not None] == list(range(751, len(bars)))
    assert [s.warmup_bars for s in steps] == [min(k + 1, 752) for k in range(len(bars))]
    scan = steps[751].scan
    assert scan.scan_number == 751
    assert scan.timestamp_ns == bars[751].timestamp_ns
    assert scan.certified_bits == (512,) * 4
    assert scan.outcome == ("ok",) * 4
    assert len(COLUMNS) == 27


def test_one_scan_per_number(fast):
    numbers = [s.scan_number for s in scans_of(fast[1])]
    assert numbers == sorted(set(numbers))


def test_every_path_publishes_the_same_record(fast, bars, symbols):
    expected = scans_of(fast[1])
    assert scans_of(run(Scanner(symbols, path="flint"), bars)) == expected
    for scan, twin in zip(expected, scans_of(run(Scanner(symbols, path="float64"), bars)), strict=True):
        assert twin.certified_bits == (0,) * 4
        assert twin.regime_signal == scan.regime_signal
        for w in WINDOWS:
            for name, tolerance in (("lambda_max", 1e-12), ("velocity", 1e-12), ("rotation", 1e-10)):
                field = f"w{w}_{name}"
                assert getattr(twin, field) == pytest.approx(getattr(scan, field), abs=tolerance)
        assert twin.asset_loadings == pytest.approx(scan.asset_loadings, abs=1e-11)
        assert twin.asset_prices == scan.asset_prices
        assert twin.stale_assets == scan.stale_assets


@pytest.mark.parametrize("path", ["fast", "flint", "float64"])
@pytest.mark.parametrize("at", [300, 751, 760])
def test_restored_scanner_continues_bit_for_bit(fast, bars, symbols, path, at):
    _, steps, rows = fast
    if path == "float64":
        steps = run(Scanner(symbols, path=path), bars)
    kept = [decode_row(encode_row(row)) for row in rows[max(0, at - ROWS_NEEDED) : at]]
    again = Scanner.restore(symbols, kept, path=path)
    assert again.progress == {"bars": min(at, 752), "of": 752}
    assert again.timestamp_ns == bars[at - 1].timestamp_ns
    continued = run(again, bars[at:], at)
    assert continued == steps[at:]
    assert encode_row(again.ring_row()) == encode_row(rows[-1])


def test_textbook_columns(bars, symbols):
    """Ten scans against all eigenvalues by `acb_mat.eig` and the formulas of the specification."""
    compare_with_textbook(bars, symbols, 10)


def compare_with_textbook(bars, symbols, count):
    machine = Scanner(symbols)
    base = [nan] * len(symbols)
    returns, kept = [], {}
    for k, bar in enumerate(bars):
        row = []
        for i, p in enumerate(bar.prices.tolist()):
            known = not math.isnan(p)
            row.append(log_return(p, base[i]) if known and not math.isnan(base[i]) and p != base[i] else 0.0)
            base[i] = p if known else base[i]
        returns.append(row)
        scan = machine.update(bar, k).scan
        if scan is not None and k - 751 < count:
            got, expected = [], []
            for w in WINDOWS:
                pair = [kept.get((t, w)) or dominant(returns[t + 1 - w : t + 1]) for t in (k, k - 1)]
                kept = {key: v for key, v in kept.items() if key[0] >= k}
                kept[k, w] = pair[0]
                dt_ns = bar.timestamp_ns - bars[k - 1].timestamp_ns
                expected.append(columns(pair[0], pair[1], dt_ns))
                got.append(
                    tuple(
                        getattr(scan, f"w{w}_{n}")
                        for n in ("lambda_max", "velocity", "rotation", "instability")
                    )
                )
                if w == 50:
                    assert scan.asset_loadings == loadings(pair[0][1])
            assert got == expected
            assert scan.vel_div == scan.w50_velocity - scan.w750_velocity
            assert scan.regime_signal == regime_from_vel_div(scan.vel_div)
            squares = 0.0
            for column in expected:
                squares += column[3] * column[3]
            assert scan.instability_composite == math.sqrt(squares / 4)


@pytest.mark.long
def test_textbook_columns_200_scans():
    compare_with_textbook(make_bars(12, 752 + 200, seed=9), tuple(f"A{i}USDT" for i in range(12)), 200)


def test_backward_and_duplicate_time_is_refused_and_counted(fast, bars, symbols):
    _, _, rows = fast
    again = Scanner.restore(symbols, rows[-752:])
    reference = Scanner.restore(symbols, rows[-752:])
    last = bars[-1].timestamp_ns
    for k, stamp in enumerate((last, last - 1, 0)):
        step = again.update(Bar(stamp, bars[0].prices * 2), 5)
        assert step.scan is None
        assert f"{stamp} is not after {last}" in step.refused
        assert again.refused_count == k + 1
    following = Bar(last + STEP_NS, bars[5].prices)
    assert again.update(following, 9) == reference.update(following, 9)


def test_velocity_counts_in_seconds_of_the_bars_own_stamps(fast, bars, symbols):
    _, _, rows = fast
    following = bars[5].prices
    slow, quick = (Scanner.restore(symbols, rows[-752:]) for _ in range(2))
    last = bars[-1].timestamp_ns
    a = slow.update(Bar(last + 4 * STEP_NS, following), 1).scan
    b = quick.update(Bar(last + 1, following), 1).scan
    assert b.w50_velocity == pytest.approx(a.w50_velocity * 4 * STEP_NS, rel=1e-15)
    assert b.w50_lambda_max == a.w50_lambda_max


def test_missing_price_is_carried_and_counted():
    machine = Scanner(("AAUSDT", "BBUSDT", "CCUSDT"))
    machine.update(Bar(1, np.array([1.0, nan, 4.0])), 0)
    row = machine.ring_row()
    assert row.fresh.tolist() == [True, False, True]
    assert np.isnan(row.prices[1])
    machine.update(Bar(2, np.array([nan, 3.0, 5.0])), 0)
    row = machine.ring_row()
    assert row.prices.tolist() == [1.0, 3.0, 5.0]
    assert row.returns.tolist() == [0.0, 0.0, log_return(5.0, 4.0)]
    machine.update(Bar(3, np.array([2.0, 3.0, 5.0])), 0)
    assert machine.ring_row().returns.tolist() == [log_return(2.0, 1.0), 0.0, 0.0]


def test_asset_without_any_price_has_none(bars, symbols):
    machine = Scanner((*symbols, "NEVERUSDT"))
    scan = scans_of(run(machine, [Bar(b.timestamp_ns, np.append(b.prices, nan)) for b in bars[:753]]))[-1]
    assert scan.asset_prices[-1] is None
    assert None not in scan.asset_prices[:-1]
    assert scan.stale_assets[-1] == "NEVERUSDT"
    assert scan.missing_asset_count == len(scan.stale_assets)
    assert scan.data_quality_score == (9 - len(scan.stale_assets)) / 9
    assert scan.outcome == ("zero_variance",) * 4
    assert scan.asset_loadings[-1] == 0.0
    assert scan.w50_rotation is not None
    msgspec.json.decode(msgspec.json.encode(scan))


def test_zero_variance_is_named_and_leaves_the_rest_alone(fast, bars, symbols):
    plain_scan = fast[1][752].scan
    machine = Scanner(("PEGUSDT", *symbols))
    steps = run(machine, [Bar(b.timestamp_ns, np.append(1.0, b.prices)) for b in bars[:753]])
    scan, events = steps[-1].scan, steps[-1].events
    assert [(e.kind, e.symbol, e.window_bars) for e in events] == [
        ("zero_variance", "PEGUSDT", w) for w in WINDOWS
    ]
    for name in ("w50_lambda_max", "w750_velocity", "w300_rotation", "w150_instability", "vel_div"):
        assert getattr(scan, name) == getattr(plain_scan, name)
    assert scan.asset_loadings == (0.0, *plain_scan.asset_loadings)


def test_rejected_and_rebased():
    machine = Scanner(("AAUSDT", "BBUSDT"))
    machine.update(Bar(1, np.array([1.0, 1.0])), 0)
    kinds = []
    for t, p in enumerate((3.0, nan, 0.3, 5.0, 5.1), start=2):
        step = machine.update(Bar(t, np.array([p, 1.0])), 0)
        row = machine.ring_row()
        kinds.append(([(e.kind, e.symbol, e.price) for e in step.events], row.fresh[0], row.prices[0]))
        expected = log_return(5.1, 5.0) if p == 5.1 else 0.0
        assert row.returns[0] == expected
    assert kinds == [
        ([("rejected", "AAUSDT", 3.0)], False, 1.0),
        ([], False, 1.0),
        ([("rejected", "AAUSDT", 0.3)], False, 1.0),
        ([("rebased", "AAUSDT", 5.0)], True, 5.0),
        ([], True, 5.1),
    ]


@pytest.mark.parametrize("path", ["fast", "flint", "float64"])
def test_a_bar_with_a_rejected_price_says_so_in_every_window_and_changes_no_number(fast, bars, symbols, path):
    """The rejected asset counts as missing, and a missing price is named by nothing but its staleness."""
    held_back, missing = bars[757].prices.copy(), bars[757].prices.copy()
    held_back[2], missing[2] = missing[2] * 4.0, nan
    rows = fast[2][5 : 5 + 752]
    step = Scanner.restore(symbols, rows, path=path).update(replace(bars[757], prices=held_back), 757)
    twin = Scanner.restore(symbols, rows, path=path).update(replace(bars[757], prices=missing), 757)
    assert [e.kind for e in step.events] == ["rejected"]
    assert step.scan.outcome == ("rejected",) * 4
    assert twin.scan.outcome == ("ok",) * 4
    assert msgspec.structs.replace(step.scan, outcome=twin.scan.outcome) == twin.scan


def test_outcomes_have_an_order():
    """A rejection is named where nothing graver is: not over an idle asset, not over a clustered spectrum."""
    assert OUTCOMES == ("ok", "rejected", "zero_variance", "clustered")
    market = [bar.prices for bar in make_bars(3, 753, seed=6, missing_share=0.0)]
    for idle, expected in ((1, ("zero_variance",) * 4), (2, ("clustered",) * 4)):
        prices = [np.append(p[: 3 - idle], np.full(idle, 2.0)) for p in market]
        prices[752][0] *= 4.0
        steps = run(Scanner(("AAUSDT", "BBUSDT", "CCUSDT")), [Bar(t + 1, p) for t, p in enumerate(prices)])
        assert "rejected" in [e.kind for e in steps[-1].events]
        assert steps[-1].scan.outcome == expected


def test_neither_a_new_base_nor_an_invalid_price_is_a_rejection(fast, bars, symbols):
    for price in (math.inf, bars[757].prices[2]):
        again = Scanner.restore(symbols, fast[2][5 : 5 + 752])
        again._rejections[2] = 2
        again._base[2] *= 4.0 if math.isfinite(price) else 1.0
        prices = bars[757].prices.copy()
        prices[2] = price
        step = again.update(replace(bars[757], prices=prices), 757)
        assert [e.kind for e in step.events] == ["rebased" if math.isfinite(price) else "invalid"]
        assert step.scan.outcome == ("ok",) * 4


@pytest.mark.parametrize("path", ["fast", "flint"])
def test_the_floor_of_certified_bits_holds_by_measurement(fast, bars, symbols, monkeypatch, path):
    """A solution with 511 bits goes to the oracle; where that has 511 too, nothing is published."""
    _, steps, rows = fast
    again = Scanner.restore(symbols, rows[5 : 5 + 752], path=path)

    def blunt(solution):
        lam = solution.lam
        return replace(solution, lam=Ball(lam.mid, lam.mid >> 511, lam.bits))

    solve, slow = again._solver.solve, again._solver.slow
    monkeypatch.setattr(again._solver, "solve", lambda k: blunt(solve(k)))
    assert again.update(bars[757], 757) == steps[757]
    monkeypatch.setattr(again._solver, "slow", lambda k: blunt(slow(k)))
    with pytest.raises(InvariantError, match="fewer than 512 bits"):
        again.update(bars[758], 758)


def test_a_ball_knows_its_bits():
    assert Ball(1 << 600, 1 << 87, 0).certifies(512)
    assert not Ball(1 << 600, 1 << 88, 0).certifies(512)
    assert Ball(7, 0, 3).certifies(10_000)
    assert not Ball(3, 4, 0).certifies(1)


def test_run_of_rejections_survives_a_restore():
    symbols = ("AAUSDT", "BBUSDT")
    machine = Scanner(symbols)
    rows = []
    for t, p in enumerate((1.0, 3.0, 3.0), start=1):
        machine.update(Bar(t, np.array([p, 1.0])), 0)
        rows.append(decode_row(encode_row(machine.ring_row())))
    again = Scanner.restore(symbols, rows)
    step = again.update(Bar(9, np.array([3.0, 1.0])), 0)
    assert [e.kind for e in step.events] == ["rebased"]


def test_invalid_price_is_named_and_missing():
    machine = Scanner(("AAUSDT", "BBUSDT"))
    step = machine.update(Bar(1, np.array([math.inf, 0.0])), 0)
    assert [(e.kind, e.symbol) for e in step.events] == [("invalid", "AAUSDT"), ("invalid", "BBUSDT")]
    assert not machine.ring_row().fresh.any()


def test_unchanged_market_publishes_zeros(symbols):
    """A market that repeats itself with period 50 has exactly the same 50-window at every bar."""
    rng = np.random.default_rng(3)
    pattern = np.round(rng.uniform(90, 110, (50, 8)), 3)
    bars = [Bar((t + 1) * STEP_NS, pattern[t % 50].copy()) for t in range(754)]
    for path in ("fast", "flint"):
        scan = scans_of(run(Scanner(symbols, path=path), bars))[-1]
        for w in (50, 150, 300, 750):
            assert getattr(scan, f"w{w}_velocity") == 0.0
            assert getattr(scan, f"w{w}_rotation") == 0.0
            assert getattr(scan, f"w{w}_instability") == 0.0
        assert scan.instability_composite == 0.0
        assert scan.vel_div == 0.0


def test_frozen_market_is_clustered_and_ambiguous(symbols):
    bars = [Bar((t + 1) * STEP_NS, np.full(8, 2.0)) for t in range(753)]
    for path in ("fast", "flint", "float64"):
        scan = scans_of(run(Scanner(symbols, path=path), bars))[-1]
        assert scan.outcome == ("clustered",) * 4
        assert scan.w50_lambda_max == 1.0
        assert scan.w50_velocity == 0.0
        assert scan.w50_rotation is None
        assert scan.w750_instability is None
        assert scan.instability_composite is None
        assert scan.asset_loadings is None


def test_single_asset_universe():
    bars = make_bars(1, 753, seed=1, missing_share=0.0)
    for path in ("fast", "flint", "float64"):
        scan = scans_of(run(Scanner(("BTCUSDT",), path=path), bars))[-1]
        assert (scan.w50_lambda_max, scan.w50_rotation, scan.asset_loadings) == (1.0, 0.0, (1.0,))
        assert scan.outcome == ("ok",) * 4


@pytest.mark.parametrize("path", ["fast", "flint"])
def test_undecided_rounding_raises_the_precision(fast, bars, symbols, monkeypatch, path):
    _, steps, rows = fast
    again = Scanner.restore(symbols, rows[5 : 5 + 752], path=path)
    real = scanner.features.velocity
    asked = []

    def blunt(lam, previous, dt_ns, *, final):
        asked.append(lam.bits)
        return real(lam, previous, dt_ns, final=final) if final else None

    monkeypatch.setattr(scanner.features, "velocity", blunt)
    assert again.update(bars[757], 757) == steps[757]
    assert max(asked) > 1200


def test_undecided_angle_goes_to_balls(fast, bars, symbols, monkeypatch):
    _, steps, rows = fast
    again = Scanner.restore(symbols, rows[5 : 5 + 752])
    monkeypatch.setattr(scanner.features, "_ANGLE_ERROR_BITS", 30)
    monkeypatch.setattr(scanner.features, "rounding_failures", lambda *_: (1, 0.0))
    assert again.update(bars[757], 757) == steps[757]


def test_undecided_numbers_are_never_published(fast, bars, symbols, monkeypatch):
    _, _, rows = fast
    for name, reason in (("rotation", "532 bits do not decide"), ("lambda_max", "left undecided")):
        again = Scanner.restore(symbols, rows[5 : 5 + 752])
        with monkeypatch.context() as patch:
            patch.setattr(scanner.features, name, lambda *_, **__: None)
            with pytest.raises(InvariantError, match=reason):
                again.update(bars[757], 757)


def test_scan_without_its_parts_is_refused(fast, symbols):
    _, _, rows = fast
    whole = Scanner.restore(symbols, rows[5 : 5 + 752])
    solved = whole._certified
    bare = Scanner(symbols)
    with pytest.raises(InvariantError, match="solved windows"):
        bare._certified_scan(solved, 1, 0)
    with pytest.raises(InvariantError, match="solved windows"):
        bare._float_scan(None, 1, 0)
    with pytest.raises(InvariantError, match="accepted bar"):
        bare._record(0, [], None, (), (), 512)
    bare._solver = None
    with pytest.raises(InvariantError, match="no solver"):
        bare.update(Bar(1, np.ones(8)), 0)
    wide = [s._replace(rad=1 << (s.bits - 40)) for s in (solved[0].lam,)]
    blunt = replace(solved[0], lam=wide[0])
    with pytest.raises(InvariantError, match="certified solver"):
        bare._window(0, blunt, solved[0], 1)


def test_wrong_shapes_and_names_are_refused(symbols, fast):
    machine = Scanner(symbols)
    with pytest.raises(DataError, match="shape"):
        machine.update(Bar(1, np.ones(3)), 0)
    with pytest.raises(DataError, match="no bar"):
        machine.ring_row()
    with pytest.raises(DataError, match="expected one of"):
        Scanner(symbols, path="fancy")
    with pytest.raises(DataError, match="1 to 400"):
        Scanner(())
    rows = fast[2][:3]
    with pytest.raises(DataError, match="assets"):
        Scanner.restore(symbols[:2], rows)
    with pytest.raises(DataError, match="time order"):
        Scanner.restore(symbols, rows[::-1])
    assert Scanner.restore(symbols, []).progress == {"bars": 0, "of": 752}


def test_warm_leaves_nothing_behind():
    warm()
    warm()


# ---- ring records

floats = st.floats(allow_nan=True, width=64)


@given(
    st.integers(1, 6).flatmap(lambda n: st.tuples(*[st.lists(floats, min_size=n, max_size=n)] * 2)), st.data()
)
@settings(max_examples=50, deadline=None)
def test_ring_record_round_trip(arrays, data):
    prices, returns = (np.array(a) for a in arrays)
    n = len(prices)
    fresh = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    run_lengths = np.array(data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)), np.int64)
    row = RingRow(data.draw(st.integers(-(2**63), 2**63 - 1)), prices, returns, fresh, run_lengths)
    record = encode_row(row)
    assert len(record) == row_bytes(n)
    back = decode_row(record)
    assert back.timestamp_ns == row.timestamp_ns
    assert encode_row(back) == record
    assert back.fresh.tolist() == fresh.tolist()
    assert back.rejections.tolist() == run_lengths.tolist()
    at = data.draw(st.integers(0, len(record) - 1))
    damaged = bytearray(record)
    damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(DataError):
        decode_row(bytes(damaged))
    with pytest.raises(DataError):
        decode_row(record[:at])


def test_ring_row_is_a_copy(symbols, bars):
    machine = Scanner(symbols)
    machine.update(bars[0], 0)
    row = machine.ring_row()
    before = encode_row(row)
    machine.update(bars[1], 1)
    assert encode_row(row) == before
    assert encode_row(replace(row)) == before
