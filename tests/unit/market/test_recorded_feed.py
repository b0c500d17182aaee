"""Recorded panels: layouts, times, universes, and every kind of bad input."""

from __future__ import annotations

import os
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dolphin.domain.errors import ConfigError, DataError, DolphinError, StoreError, UsageError
from dolphin.market.feed import Feed
from dolphin.market.recorded import RecordedFeed

MINUTE = 60_000_000_000
T0 = 1_617_321_600_000_000_000  # 2021-04-02T00:00:00Z
RECORDINGS = Path(os.environ.get("DOLPHIN_RECORDINGS", Path(__file__).parents[4] / "shared" / "data"))


def stamps(n=5, unit="ns", tz="UTC"):
    ns = pa.array([T0 + i * MINUTE for i in range(n)], pa.timestamp("ns", tz=tz))
    return ns.cast(pa.timestamp(unit, tz=tz))


def write(tmp_path, **columns):
    path = tmp_path / "panel.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def wide(tmp_path, n=5, **columns):
    base = {"BTCUSDT": np.linspace(100.0, 104.0, n), "ETHUSDT": np.linspace(10.0, 14.0, n)}
    return write(tmp_path, ts=stamps(n), **(base | columns))


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 400
    assert isinstance(error.value, DolphinError)
    return text


def prices_of(feed):
    return np.array([bar.prices for bar in feed.bars()])


def test_wide_bars_are_stamped_at_their_close(tmp_path):
    feed = RecordedFeed(wide(tmp_path))
    bars = list(feed.bars())
    assert isinstance(feed, Feed)
    assert feed.symbols == ("BTCUSDT", "ETHUSDT")
    assert feed.interval_ns == MINUTE
    assert feed.n_bars == len(bars) == 5
    assert [bar.timestamp_ns for bar in bars] == [T0 + (i + 1) * MINUTE for i in range(5)]
    assert bars[4].prices.tolist() == [104.0, 14.0]
    assert not feed.rejections


def test_skip_gives_the_rest(tmp_path):
    feed = RecordedFeed(wide(tmp_path))
    assert [b.timestamp_ns for b in feed.bars(3)] == [b.timestamp_ns for b in feed.bars()][3:]
    assert list(feed.bars(99)) == []


def test_bars_cannot_be_written_to(tmp_path):
    bar = next(RecordedFeed(wide(tmp_path)).bars())
    with pytest.raises(ValueError, match="read-only"):
        bar.prices[0] = 1.0


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("tz", ["UTC", None])
def test_any_timestamp_unit(tmp_path, unit, tz):
    feed = RecordedFeed(write(tmp_path, ts=stamps(4, unit, tz), BTCUSDT=[1.0, 2.0, 3.0, 4.0]))
    assert next(feed.bars()).timestamp_ns == T0 + MINUTE


def test_a_zone_other_than_utc_is_the_same_instant(tmp_path):
    feed = RecordedFeed(write(tmp_path, ts=stamps(3, "ns", "Asia/Tokyo"), BTCUSDT=[1.0, 2.0, 3.0]))
    assert next(feed.bars()).timestamp_ns == T0 + MINUTE


@pytest.mark.parametrize("factor", [1, 10**3, 10**6, 10**9])
def test_integer_time_is_read_by_its_magnitude(tmp_path, factor):
    ts = np.array([T0 + i * MINUTE for i in range(3)]) // factor
    feed = RecordedFeed(write(tmp_path, ts=ts, BTCUSDT=[1.0, 2.0, 3.0]))
    assert next(feed.bars()).timestamp_ns == T0 + MINUTE


def test_long_is_pivoted_on_close(tmp_path):
    t = [T0, T0, T0 + MINUTE, T0 + MINUTE, T0 + 2 * MINUTE]
    path = write(
        tmp_path,
        ts=pa.array(t, pa.timestamp("ns", "UTC")),
        symbol=pa.array(["BTCUSDT", "ETHUSDT", "ETHUSDT", "BTCUSDT", "BTCUSDT"]).dictionary_encode(),
        open=[0.0] * 5,
        close=[1.0, 10.0, 11.0, 2.0, 3.0],
    )
    feed = RecordedFeed(path)
    assert feed.layout == "long"
    np.testing.assert_array_equal(prices_of(feed), [[1.0, 10.0], [2.0, 11.0], [3.0, np.nan]])
    assert feed.rejections == {("ETHUSDT", "missing"): 1}
    assert RecordedFeed(path, universe=["ETHUSDT", "BTCUSDT"]).symbols == ("ETHUSDT", "BTCUSDT")


