"""Columns over many days: what the reader gives row by row, mapped, and never half."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import signal
import subprocess
import sys

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_scan_cache import INTERVAL, SYMBOLS, T0, build, day_of_scans, make_scan

from dolphin.domain.clock import NS_PER_DAY
from dolphin.domain.errors import DataError
from dolphin.market import columns as columns_module
from dolphin.market.columns import Columns, period_inputs
from dolphin.market.scan_cache import CacheReader, PartialDayError

DAYS = ("2026-01-05", "2026-01-06", "2026-01-07")
SERIES = (
    "timestamp_ns", "scan_number", "vel_div", "v50", "v150", "v300", "v750",
    "instability_50", "instability_150",
)  # fmt: skip


def rows_of(reader, days):
    """The twin: the reader's own rows, one by one."""
    return [row for day in days for row in reader.scans(day)]


def require_twin(columns, reader, days=DAYS):
    rows = rows_of(reader, days)
    assert columns.days == tuple(days)
    assert len(columns) == len(rows) > 0
    for name in SERIES:
        values = getattr(columns, name)
        assert values.dtype == (np.int64 if name in SERIES[:2] else np.float64)
        assert values.tobytes() == np.array([getattr(r, name) for r in rows], values.dtype).tobytes()
    assert columns.prices.tobytes() == np.array([r.prices for r in rows]).tobytes()
    assert columns.prices.flags.c_contiguous
    stale = [[symbol in r.stale for symbol in SYMBOLS] for r in rows]
    assert columns.stale.dtype == np.bool_
    assert columns.stale.tolist() == stale
    counts = [len(list(reader.scans(day))) for day in days]
    assert np.diff(columns.offsets).tolist() == counts


@pytest.fixture
def cache(tmp_path):
    build(tmp_path, day_of_scans(n=72))
    return tmp_path


def raw_files(root):
    return {
        str(p.relative_to(root)): p.read_bytes()
        for p in (root / "scan_cache/.columns").rglob("*")
        if p.is_file()
    }


def tampered(root, day, change, **entry):
    """Change a day's columns, and the manifest with them."""
    path = root / "scan_cache" / f"{day}.parquet"
    table = pq.read_table(path)
    columns = {name: table.column(name).to_numpy().copy() for name in table.schema.names}
    change(columns)
    pq.write_table(pa.table(columns).replace_schema_metadata(table.schema.metadata), path)
    place = root / "scan_cache" / "manifest.json"
    manifest = json.loads(place.read_text())
    manifest["days"][day] |= {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), **entry}
    place.write_text(json.dumps(manifest))


def test_columns_are_the_rows_of_the_reader(cache):
    reader = CacheReader(cache)
    told = []
    first = Columns.open(reader, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    for columns in (first, Columns.open(CacheReader(cache))):
        assert columns.mapped
        assert columns.notes == ()
        require_twin(columns, reader)
        with pytest.raises(ValueError, match="read-only"):
            columns.prices[0, 0] = 1.0
        with pytest.raises(ValueError, match="read-only"):
            columns.vel_div[0] = 1.0


def test_a_second_opening_reads_no_day(cache, monkeypatch):
    Columns.open(CacheReader(cache))
    reader = CacheReader(cache)
    with monkeypatch.context() as patch:
        patch.delattr(CacheReader, "_load")
        columns = Columns.open(reader, progress=lambda done, total: pytest.fail("a day was made again"))
    require_twin(columns, reader)


@pytest.mark.parametrize("days", [DAYS[:1], DAYS[1:], DAYS[1:2], (DAYS[0], DAYS[2])])
def test_some_days(cache, days):
    columns = Columns.open(CacheReader(cache), days)
    assert columns.mapped is (days != (DAYS[0], DAYS[2]))
    require_twin(columns, CacheReader(cache), days)
    require_twin(Columns.open(CacheReader(cache)), CacheReader(cache))


def test_slices_are_views(cache):
    whole = Columns.open(CacheReader(cache))
    for part, days in (
        (whole.slice(DAYS[1], DAYS[2]), DAYS[1:]),
        (whole.slice(last_day=DAYS[0]), DAYS[:1]),
        (whole.slice("2026-01-06", "2026-01-06"), DAYS[1:2]),
        (whole.slice("2020-01-01"), DAYS),
    ):
        require_twin(part, CacheReader(cache), days)
        assert np.shares_memory(part.prices, whole.prices)
        assert np.shares_memory(part.stale, whole.stale)
        assert np.shares_memory(part.vel_div, whole.vel_div)
    with pytest.raises(
        DataError, match="no day between 2027-01-01 and None; there are 2026-01-05 to 2026-01-07"
    ):
        whole.slice("2027-01-01")


def test_the_period_engine_gets_views_of_the_days(cache):
    columns = Columns.open(CacheReader(cache)).slice(DAYS[1], DAYS[2])
    inputs = period_inputs(columns)
    names = {"v50_velocity": "v50", "v750_velocity": "v750"}
    for name in (
        "timestamp_ns",
        "prices",
        "vel_div",
        "v50_velocity",
        "v750_velocity",
        "instability_50",
        "stale",
    ):
        mine = getattr(columns, names.get(name, name))
        assert np.shares_memory(getattr(inputs, name), mine)
        assert getattr(inputs, name).tobytes() == mine.tobytes()
    assert inputs.symbols == SYMBOLS
    assert (inputs.vol_ok, inputs.posture, inputs.books) == (None, None, None)


def test_later_days_are_appended_to_the_same_files(tmp_path):
    scans = day_of_scans(n=72)
    build(tmp_path, scans[:48])
    early = Columns.open(CacheReader(tmp_path))
    before = raw_files(tmp_path)
    build(tmp_path, scans)
    told = []
    late = Columns.open(CacheReader(tmp_path), progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 1)]
    require_twin(late, CacheReader(tmp_path))
    require_twin(early, CacheReader(tmp_path), DAYS[:2])
    after = raw_files(tmp_path)
    assert before.keys() == after.keys()
    for name, content in before.items():
        if "/1/" in name:
            assert after[name].startswith(content)
            assert len(after[name]) > len(content) > 0


