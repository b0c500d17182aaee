"""The daily scan cache: build, resume, rebuild, verify, refuse."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from dolphin.domain.clock import NS_PER_DAY, NS_PER_S
from dolphin.domain.errors import DataError, StoreError, UsageError
from dolphin.domain.scan import WINDOWS, Scan
from dolphin.market import cache_writer
from dolphin.market.feed import Feed
from dolphin.market.recorded import RecordedFeed
from dolphin.market.scan_cache import (
    FIELDS,
    CacheFeed,
    CacheReader,
    CacheWriter,
    PartialDayError,
    compact_day,
    is_cache,
    verify_day,
)
from dolphin.market.scan_store import ScanStore
from dolphin.market.sources import open_recorded

T0 = 1_767_571_200_000_000_000  # 2026-01-05T00:00:00Z
INTERVAL = 3_600 * NS_PER_S
SYMBOLS = ("BTCUSDT", "ETHUSDT", "XRPUSDT")
SOURCE = "ab" * 32


def make_scan(number, timestamp_ns=None, **changes) -> Scan:
    values = {}
    for k, w in enumerate(WINDOWS):
        values |= {
            f"w{w}_lambda_max": 2.0 + 1 / (k + number),
            f"w{w}_velocity": (-1) ** number / (3.0 + k + number),
            f"w{w}_rotation": 0.01,
            f"w{w}_instability": 0.1 * number,
        }
    values |= {
        "vel_div": 1 / 3 - number,
        "regime_signal": 0.0,
        "instability_composite": 0.1,
        "assets": SYMBOLS,
        "asset_prices": (90_000.0 + number, 3_000.0 + number / 7, None if number < 3 else 2.0),
        "asset_loadings": (0.6, 0.6, 0.5),
        "stale_assets": ("XRPUSDT",) if number % 5 == 0 or number < 3 else (),
        "certified_bits": (512, 520, 530, 513 + number % 3),
        "outcome": ("ok", "ok", "ok", "clustered" if number == 4 else "ok"),
    }
    stamp = T0 + (number - 1) * INTERVAL if timestamp_ns is None else timestamp_ns
    return Scan(scan_number=number, timestamp_ns=stamp, **(values | changes))


def day_of_scans(first=1, n=24):
    return [make_scan(k) for k in range(first, first + n)]


def build(root, scans, complete=True, **options) -> CacheWriter:
    writer = CacheWriter(root, SYMBOLS, INTERVAL, SOURCE, source="test", **options)
    for scan in scans:
        writer.add(scan)
    writer.finish(complete)
    return writer


def one_line(error) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_written_is_read_to_the_last_bit(tmp_path):
    scans = day_of_scans(n=50)
    build(tmp_path, scans)
    reader = CacheReader(tmp_path)
    assert reader.days() == ("2026-01-05", "2026-01-06", "2026-01-07")
    assert [verify_day(reader, d, scans[24 * k : 24 * k + 24]) for k, d in enumerate(reader.days())] == [
        24,
        24,
        2,
    ]
    rows = [row for day in reader.days() for row in reader.scans(day)]
    assert [r.vel_div for r in rows] == [s.vel_div for s in scans]
    assert [r.stale for r in rows] == [s.stale_assets for s in scans]
    assert np.isnan(rows[0].prices[2])
    assert rows[9].v750 == scans[9].w750_velocity
    assert rows[9].instability_50 == scans[9].w50_instability
    with pytest.raises(ValueError, match="read-only"):
        rows[0].prices[0] = 1.0
    assert reader.stale_mask("2026-01-05")[:, 2].sum() == 6


def test_the_file_has_the_columns_of_the_specification(tmp_path):
    build(tmp_path, day_of_scans())
    table = pq.read_table(tmp_path / "scan_cache" / "2026-01-05.parquet")
    assert table.schema.names == [
        "timestamp_ns", "scan_number", "vel_div",
        "v50_lambda_max_velocity", "v150_lambda_max_velocity", "v300_lambda_max_velocity",
        "v750_lambda_max_velocity", "instability_50", "instability_150", *SYMBOLS,
    ]  # fmt: skip
    assert len(FIELDS) == 9
    meta = pq.ParquetFile(tmp_path / "scan_cache" / "2026-01-05.parquet").metadata
    assert meta.row_group(0).column(2).compression == "ZSTD"


def test_the_manifest_lists_what_completeness_means(tmp_path):
    scans = [s for s in day_of_scans(n=30) if not 10 <= s.scan_number < 13]
    scans = [msgspec.structs.replace(s, scan_number=k + 1) for k, s in enumerate(scans)]
    build(tmp_path, scans)
    manifest = json.loads((tmp_path / "scan_cache" / "manifest.json").read_text())
    day = manifest["days"]["2026-01-05"]
    assert (day["rows"], day["missing_bars"], day["complete"], day["number_gaps"]) == (21, 3, True, 0)
    assert (day["first_scan_number"], day["last_scan_number"]) == (1, 21)
    assert day["min_certified_bits"] == 512
    assert day["outcomes"] == {"clustered": 1, "ok": 21}
    assert manifest["gaps"] == [[T0 + 8 * INTERVAL, T0 + 12 * INTERVAL, 3]]
    assert (manifest["interval_ns"], manifest["warmup_bars"]) == (INTERVAL, 751)
    assert manifest["source_id"] == SOURCE
    assert manifest["finished"]
    assert CacheReader(tmp_path).check("2026-01-05") == []


@pytest.mark.parametrize("column", ["scan_number", "v50_lambda_max_velocity", "XRPUSDT", "stale"])
def test_a_file_that_is_read_back_otherwise_is_no_day(tmp_path, monkeypatch, column):
    """A bit that a disk loses, in numbers, in a NaN, in the stale rows: the manifest never names that day."""
    real = cache_writer.load_day

    def worn(*args):
        columns, stale = real(*args)
        if column == "stale":
            return columns, {**stale, "BTCUSDT": [[3, 1]]}
        bits = columns[column].copy().view(np.int64)
        bits[1] ^= 1
        return {**columns, column: bits.view(columns[column].dtype)}, stale

    monkeypatch.setattr(cache_writer, "load_day", worn)
    with pytest.raises(DataError, match="not what was written; check the disk, build it again") as error:
        build(tmp_path, day_of_scans())
    one_line(error)
    assert CacheReader(tmp_path).days() == ()


def test_days_that_others_wrote_are_taken_over_in_order(tmp_path):
    scans = day_of_scans(n=48)
    build(tmp_path / "twin", scans)
    (tmp_path / "mine" / "scan_cache").mkdir(parents=True)
    writer = CacheWriter(tmp_path / "mine", SYMBOLS, INTERVAL, SOURCE, source="test")
    built = []
    for first in (0, 24):
        day = cache_writer.DayBuilder(
            f"2026-01-0{5 + first // 24}", SYMBOLS, writer.manifest.universe_id, INTERVAL
        )
        for k in range(first, first + 24):
            day.add(scans[k], (scans[k - 1].scan_number, scans[k - 1].timestamp_ns) if k else None)
        built.append(day.write(writer.folder, complete=True))
    for item in built:
        writer.take_day(item)
    with pytest.raises(DataError, match=r"2026-01-05: begins with scan 1 at .*growing numbers and times"):
        writer.take_day(built[0])
    writer.finish()
    for name in ("manifest.json", "2026-01-05.parquet", "2026-01-06.parquet"):
        twin, mine = (tmp_path / x / "scan_cache" / name for x in ("twin", "mine"))
        assert twin.read_bytes() == mine.read_bytes()


def test_ambiguous_columns_are_nan(tmp_path):
    scans = [make_scan(1, w50_instability=None, w50_rotation=None, asset_loadings=None)]
    build(tmp_path, scans)
    reader = CacheReader(tmp_path)
    assert np.isnan(next(reader.scans("2026-01-05")).instability_50)
    assert verify_day(reader, "2026-01-05", scans) == 1


def test_a_half_built_day_is_refused_unless_partial_days_are_allowed(tmp_path):
    build(tmp_path, day_of_scans(n=36), complete=False)
    reader = CacheReader(tmp_path)
    assert reader.check("2026-01-05") == []
    with pytest.raises(DataError, match=r"2026-01-06 is refused: half built, its last scan is of 11:00:00"):
        reader.check("2026-01-06")
    assert len(reader.check("2026-01-06", allow_partial=True)) == 1
    assert not reader.manifest.finished


def test_a_build_without_its_end_is_refused_unless_a_last_day_is_named(tmp_path):
    def reader_of(n, end=None):
        root = tmp_path / f"{n}{end}"
        writer = CacheWriter(root, SYMBOLS, INTERVAL, SOURCE)
        for scan in day_of_scans(n=n):
            writer.add(scan)
        if end is not None:
            writer.finish(complete=end)
        return CacheReader(root)

    killed = reader_of(49)  # two days are closed; the third was in hand when it was killed
    assert killed.days() == ("2026-01-05", "2026-01-06")
    for last_day in (None, "2026-01-07", "2026-02-01"):
        with pytest.raises(PartialDayError) as error:
            killed.check_end(last_day)
        assert one_line(error) == (
            f"{killed.folder}: the build has not reached its end; last whole day 2026-01-06: run data build"
            " again, or name the last day (--to, last_day)"
        )
        assert len(killed.check_end(last_day, allow_partial=True)) == 1
    for last_day in ("2026-01-05", "2026-01-06"):
        assert killed.check_end(last_day) == []
    assert reader_of(49, True).check_end() == []
    half = reader_of(49, False)  # here the day itself is refused, by its name
    assert half.check_end() == []
    with pytest.raises(PartialDayError, match="half built"):
        half.check("2026-01-07")


def test_gaps_are_those_between_the_first_and_the_last_of_the_days(tmp_path):
    scans = [make_scan(k, T0 + (k - 1 + 2 * (k > 4) + 3 * (k > 28)) * INTERVAL) for k in range(1, 60)]
    build(tmp_path, scans)
    reader = CacheReader(tmp_path)
    days = reader.days()
    assert [gap.n_missing for gap in reader.gaps(days)] == [2, 3]
    assert [gap.n_missing for gap in reader.gaps(days[:1])] == [2]
    assert [gap.n_missing for gap in reader.gaps(days[1:2])] == [3]
    assert reader.gaps(()) == ()


def test_a_hole_in_the_numbers_is_never_whole(tmp_path):
    build(tmp_path, [s for s in day_of_scans() if s.scan_number != 7])
    with pytest.raises(DataError, match=r"1 hole in its scan numbers"):
        CacheReader(tmp_path).check("2026-01-05")


def test_numbers_may_jump_between_days(tmp_path):
    build(
        tmp_path, day_of_scans(n=24) + [make_scan(k + 100, T0 + NS_PER_DAY + k * INTERVAL) for k in range(24)]
    )
    assert CacheReader(tmp_path).check("2026-01-06") == []


def test_building_goes_on_where_it_stopped(tmp_path):
    scans = day_of_scans(n=60)
    build(tmp_path / "whole", scans)
    build(tmp_path / "parts", scans[:40], complete=False)
    again = CacheWriter(tmp_path / "parts", SYMBOLS, INTERVAL, SOURCE, source="test")
    assert again.last == (24, T0 + 23 * INTERVAL)
    for scan in scans:
        again.add(scan)
    again.finish()
    assert again.n_passed == 24
    for name in ("manifest.json", "2026-01-05.parquet", "2026-01-06.parquet", "2026-01-07.parquet"):
        a, b = (tmp_path / x / "scan_cache" / name for x in ("whole", "parts"))
        assert a.read_bytes() == b.read_bytes()


def test_another_source_is_refused_and_a_rebuild_keeps_the_old_files(tmp_path):
    build(tmp_path, day_of_scans())
    old = (tmp_path / "scan_cache" / "2026-01-05.parquet").read_bytes()
    with pytest.raises(StoreError, match="built from source"):
        CacheWriter(tmp_path, SYMBOLS, INTERVAL, "cd" * 32)
    with pytest.raises(StoreError, match="built from universe"):
        CacheWriter(tmp_path, SYMBOLS[::-1], INTERVAL, SOURCE)
    with pytest.raises(StoreError, match="built from interval"):
        CacheWriter(tmp_path, SYMBOLS, INTERVAL * 2, SOURCE)
    for stale in ("2026-01-05.parquet.STALE_20260109", "2026-01-05.parquet.STALE_20260109.2"):
        build(tmp_path, day_of_scans(n=23), stale_stamp="20260109")
        assert (tmp_path / "scan_cache" / stale).exists()
    assert (tmp_path / "scan_cache" / "2026-01-05.parquet.STALE_20260109").read_bytes() == old
    assert CacheReader(tmp_path).days() == ("2026-01-05",)
    with pytest.raises(UsageError, match="stale_stamp is 'today'"):
        build(tmp_path, [], stale_stamp="today")


def test_scans_that_do_not_belong(tmp_path):
    writer = CacheWriter(tmp_path, SYMBOLS, INTERVAL, SOURCE)
    writer.add(make_scan(2))
    for scan in (make_scan(3, T0), make_scan(2, T0 + 5 * INTERVAL)):
        with pytest.raises(DataError, match="growing numbers and times"):
            writer.add(scan)
    with pytest.raises(DataError, match="universe"):
        writer.add(make_scan(3, assets=SYMBOLS[::-1]))


class TestDamage:
    DAY = "2026-01-05"

    def make(self, tmp_path):
        build(tmp_path, day_of_scans())
        return tmp_path / "scan_cache" / f"{self.DAY}.parquet"

    def refused(self, tmp_path, words):
        with pytest.raises(DataError) as error:
            CacheReader(tmp_path).check(self.DAY)
        assert self.DAY in one_line(error)
        assert words in str(error.value)

    @pytest.mark.parametrize("allow_partial", [False, True])
    def test_other_content_is_never_admitted(self, tmp_path, allow_partial):
        path = self.make(tmp_path)
        pq.write_table(pq.read_table(path), path, compression="gzip")  # the same rows, other bytes
        with pytest.raises(DataError) as error:
            CacheReader(tmp_path).check(self.DAY, allow_partial)
        assert not isinstance(error.value, PartialDayError)
        assert one_line(error) == (
            f"{path}: {self.DAY} is refused: its content is not what the manifest records; build it again"
        )

    def test_every_flipped_byte_is_refused(self, tmp_path):
        path = self.make(tmp_path)
        content = path.read_bytes()
        for at in range(0, len(content), 31):
            path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
            with pytest.raises(DataError, match=self.DAY) as error:
                CacheReader(tmp_path).check(self.DAY, allow_partial=True)
            assert not isinstance(error.value, PartialDayError)

    @pytest.mark.parametrize(
        "rows", [[*range(12)], [*range(10), *range(11, 24)], [*range(24), 23]], ids=["few", "hole", "many"]
    )
    def test_other_rows_are_counted(self, tmp_path, rows):
        path = self.make(tmp_path)
        pq.write_table(pq.read_table(path).take(rows), path)
        with pytest.raises(DataError) as error:
            CacheReader(tmp_path).check(self.DAY, allow_partial=True)
        assert f"not what the manifest records ({len(rows)} of 24 rows); build it again" in one_line(error)

    def test_building_again_heals_a_day_that_is_another(self, tmp_path):
        build(tmp_path, day_of_scans(n=72))
        folder = tmp_path / "scan_cache"
        whole = {path.name: path.read_bytes() for path in folder.iterdir()}
        path = folder / "2026-01-06.parquet"
        path.write_bytes(path.read_bytes()[:-9] + b"x" + path.read_bytes()[-8:])
        writer = build(tmp_path, day_of_scans(n=72))
        assert writer.n_passed == 24
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole

    def test_cut_off(self, tmp_path):
        path = self.make(tmp_path)
        path.write_bytes(path.read_bytes()[:-50])
        self.refused(tmp_path, "cannot be read")

    def test_gone(self, tmp_path):
        self.make(tmp_path).unlink()
        self.refused(tmp_path, "is gone")

    def test_other_columns(self, tmp_path):
        path = self.make(tmp_path)
        pq.write_table(pq.read_table(path).drop_columns(["ETHUSDT"]), path)
        self.refused(tmp_path, "other columns")

    def test_no_metadata(self, tmp_path):
        path = self.make(tmp_path)
        pq.write_table(pq.read_table(path).replace_schema_metadata({}), path)
        self.refused(tmp_path, "metadata")

    def test_a_day_it_does_not_have(self, tmp_path):
        self.make(tmp_path)
        with pytest.raises(DataError, match="no day 2026-01-09; it has 2026-01-05 to 2026-01-05"):
            CacheReader(tmp_path).check("2026-01-09")

    def test_manifests(self, tmp_path):
        self.make(tmp_path)
        manifest = tmp_path / "scan_cache" / "manifest.json"
        good = manifest.read_text()
        manifest.write_text(good[: len(good) // 2])
        with pytest.raises(DataError, match="no manifest of a cache"):
            CacheReader(tmp_path)
        manifest.write_text(good.replace("scan cache 1", "scan cache 9"))
        with pytest.raises(DataError, match="format is 'dolphin scan cache 9'"):
            CacheReader(tmp_path)
        manifest.unlink()
        with pytest.raises(StoreError, match=r"no manifest\.json"):
            CacheReader(tmp_path)
        with pytest.raises(StoreError, match=r"holds days but no manifest\.json"):
            CacheWriter(tmp_path, SYMBOLS, INTERVAL, SOURCE)


class TestFromArrow:
    def store(self, tmp_path, scans):
        store = ScanStore(tmp_path)
        for scan in scans:
            store.write(scan)
        return store

    def test_a_finished_day(self, tmp_path):
        store = self.store(tmp_path, day_of_scans(n=30))
        entry = compact_day(store, tmp_path, "2026-01-05", INTERVAL, SOURCE)
        assert entry.complete
        assert entry.rows == 24
        half = compact_day(store, tmp_path, "2026-01-06", INTERVAL, SOURCE)
        assert not half.complete
        reader = CacheReader(tmp_path)
        assert reader.check("2026-01-05") == []
        with pytest.raises(DataError, match="half built"):
            reader.check("2026-01-06")

    def test_a_half_built_day_is_built_again_when_it_is_whole(self, tmp_path):
        store = self.store(tmp_path, day_of_scans(n=30))
        compact_day(store, tmp_path, "2026-01-06", INTERVAL, SOURCE)
        for scan in day_of_scans(31, 18):
            store.write(scan)
        assert compact_day(store, tmp_path, "2026-01-06", INTERVAL, SOURCE).complete
        compact_day(store, tmp_path, "2026-01-05", INTERVAL, SOURCE)  # an earlier day later
        assert CacheReader(tmp_path).days() == ("2026-01-05", "2026-01-06")
        assert CacheReader(tmp_path).manifest.gaps == []

    def test_a_whole_day_is_built_again_only_as_a_rebuild(self, tmp_path):
        store = self.store(tmp_path, day_of_scans(n=48))
        for day in ("2026-01-05", "2026-01-06"):
            compact_day(store, tmp_path, day, INTERVAL, SOURCE)
        with pytest.raises(StoreError, match="whole already"):
            compact_day(store, tmp_path, "2026-01-05", INTERVAL, SOURCE)
        compact_day(store, tmp_path, "2026-01-05", INTERVAL, SOURCE, stale_stamp="20260107")
        assert (tmp_path / "scan_cache" / "2026-01-05.parquet.STALE_20260107").exists()
        assert CacheReader(tmp_path).check("2026-01-06") == []

    def test_a_day_without_scans(self, tmp_path):
        with pytest.raises(DataError, match="nothing to compact"):
            compact_day(ScanStore(tmp_path), tmp_path, "2026-01-05", INTERVAL, SOURCE)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"vel_div": 7.0}, "row 3: vel_div"),
            ({"asset_prices": (1.0, 2.0, 3.0)}, "row 3: BTCUSDT"),
            ({"stale_assets": ("BTCUSDT",)}, "row 3: stale"),
        ],
    )
    def test_verification_names_the_first_difference(self, tmp_path, changes, words):
        scans = day_of_scans()
        build(tmp_path, scans)
        scans[3] = msgspec.structs.replace(scans[3], **changes)
        with pytest.raises(DataError, match=words):
            verify_day(CacheReader(tmp_path), "2026-01-05", scans)
        with pytest.raises(DataError, match="more rows"):
            verify_day(CacheReader(tmp_path), "2026-01-05", day_of_scans(n=20))
        with pytest.raises(DataError, match="fewer"):
            verify_day(CacheReader(tmp_path), "2026-01-05", day_of_scans(n=30))


class TestCacheFeed:
    def test_prices_come_back_and_stale_ones_are_nan(self, tmp_path):
        scans = day_of_scans(n=40)
        build(tmp_path, scans)
        for path in (tmp_path, tmp_path / "scan_cache"):
            assert is_cache(path)
            feed = open_recorded(path)
            assert isinstance(feed, CacheFeed)
            assert isinstance(feed, Feed)
            bars = list(feed.bars())
            assert feed.n_bars == len(bars) == 40
            assert [b.timestamp_ns for b in bars] == [s.timestamp_ns for s in scans]
            assert np.isnan(bars[4].prices[2])
            assert bars[5].prices.tolist() == list(scans[5].asset_prices)
        assert [b.timestamp_ns for b in feed.bars(30)] == [s.timestamp_ns for s in scans[30:]]

    def test_one_day_and_a_smaller_universe(self, tmp_path):
        build(tmp_path, day_of_scans(n=40))
        feed = open_recorded(tmp_path / "scan_cache" / "2026-01-06.parquet", universe=["ETHUSDT"])
        assert feed.symbols == ("ETHUSDT",)
        assert feed.n_bars == 16
        with pytest.raises(DataError, match="no column DOGEUSDT"):
            open_recorded(tmp_path, universe=["DOGEUSDT"])

    def test_a_half_built_day_is_refused(self, tmp_path):
        build(tmp_path, day_of_scans(n=40), complete=False)
        with pytest.raises(DataError, match="half built"):
            open_recorded(tmp_path)
        assert any("half built" in note for note in CacheFeed(tmp_path, allow_partial=True).notes)

    def test_a_closed_feed_and_an_empty_cache(self, tmp_path):
        build(tmp_path, day_of_scans())
        feed = CacheFeed(tmp_path)
        feed.close()
        with pytest.raises(StoreError, match="closed"):
            next(feed.bars())
        build(tmp_path / "none", [])
        with pytest.raises(DataError, match="holds no day"):
            CacheFeed(tmp_path / "none")

    def test_a_panel_is_no_cache(self, tmp_path):
        build(tmp_path, day_of_scans())
        path = tmp_path / "panel.parquet"
        table = pq.read_table(tmp_path / "scan_cache" / "2026-01-05.parquet")
        ts = table.column("timestamp_ns")
        pq.write_table(table.select(["BTCUSDT"]).append_column("ts", ts), path)
        assert isinstance(open_recorded(path), RecordedFeed)