def test_long_with_a_row_twice_keeps_the_first(tmp_path):
    path = write(
        tmp_path,
        ts=pa.array([T0, T0, T0 + MINUTE], pa.timestamp("ns", "UTC")),
        symbol=["BTCUSDT"] * 3,
        close=["1.0", "9.0", "x"],
    )
    feed = RecordedFeed(path)
    np.testing.assert_array_equal(prices_of(feed), [[1.0], [np.nan]])
    assert feed.rejections == {("BTCUSDT", "duplicate_row"): 1, ("BTCUSDT", "text"): 1}
    assert any("2021-04-02T00:02:00" in note for note in feed.notes if "text" in note)


def test_bad_values_become_nan_and_are_counted_by_symbol_and_rule(tmp_path):
    bad = [np.nan, 0.0, -1.0, np.inf, 5.0]
    feed = RecordedFeed(wide(tmp_path, ETHUSDT=bad, XRPUSDT=["1.5", "abc", None, "-inf", "2"]))
    np.testing.assert_array_equal(prices_of(feed)[:, 1], [np.nan] * 4 + [5.0])
    np.testing.assert_array_equal(prices_of(feed)[:, 2], [1.5, np.nan, np.nan, np.nan, 2.0])
    assert feed.rejections == {
        ("ETHUSDT", "missing"): 1,
        ("ETHUSDT", "zero"): 1,
        ("ETHUSDT", "negative"): 1,
        ("ETHUSDT", "infinite"): 1,
        ("XRPUSDT", "text"): 1,
        ("XRPUSDT", "missing"): 1,
        ("XRPUSDT", "infinite"): 1,
    }
    told = "\n".join(feed.notes)
    assert "XRPUSDT: 1 value rejected (text), the first in the bar of 2021-04-02T00:02:00Z" in told


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1, 2, 3, 4, 5], pa.int32()),
        pa.array([1, 2, 3, 4, 5], pa.float32()),
        pa.array([Decimal(i) for i in range(1, 6)], pa.decimal128(10, 2)),
        pa.array(["1", "2", "3", "4", "5"]).dictionary_encode(),
    ],
)
def test_every_kind_of_number_is_read(tmp_path, column):
    feed = RecordedFeed(wide(tmp_path, ETHUSDT=column))
    assert prices_of(feed)[:, 1].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_column_of_dates_is_text(tmp_path):
    feed = RecordedFeed(wide(tmp_path, ETHUSDT=pa.array([date(2021, 4, 2)] * 5)))
    assert feed.rejections == {("ETHUSDT", "text"): 5}


def test_gaps_are_jumps_of_time_and_told(tmp_path):
    t = [T0 + i * MINUTE for i in (0, 1, 2, 10, 11)]
    feed = RecordedFeed(write(tmp_path, ts=pa.array(t, pa.timestamp("ns")), BTCUSDT=[1.0] * 5))
    assert feed.interval_ns == MINUTE
    assert [gap.n_missing for gap in feed.gaps] == [7]
    assert any("1 gap, 7 bars missing" in note for note in feed.notes)


def test_duplicate_and_backward_times_are_delivered_as_they_come(tmp_path):
    t = [T0 + i * MINUTE for i in (0, 1, 1, 0, 2, 3)]
    feed = RecordedFeed(write(tmp_path, ts=pa.array(t, pa.timestamp("ns")), BTCUSDT=[1.0] * 6))
    assert [bar.timestamp_ns - MINUTE for bar in feed.bars()] == t
    told = "\n".join(feed.notes)
    assert "1 duplicate timestamp" in told
    assert "1 backward timestamp" in told
    assert feed.gaps == ()