def test_a_day_that_was_built_anew_is_made_again_and_mapped_arrays_stay(cache):
    old = Columns.open(CacheReader(cache))
    kept = old.vel_div.copy()
    other = [msgspec.structs.replace(s, vel_div=s.vel_div * 2.0) for s in day_of_scans(n=72)]
    build(cache, other, stale_stamp="20260109")
    new = Columns.open(CacheReader(cache))
    require_twin(new, CacheReader(cache))
    assert (new.vel_div == 2.0 * kept).all()
    assert (old.vel_div == kept).all()
    assert len({name.split("/")[3] for name in raw_files(cache) if name.count("/") == 4}) == 1


def test_an_earlier_day_that_comes_later(tmp_path):
    build(tmp_path, day_of_scans(n=72))
    manifest = tmp_path / "scan_cache" / "manifest.json"
    whole = json.loads(manifest.read_text())
    first = whole["days"].pop(DAYS[0])
    manifest.write_text(json.dumps(whole))
    require_twin(Columns.open(CacheReader(tmp_path)), CacheReader(tmp_path), DAYS[1:])
    whole["days"][DAYS[0]] = first
    manifest.write_text(json.dumps(whole))
    require_twin(Columns.open(CacheReader(tmp_path)), CacheReader(tmp_path))


def test_a_day_whose_file_was_damaged_since_is_refused(cache):
    Columns.open(CacheReader(cache))
    path = cache / "scan_cache" / f"{DAYS[1]}.parquet"
    table = pq.read_table(path)
    pq.write_table(table, path, compression="gzip")
    for partial in (False, True):
        with pytest.raises(DataError, match=f"{DAYS[1]} is refused: its content is not what the manifest"):
            Columns.open(CacheReader(cache), allow_partial=partial)
    pq.write_table(table.slice(0, 20), path)
    with pytest.raises(DataError, match=r"\(20 of 24 rows\)"):
        Columns.open(CacheReader(cache), allow_partial=True)
    path.unlink()
    with pytest.raises(DataError, match="is gone"):
        Columns.open(CacheReader(cache))


def test_a_half_built_day_is_refused_or_told(tmp_path):
    build(tmp_path, day_of_scans(n=60), complete=False)
    for _ in range(2):
        with pytest.raises(PartialDayError, match=f"{DAYS[2]} is refused: half built"):
            Columns.open(CacheReader(tmp_path))
        columns = Columns.open(CacheReader(tmp_path), allow_partial=True)
        assert columns.mapped
        assert columns.notes == (f"{DAYS[2]}: half built, its last scan is of 11:00:00",)
        require_twin(columns, CacheReader(tmp_path))
    require_twin(Columns.open(CacheReader(tmp_path), DAYS[:2]), CacheReader(tmp_path), DAYS[:2])
    build(tmp_path, day_of_scans(n=72))
    require_twin(Columns.open(CacheReader(tmp_path)), CacheReader(tmp_path))
    assert columns.timestamp_ns[-1] == T0 + 59 * INTERVAL


def test_a_day_that_turns_out_to_be_whole_as_it_is(tmp_path):
    build(tmp_path, day_of_scans(n=60), complete=False)
    Columns.open(CacheReader(tmp_path), allow_partial=True)
    build(tmp_path, day_of_scans(n=60))
    columns = Columns.open(CacheReader(tmp_path))
    assert columns.notes == ()
    require_twin(columns, CacheReader(tmp_path))


