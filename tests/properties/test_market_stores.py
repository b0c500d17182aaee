"""Properties of the market's stores: what was written comes back, wherever the writer was cut off."""

from __future__ import annotations

import tempfile
from pathlib import Path

import hypothesis.strategies as st
import msgspec
from hypothesis import given, settings

from dolphin.domain.errors import DataError
from dolphin.domain.scan import COLUMNS, OUTCOMES, WINDOWS, Scan
from dolphin.market.price_ring import PriceRing
from dolphin.market.scan_cache import CacheReader, CacheWriter, verify_day
from dolphin.market.scan_store import ScanStore, decode_scan

SYMBOLS = ("BTCUSDT", "ETHUSDT", "1000PEPEUSDT")
T0 = 1_767_571_200_000_000_000

finite = st.floats(-1e15, 1e15, allow_nan=False)
price = st.floats(1e-12, 1e12, allow_nan=False) | st.none()
triple = st.tuples(finite, finite, finite)


@st.composite
def scans(draw, number=None, timestamp_ns=None):
    values = {}
    for w in WINDOWS:
        values |= {
            f"w{w}_lambda_max": draw(finite),
            f"w{w}_velocity": draw(finite),
            f"w{w}_rotation": draw(finite | st.none()),
            f"w{w}_instability": draw(finite | st.none()),
        }
    return Scan(
        scan_number=draw(st.integers(0, 10**12)) if number is None else number,
        timestamp_ns=draw(st.integers(0, 4 * 10**18)) if timestamp_ns is None else timestamp_ns,
        **values,
        vel_div=draw(finite),
        regime_signal=draw(st.sampled_from([-1.0, 0.0, 1.0])),
        instability_composite=draw(finite | st.none()),
        assets=SYMBOLS,
        asset_prices=draw(st.tuples(price, price, price)),
        asset_loadings=draw(triple | st.none()),
        data_quality_score=draw(st.floats(0.0, 1.0)),
        missing_asset_count=draw(st.integers(0, 3)),
        stale_assets=tuple(s for s in SYMBOLS if draw(st.booleans())),
        universe_id="0123456789abcdef",
        certified_bits=draw(st.tuples(*[st.integers(0, 4096)] * 4)),
        outcome=draw(st.tuples(*[st.sampled_from(OUTCOMES)] * 4)),
    )


@given(scan=scans())
@settings(max_examples=60, deadline=None)
def test_any_scan_comes_back_bit_for_bit(scan):
    with tempfile.TemporaryDirectory() as root:
        store = ScanStore(root)
        path = store.write(scan)
        assert msgspec.json.encode(store.read(path)) == msgspec.json.encode(scan)
        assert store.next_scan_number() == scan.scan_number + 1
        assert store.write(scan) == path


@given(
    scan=scans(), cut=st.floats(0.0, 1.0, exclude_max=True), flips=st.lists(st.floats(0.0, 0.999), max_size=3)
)
@settings(max_examples=150, deadline=None)
def test_damaged_bytes_give_a_scan_or_one_named_error(scan, cut, flips):
    with tempfile.TemporaryDirectory() as root:
        content = bytearray(ScanStore(root).write(scan).read_bytes())
    for where in flips:
        content[int(where * len(content))] ^= 0x41
    if not flips:
        del content[int(cut * len(content)) :]
    try:
        got = decode_scan(bytes(content), "file")
    except DataError as error:
        message = str(error)
        got = None
    else:
        message = ""
    assert "\n" not in message
    if got is not None:
        assert set(COLUMNS) <= set(got.__struct_fields__)
        assert flips


@given(
    rows=st.lists(st.binary(min_size=12, max_size=12), max_size=40),
    keep=st.integers(1, 6),
    cut=st.integers(0, 30),
)
@settings(max_examples=60, deadline=None)
def test_a_ring_keeps_the_last_whole_rows_wherever_it_was_cut(rows, keep, cut):
    with tempfile.TemporaryDirectory() as root:
        path = Path(root) / "ring"
        ring = PriceRing(path, 12, "0" * 16, keep=keep)
        for row in rows:
            ring.append(row)
        ring.close()
        assert ring.rows() == rows[-keep:]
        whole = path.read_bytes()
        body = len(whole) - 32
        path.write_bytes(whole[: len(whole) - min(cut, body)])
        again = PriceRing(path, 12, "0" * 16, keep=keep)
        lost = -(-min(cut, body) // 16)
        on_disk = body // 16
        kept = rows[len(rows) - on_disk : len(rows) - lost]
        assert again.rows() == kept[-keep:]
        again.close()


@given(data=st.data(), n=st.integers(1, 8))
@settings(max_examples=25, deadline=None)
def test_a_cache_is_equal_to_its_scans(data, n):
    day = [data.draw(scans(number=k + 1, timestamp_ns=T0 + k * 5_000_000_000)) for k in range(n)]
    with tempfile.TemporaryDirectory() as root:
        writer = CacheWriter(root, SYMBOLS, 5_000_000_000, "ab" * 32)
        for scan in day:
            writer.add(scan)
        writer.finish()
        reader = CacheReader(root)
        assert reader.check("2026-01-05") == []
        assert verify_day(reader, "2026-01-05", day) == n