def test_universe_files_choose_and_order(tmp_path):
    path = wide(tmp_path, XRPUSDT=[1.0] * 5)
    csv = tmp_path / "u.csv"
    csv.write_text("symbol,rank\nXRPUSDT,1\nBTCUSDT,2\nETHUSDT,3\n")
    assert RecordedFeed(path, universe=csv, assets=2).symbols == ("XRPUSDT", "BTCUSDT")
    yml = tmp_path / "u.yml"
    yml.write_text("- ETHUSDT\n- XRPUSDT\n")
    feed = RecordedFeed(path, universe=str(yml))
    assert feed.symbols == ("ETHUSDT", "XRPUSDT")
    assert not any("fewer" in note for note in feed.notes)
    asked = RecordedFeed(path, universe=str(yml), assets=50)
    assert "u.yml has 2 symbols, fewer than the 50 asked for: all are taken" in asked.notes[0]
    assert feed.source_id != RecordedFeed(path).source_id


def test_a_universe_symbol_the_panel_lacks(tmp_path):
    with pytest.raises(
        DataError, match=r"no column ETHUSD, which the universe asks for\. Did you mean 'ETHUSDT'"
    ):
        RecordedFeed(wide(tmp_path), universe=["BTCUSDT", "ETHUSD"])
    # beyond the assets asked for nobody misses it
    assert RecordedFeed(wide(tmp_path), universe=["BTCUSDT", "ETHUSD"], assets=1).symbols == ("BTCUSDT",)


def test_a_universe_with_a_symbol_twice(tmp_path):
    with pytest.raises(ConfigError, match="BTCUSDT stands twice"):
        RecordedFeed(wide(tmp_path), universe=["BTCUSDT", "BTCUSDT"])


def test_assets_below_one(tmp_path):
    with pytest.raises(UsageError, match="assets is 0"):
        RecordedFeed(wide(tmp_path), assets=0)


def test_columns_that_are_no_symbols_are_left_out_and_told(tmp_path):
    feed = RecordedFeed(wide(tmp_path, __index_level_0__=[1.0] * 5))
    assert feed.symbols == ("BTCUSDT", "ETHUSDT")
    assert any("__index_level_0__" in note for note in feed.notes)


def test_the_same_content_has_the_same_source_id(tmp_path):
    feed = RecordedFeed(wide(tmp_path))
    other = tmp_path / "renamed.parquet"
    other.write_bytes((tmp_path / "panel.parquet").read_bytes())
    assert RecordedFeed(other).source_id == feed.source_id
    assert len(feed.source_id) == 64


def test_a_closed_feed_says_so(tmp_path):
    feed = RecordedFeed(wide(tmp_path))
    feed.close()
    with pytest.raises(StoreError, match="closed"):
        next(feed.bars())