def test_numbers_and_times_grow_over_all_days(cache):
    def earlier(columns):
        columns["scan_number"] -= 10

    def late(columns):
        columns["timestamp_ns"][-1] = T0 + NS_PER_DAY + 5

    untouched = (cache / "scan_cache" / "manifest.json").read_bytes()
    tampered(cache, DAYS[1], earlier)
    for partial in (False, True):
        with pytest.raises(DataError) as error:
            Columns.open(CacheReader(cache), allow_partial=partial)
        assert f"{DAYS[1]} begins with scan 15, {DAYS[0]} ends with scan 24; numbers must grow" in str(
            error.value
        )
        assert "\n" not in str(error.value)
    (cache / "scan_cache" / "manifest.json").write_bytes(untouched)
    build(cache, day_of_scans(n=72), stale_stamp="20260109")
    tampered(cache, DAYS[0], late, last_timestamp_ns=T0 + NS_PER_DAY + 5)
    with pytest.raises(DataError, match=f"{DAYS[0]} is refused: it holds scans of another day"):
        Columns.open(CacheReader(cache))
    with pytest.raises(DataError, match=rf"{DAYS[1]} begins at .*, {DAYS[0]} ends at .*times must grow"):
        Columns.open(CacheReader(cache), allow_partial=True)


def test_a_number_that_stands_twice_in_a_day_is_refused(cache):
    def twice(columns):
        columns["scan_number"][5] = columns["scan_number"][4]

    tampered(cache, DAYS[1], twice)
    for partial in (False, True):
        with pytest.raises(DataError, match=f"{DAYS[1]} is refused: scan number 29 follows 29"):
            Columns.open(CacheReader(cache), allow_partial=partial)
    assert len(Columns.open(CacheReader(cache), DAYS[:1])) == 24


def test_missing_days_and_gaps_are_told(tmp_path):
    scans = day_of_scans(n=24)
    scans += [make_scan(25 + k, T0 + 3 * NS_PER_DAY + k * INTERVAL) for k in range(24)]
    build(tmp_path, scans)
    columns = Columns.open(CacheReader(tmp_path))
    assert columns.days == ("2026-01-05", "2026-01-08")
    assert columns.notes[0] == "2 days missing between 2026-01-05 and 2026-01-08"
    assert columns.notes[1].startswith("1 gap, 48 bars missing in all")


def test_what_cannot_be_chosen(cache, tmp_path):
    reader = CacheReader(cache)
    for days, text in (
        (("2026-01-09",), "no day 2026-01-09; it has 2026-01-05 to 2026-01-07"),
        (DAYS[::-1], "2026-01-06 was asked for after 2026-01-07"),
        ((), "no day was asked for"),
    ):
        with pytest.raises(DataError, match=text):
            Columns.open(reader, days)
    build(tmp_path / "none", [])
    with pytest.raises(DataError, match="holds no day"):
        Columns.open(CacheReader(tmp_path / "none"))


def test_a_folder_that_takes_no_files(cache):
    (cache / "scan_cache" / ".columns").write_text("no folder")
    for days in (None, DAYS[1:]):
        columns = Columns.open(CacheReader(cache), days)
        assert not columns.mapped
        require_twin(columns, CacheReader(cache), days or DAYS)
        with pytest.raises(ValueError, match="read-only"):
            columns.prices[0, 0] = 1.0


def test_files_that_take_no_lock_are_still_mapped(cache, monkeypatch):
    Columns.open(CacheReader(cache))
    (cache / "scan_cache/.columns" / CacheReader(cache).manifest.universe_id / "lock").unlink()
    import dolphin.market.columns as module

    real = module.os.open

    def refusing(path, flags, *mode, **options):
        if str(path).endswith("lock"):
            raise PermissionError(13, "Read-only file system")
        return real(path, flags, *mode, **options)

    monkeypatch.setattr(module.os, "open", refusing)
    assert Columns.open(CacheReader(cache)).mapped


def test_a_disk_that_is_full_falls_back_to_memory(cache, monkeypatch):
    def full(fd, length):
        raise OSError(28, "No space left on device")

    import dolphin.market.columns as module

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "ftruncate", full)
        columns = Columns.open(CacheReader(cache))
    assert not columns.mapped
    require_twin(columns, CacheReader(cache))
    assert Columns.open(CacheReader(cache)).mapped


OPEN = """
import hashlib, os, signal, sys
from dolphin.market.columns import Columns, period_inputs
from dolphin.market.scan_cache import CacheReader
root, kill = sys.argv[1], int(sys.argv[2])
real, calls = os.{call}, 0
def guarded(*args, **named):
    global calls
    calls += 1
    if calls == kill:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **named)
os.{call} = guarded
columns = Columns.open(CacheReader(root))
assert columns.mapped
print(hashlib.sha256(columns.prices.tobytes() + columns.scan_number.tobytes()).hexdigest())
"""


