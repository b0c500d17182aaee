"""The Arrow scan store: what is written is read, nothing is overwritten, damage goes to quarantine."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest

from dolphin.domain.errors import DataError, StoreError
from dolphin.domain.scan import COLUMNS, WINDOWS, Scan
from dolphin.market.scan_store import SCHEMA, ScanStore

T0 = 1_767_571_200_000_000_000  # 2026-01-05T00:00:00Z
FIVE_S = 5_000_000_000
DAY = 86_400 * 1_000_000_000


def make_scan(number=1, timestamp_ns=T0, **changes) -> Scan:
    values = {}
    for k, w in enumerate(WINDOWS):
        values |= {
            f"w{w}_lambda_max": 20.0 + k + number / 7.0,
            f"w{w}_velocity": 0.1 / (3 + k + number),
            f"w{w}_rotation": 0.01 * k + 1e-17,
            f"w{w}_instability": 0.1 + 0.2,
        }
    values |= {
        "vel_div": -0.021,
        "regime_signal": -1.0,
        "instability_composite": 1 / 3,
        "assets": ("BTCUSDT", "ETHUSDT", "XRPUSDT"),
        "asset_prices": (84_230.5, 5e-324, None),
        "asset_loadings": (0.6, 0.8, -0.0),
        "missing_asset_count": 1,
        "data_quality_score": 2 / 3,
        "stale_assets": ("XRPUSDT",),
        "universe_id": "0123456789abcdef",
        "certified_bits": (512, 513, 600, 512),
        "outcome": ("ok", "ok", "zero_variance", "clustered"),
    }
    return Scan(scan_number=number, timestamp_ns=timestamp_ns, **(values | changes))


AMBIGUOUS = {
    "w50_rotation": None,
    "w50_instability": None,
    "instability_composite": None,
    "asset_loadings": None,
}


def test_a_scan_comes_back_equal_to_the_last_bit(tmp_path):
    store = ScanStore(tmp_path)
    for scan in (make_scan(1), make_scan(2, T0 + FIVE_S, **AMBIGUOUS)):
        path = store.write(scan)
        assert path == store.path_of(scan)
        assert msgspec.json.encode(store.read(path)) == msgspec.json.encode(scan)


def test_the_file_is_where_and_what_the_specification_says(tmp_path):
    path = ScanStore(tmp_path).write(make_scan(7, T0 + 3_661_000_000_000))
    assert path == tmp_path / "arrow_scans" / "2026-01-05" / "scan_000007_010101.arrow"
    with pa.ipc.open_file(pa.OSFile(str(path))) as reader:
        table = reader.read_all()
    assert tuple(table.schema.names) == COLUMNS
    assert len(COLUMNS) == 27
    assert table.num_rows == 1
    assert set(table.schema.metadata) == {b"universe_id", b"certified_bits", b"outcome", b"stale_assets"}
    assert msgspec.json.decode(table["asset_prices"][0].as_py()) == [84_230.5, 5e-324, None]
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no temporary left


def test_fsync_writes_the_same(tmp_path):
    scan = make_scan()
    assert ScanStore(tmp_path, fsync=True).write(scan).read_bytes()


def test_numbers_go_on_after_the_highest_on_disk(tmp_path):
    assert ScanStore(tmp_path).next_scan_number() == 1
    store = ScanStore(tmp_path)
    for number, day in ((999_999, 0), (1_000_000, 1), (5, 2)):  # a foreign scanner began again at 5
        store.write(make_scan(number, T0 + day * DAY))
    assert ScanStore(tmp_path).next_scan_number() == 1_000_001
    assert store.next_scan_number() == 1_000_001


def test_iteration_is_in_numeric_order_across_days(tmp_path):
    store = ScanStore(tmp_path)
    numbers = [999_998, 999_999, 1_000_000, 1_000_001]
    for k, number in enumerate(numbers):
        store.write(make_scan(number, T0 + k * DAY // 2))
    assert [s.scan_number for s in ScanStore(tmp_path).scans()] == numbers
    assert [s.scan_number for s in store.scans(after=999_999)] == numbers[2:]
    assert list(ScanStore(tmp_path / "empty").scans()) == []


def test_iteration_sees_what_came_since(tmp_path):
    writer, reader = ScanStore(tmp_path), ScanStore(tmp_path)
    for number in range(1, 6):
        writer.write(make_scan(number, T0 + number * DAY))
        assert [s.scan_number for s in reader.scans(after=number - 1)] == [number]
        assert [s.scan_number for s in reader.scans()] == list(range(1, number + 1))


def test_the_same_scan_again_is_no_work(tmp_path):
    path = ScanStore(tmp_path).write(make_scan())
    before = path.stat().st_ino, path.stat().st_mtime_ns
    assert ScanStore(tmp_path).write(make_scan()) == path
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == before


@pytest.mark.parametrize("changes", [{"vel_div": 0.5}, {"stale_assets": ()}, {"timestamp_ns": T0 + DAY}])
def test_a_number_never_gets_other_content(tmp_path, changes):
    store = ScanStore(tmp_path)
    store.write(make_scan())
    other = msgspec.structs.replace(make_scan(), **changes)
    with pytest.raises(StoreError, match=r"scan 1 is there with other content.*Continue from scan 2"):
        store.write(other)
    assert list(ScanStore(tmp_path).scans()) == [make_scan()]


def test_a_number_left_out_can_be_filled_later(tmp_path):
    store = ScanStore(tmp_path)
    for number in (1, 3, 2):
        store.write(make_scan(number, T0 + number * FIVE_S))
    assert [s.scan_number for s in store.scans()] == [1, 2, 3]
    assert store.find(2) == store.path_of(make_scan(2, T0 + 2 * FIVE_S))
    assert store.find(4) is None


def rewrite(path: Path, change) -> None:
    """Write the file again with its table changed."""
    with pa.ipc.open_file(pa.BufferReader(path.read_bytes())) as reader:
        table = change(reader.read_all())
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def with_value(name, value):
    def change(table):
        k = table.schema.get_field_index(name)
        return table.set_column(k, SCHEMA.field(name), pa.array([value], SCHEMA.field(name).type))

    return change


DAMAGE = {
    "cut": (lambda p: p.write_bytes(p.read_bytes()[:-100]), "no whole Arrow file"),
    "empty": (lambda p: p.write_bytes(b""), "no whole Arrow file"),
    "text": (lambda p: p.write_text("hello"), "no whole Arrow file"),
    "huge": (lambda p: os.truncate(p, 5_000_000), "more than any scan has"),
    "column gone": (lambda p: rewrite(p, lambda t: t.drop_columns(["vel_div"])), "expected vel_div"),
    "column more": (lambda p: rewrite(p, lambda t: t.append_column("x", pa.array([1]))), "28 columns"),
    "column order": (lambda p: rewrite(p, lambda t: t.select(list(COLUMNS)[::-1])), "column 0 is"),
    "type": (
        lambda p: rewrite(p, lambda t: t.set_column(0, "scan_number", pa.array([1.0]))),
        "column scan_number is double, expected int64",
    ),
    "rows": (lambda p: rewrite(p, lambda t: pa.concat_tables([t, t]).combine_chunks()), "2 rows"),
    "no rows": (lambda p: rewrite(p, lambda t: t.slice(0, 0)), "expected one"),
    "metadata": (
        lambda p: rewrite(p, lambda t: t.replace_schema_metadata({})),
        "metadata universe_id is missing",
    ),
    "version": (lambda p: rewrite(p, with_value("schema_version", "4.2.0")), "schema version '4.2.0'"),
    "null": (lambda p: rewrite(p, with_value("vel_div", None)), "vel_div is null"),
    "nan": (lambda p: rewrite(p, with_value("vel_div", float("nan"))), "vel_div is nan"),
    "json": (lambda p: rewrite(p, with_value("assets", "[1,")), "malformed"),
    "lengths": (lambda p: rewrite(p, with_value("asset_prices", "[1.0]")), "1 values for 3 assets"),
    "number": (lambda p: rewrite(p, with_value("scan_number", 9)), "holds scan 9"),
}


@pytest.mark.parametrize("kind", sorted(DAMAGE))
def test_damage_is_named_quarantined_and_survived(tmp_path, kind):
    store = ScanStore(tmp_path)
    paths = [store.write(make_scan(n, T0 + n * FIVE_S)) for n in (1, 2, 3)]
    act, words = DAMAGE[kind]
    act(paths[1])
    with pytest.raises(DataError) as error:
        store.read(paths[1])
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert [s.scan_number for s in store.scans()] == [1, 3]
    assert store.n_quarantined == 1
    moved = tmp_path / "quarantine" / paths[1].name
    assert moved.exists()
    assert not paths[1].exists()
    assert words in moved.with_name(moved.name + ".reason.txt").read_text()


def test_every_truncation_is_noticed(tmp_path):
    store = ScanStore(tmp_path)
    path = store.write(make_scan())
    whole = path.read_bytes()
    for n in range(0, len(whole), 97):
        path.write_bytes(whole[:n])
        with pytest.raises(DataError):
            store.read(path)


def test_foreign_names_go_to_quarantine_and_hidden_ones_stay(tmp_path):
    store = ScanStore(tmp_path)
    folder = store.write(make_scan()).parent
    (folder / "notes.arrow").write_bytes(b"x")
    (folder / ".scan_000002_000005.arrow.1.tmp").write_bytes(b"half")
    assert len(list(store.scans())) == 1
    assert store.n_quarantined == 1
    assert (tmp_path / "quarantine" / "notes.arrow").exists()
    (folder / "notes.arrow").write_bytes(b"y")
    assert len(list(store.scans())) == 1
    assert (tmp_path / "quarantine" / "notes.arrow.1").read_bytes() == b"y"


def test_a_root_that_cannot_be_used(tmp_path):
    (tmp_path / "arrow_scans").write_text("a file where a folder should be")
    with pytest.raises(StoreError, match=r"cannot be (made|listed)"):
        ScanStore(tmp_path).write(make_scan())


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    store = ScanStore(tmp_path)
    store.write(make_scan())

    def full(fd, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StoreError, match="No space left on device"):
        store.write(make_scan(2, T0 + FIVE_S))
    monkeypatch.undo()
    assert len(list((tmp_path / "arrow_scans" / "2026-01-05").iterdir())) == 1
    store.write(make_scan(2, T0 + FIVE_S))


def test_a_scan_that_does_not_fit_the_columns(tmp_path):
    with pytest.raises(DataError, match="scan 1: does not fit"):
        ScanStore(tmp_path).write(make_scan(missing_asset_count="many"))


def test_reading_a_file_that_is_gone(tmp_path):
    with pytest.raises(StoreError, match="cannot be read"):
        ScanStore(tmp_path).read(tmp_path / "scan_000001_000000.arrow")