class TestRefusedFiles:
    def check(self, path, kind, *words):
        with pytest.raises(kind) as error:
            RecordedFeed(path)
        text = one_line(error)
        assert str(path) in text
        for word in words:
            assert word in text

    def test_no_such_file(self, tmp_path):
        self.check(tmp_path / "none.parquet", StoreError, "no such file")

    def test_a_folder(self, tmp_path):
        self.check(tmp_path, StoreError, "is a folder")

    def test_no_parquet(self, tmp_path):
        path = tmp_path / "prices.csv"
        path.write_text("ts,BTCUSDT\n1,2\n")
        self.check(path, DataError, "no Parquet file")

    def test_cut_off(self, tmp_path):
        path = wide(tmp_path)
        path.write_bytes(path.read_bytes()[:-20])
        self.check(path, DataError, "no Parquet file")

    def test_damaged_inside(self, tmp_path):
        path = wide(tmp_path, n=4000)
        content = bytearray(path.read_bytes())
        content[40:4000] = b"\xff" * 3960
        path.write_bytes(content)
        self.check(path, DataError, "damaged")

    def test_no_bytes(self, tmp_path):
        path = tmp_path / "empty.parquet"
        path.touch()
        self.check(path, DataError, "no Parquet file")

    def test_no_rows(self, tmp_path):
        self.check(wide(tmp_path, n=0), DataError, "holds 0 rows")

    def test_one_row(self, tmp_path):
        self.check(wide(tmp_path, n=1), DataError, "holds 1 row")

    def test_one_bar_in_a_long_panel(self, tmp_path):
        t = pa.array([T0, T0], pa.timestamp("ns"))
        path = write(tmp_path, ts=t, symbol=["AAUSDT", "BBUSDT"], close=[1.0, 2.0])
        self.check(path, DataError, "holds 1 bar")

    def test_no_ts(self, tmp_path):
        self.check(write(tmp_path, time=[1, 2], BTCUSDT=[1.0, 2.0]), DataError, "no column 'ts'")

    def test_no_symbols(self, tmp_path):
        self.check(write(tmp_path, ts=stamps(3)), DataError, "no symbol columns")

    def test_ts_that_is_text(self, tmp_path):
        self.check(
            write(tmp_path, ts=["a", "b"], BTCUSDT=[1.0, 2.0]), DataError, "ts is string, no timestamp"
        )

    def test_ts_that_is_a_float(self, tmp_path):
        self.check(write(tmp_path, ts=[1.5, 2.5], BTCUSDT=[1.0, 2.0]), DataError, "ts is double")

    @pytest.mark.parametrize("ts", [[1, 2], [0, -5], [2**63 - 2, 2**63 - 1]])
    def test_ts_that_is_a_small_or_huge_integer(self, tmp_path, ts):
        self.check(write(tmp_path, ts=ts, BTCUSDT=[1.0, 2.0]), DataError, "ts")

    def test_ts_with_a_hole(self, tmp_path):
        t = pa.array([T0, None, T0 + MINUTE], pa.timestamp("ns"))
        self.check(
            write(tmp_path, ts=t, BTCUSDT=[1.0] * 3), DataError, "ts is empty in 1 row, first in row 1"
        )

    def test_ts_beyond_nanoseconds(self, tmp_path):
        t = pa.array([datetime(3000, 1, i, tzinfo=UTC) for i in (1, 2)], pa.timestamp("us"))
        self.check(write(tmp_path, ts=t, BTCUSDT=[1.0, 2.0]), DataError, "does not fit nanoseconds")

    def test_ts_that_never_grows(self, tmp_path):
        t = pa.array([T0, T0], pa.timestamp("ns"))
        self.check(write(tmp_path, ts=t, BTCUSDT=[1.0, 2.0]), DataError, "ts never grows")

    def test_a_column_twice(self, tmp_path):
        path = tmp_path / "panel.parquet"
        columns = [stamps(2), pa.array([1.0, 2.0]), pa.array([1.0, 2.0])]
        pq.write_table(pa.Table.from_arrays(columns, names=["ts", "BTCUSDT", "BTCUSDT"]), path)
        self.check(path, DataError, "column BTCUSDT stands 2 times")

    def test_long_with_numbers_for_symbols(self, tmp_path):
        self.check(write(tmp_path, ts=stamps(2), symbol=[1, 2], close=[1.0, 2.0]), DataError, "expected text")

    def test_long_with_a_row_of_no_symbol(self, tmp_path):
        path = write(tmp_path, ts=stamps(2), symbol=["BTCUSDT", None], close=[1.0, 2.0])
        self.check(path, DataError, "1 row without a symbol")


@pytest.mark.recordings
@pytest.mark.skipif(not (RECORDINGS / "klines").is_dir(), reason=f"no recordings at {RECORDINGS}")
def test_the_recorded_panel_of_86_symbols():
    folder = RECORDINGS / "klines"
    feed = RecordedFeed(
        folder / "binance_spot_1m_close_wide_86sym_20210402_20210430.parquet",
        universe=folder / "binance_spot_1m_202104_universe.csv",
    )
    assert (len(feed.symbols), feed.symbols[0], feed.interval_ns, feed.n_bars) == (
        50,
        "BTCUSDT",
        MINUTE,
        41_326,
    )
    assert [gap.n_missing for gap in feed.gaps] == [150, 284]
    assert not feed.rejections
    assert next(feed.bars()).timestamp_ns == T0 + MINUTE


@pytest.mark.recordings
@pytest.mark.skipif(not (RECORDINGS / "klines").is_dir(), reason=f"no recordings at {RECORDINGS}")
def test_long_and_wide_recordings_agree_where_they_overlap():
    folder = RECORDINGS / "klines"
    long = RecordedFeed(folder / "binance_spot_1m_ohlcv_top50_20210425_20210430.parquet")
    wide_panel = RecordedFeed(
        folder / "binance_spot_1m_close_wide_86sym_20210402_20210430.parquet", universe=long.symbols
    )
    n = long.n_bars
    assert n is not None
    for a, b in (
        (long.matrix()[0], wide_panel.matrix()[0][-n:]),
        (long.matrix()[1], wide_panel.matrix()[1][-n:]),
    ):
        np.testing.assert_array_equal(a, b)