def opening(root, call="replace", kill=0):
    command = [sys.executable, "-c", OPEN.replace("{call}", call), str(root), str(kill)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("call", "kill"), [("ftruncate", 4), ("fsync", 6), ("replace", 1)])
@pytest.mark.parametrize("grown", [False, True])
def test_killed_half_way(tmp_path, call, kill, grown):
    scans = day_of_scans(n=72)
    if grown:
        build(tmp_path, scans[:24])
        Columns.open(CacheReader(tmp_path))
    build(tmp_path, scans)
    process = opening(tmp_path, call, kill)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    require_twin(Columns.open(CacheReader(tmp_path)), CacheReader(tmp_path))
    require_twin(Columns.open(CacheReader(tmp_path)), CacheReader(tmp_path))


def test_many_processes_at_once(cache):
    together = [opening(cache) for _ in range(4)]
    told = [process.communicate(timeout=120)[0] for process in together]
    assert [process.returncode for process in together] == [0] * 4
    whole = Columns.open(CacheReader(cache))
    digest = hashlib.sha256(whole.prices.tobytes() + whole.scan_number.tobytes()).hexdigest()
    assert {text.strip() for text in told} == {digest}


@pytest.mark.parametrize("damage", ["deleted", "index", "cut", "foreign"])
def test_damage_of_the_files_is_made_good(cache, damage):
    first = Columns.open(CacheReader(cache))
    folder = cache / "scan_cache" / ".columns" / CacheReader(cache).manifest.universe_id
    if damage == "deleted":
        shutil.rmtree(folder)
    elif damage == "index":
        (folder / "index.json").write_text("{")
    elif damage == "foreign":
        text = (folder / "index.json").read_text()
        (folder / "index.json").write_text(text.replace("BTCUSDT", "XBTUSDT"))
    else:
        (folder / "1" / "vel_div").write_bytes(b"")
    again = Columns.open(CacheReader(cache))
    assert again.mapped
    require_twin(again, CacheReader(cache))
    if damage != "cut":
        require_twin(first, CacheReader(cache))


# -- proof -----------------------------------------------------------------------------------------------


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", [*SERIES, "prices", "stale"])
@pytest.mark.parametrize("place", [0, -1])
def test_a_changed_bit_of_any_column_is_found_on_proof_and_made_anew(cache, name, place):
    Columns.open(CacheReader(cache))
    (raw,) = (cache / "scan_cache/.columns").rglob(name)
    flip(raw, place)
    deceived = Columns.open(CacheReader(cache))
    told = []
    proved = Columns.open(CacheReader(cache), progress=lambda *day: told.append(day), prove=True)
    assert told[-1] == (3, 3)
    require_twin(proved, CacheReader(cache))
    require_twin(Columns.open(CacheReader(cache)), CacheReader(cache))
    assert getattr(deceived, name).tobytes() != getattr(proved, name).tobytes()  # what is mapped stays


def test_a_changed_index_is_found_on_proof(cache):
    Columns.open(CacheReader(cache))
    (index,) = (cache / "scan_cache/.columns").rglob("index.json")
    record = json.loads(index.read_text())
    record["days"][1]["last"][0] += 1
    index.write_text(json.dumps(record))
    require_twin(Columns.open(CacheReader(cache), prove=True), CacheReader(cache))
    assert json.loads(index.read_text())["generation"] == 2


def test_honest_columns_are_only_read_on_proof(cache):
    Columns.open(CacheReader(cache))
    before = raw_files(cache)
    proved = Columns.open(CacheReader(cache), DAYS[1:], prove=True)
    assert proved.mapped
    require_twin(proved, CacheReader(cache), DAYS[1:])
    assert raw_files(cache) == before


def test_a_day_that_is_not_the_manifest_s_proves_nothing(cache):
    path = cache / "scan_cache" / f"{DAYS[1]}.parquet"
    Columns.open(CacheReader(cache))
    table = pq.read_table(path)
    pq.write_table(table, path, compression="none")  # the same rows, another file
    words = rf"{DAYS[1]}\.parquet: .*its content is not .* build it again"
    for prove in (False, True):
        with pytest.raises(DataError, match=words) as caught:
            Columns.open(CacheReader(cache), allow_partial=True, prove=prove)
        assert "\n" not in str(caught.value)


def test_proof_without_a_place_for_files_is_in_memory(cache, monkeypatch):
    Columns.open(CacheReader(cache))
    (raw,) = (cache / "scan_cache/.columns").rglob("prices")
    flip(raw, 0)
    monkeypatch.setattr(columns_module._Files, "_locked", lambda self, kind: contextlib.nullcontext(False))
    proved = Columns.open(CacheReader(cache), prove=True)
    assert not proved.mapped
    require_twin(proved, CacheReader(cache))
