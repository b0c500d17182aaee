"""The journal's file: one transaction a bar, one writer, readers at any time, one line for every trouble."""

from __future__ import annotations

import hashlib
import os
import resource
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from scan_market import scans, traded, trader_of

from dolphin.domain.decision import Decision
from dolphin.domain.errors import DataError, InvariantError, StoreError
from dolphin.journal.store import Journal, require_writable

MARKET = scans(21, 200)


def decision(bar: int) -> Decision:
    return Decision(bar_idx=bar, timestamp_ns=1000 + bar, scan_number=bar + 1, capital=25_000.0)


def filled(path: Path, n_bars: int = 3) -> Journal:
    journal = Journal.create(path, {"set": "gold"})
    for bar in range(n_bars):
        with journal.transaction():
            journal.add_decision(decision(bar), 25_000.0, 512, (1.0, 2.0, 3.0, 4.0))
    return journal


def in_another_process(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments], capture_output=True, text=True, timeout=120
    )


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = filled(path)
    journal.add_event(5, "refused", "a bar")
    journal.close()
    journal = Journal.open(path)
    assert journal.meta() == {"schema_version": "1", "status": "running", "set": "gold"}
    assert list(journal.decisions()) == [decision(bar) for bar in range(3)]
    assert list(journal.decisions(1, 1)) == [decision(1)]
    assert list(journal.decisions(active=True)) == []
    assert [(r.bar_idx, r.whole(), r.decision()) for r in journal.records(2)] == [(2, True, decision(2))]
    assert list(journal.canonicals(1)) == [(b, b + 1, decision(b).canonical()) for b in (1, 2)]
    assert (journal.last_bar(), journal.last_scan_number()) == (2, 3)
    assert journal.equity() == [(b, 1000 + b, 25_000.0) for b in range(3)]
    assert journal.lambdas() == [(1.0, 2.0, 3.0, 4.0)] * 3
    assert journal.certified_bits_min() == 512
    assert journal.events() == [(5, "refused", "a bar")]
    digest = hashlib.sha256(b"".join(decision(bar).canonical() for bar in range(3))).hexdigest()
    assert journal.decisions_sha256() == digest
    journal.close()


def test_an_empty_journal_answers(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "journal.db", {})
    assert (journal.last_bar(), journal.last_scan_number()) == (-1, -1)
    assert journal.newest_snapshot() is None
    assert journal.certified_bits_min() is None
    assert journal.trades() == []
    assert journal.decisions_sha256() == hashlib.sha256().hexdigest()
    journal.close()


def test_a_bar_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    journal = filled(tmp_path / "journal.db")

    def fail() -> None:
        with journal.transaction():
            journal.add_decision(decision(3), 25_000.0)
            journal.add_day("2026-01-05", {})
            raise KeyError("a listener, a signal, anything")

    with pytest.raises(KeyError):
        fail()
    assert journal.last_bar() == 2
    assert journal.days() == []
    with journal.transaction():
        journal.add_decision(decision(3), 25_000.0)
    assert journal.last_bar() == 3
    journal.close()


def test_a_bar_decided_twice_and_a_trade_booked_twice_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    traded(path, MARKET)
    journal = Journal.open(path)
    trade = journal.trades()[0]
    legs = {leg: amount for trade_id, leg, amount in journal.cash_flows() if trade_id == trade.trade_id}
    with pytest.raises(InvariantError, match="bar 0 was decided before"), journal.transaction():
        journal.add_decision(decision(0), 1.0)
    with pytest.raises(InvariantError, match="booked before"), journal.transaction():
        journal.add_trade(trade, legs)
    assert journal.last_bar() == len(MARKET) - 1
    journal.close()


def test_the_two_newest_snapshots_stay(tmp_path: Path) -> None:
    journal = filled(tmp_path / "journal.db")
    for bar in (1, 2, 3, 3):
        with journal.transaction():
            journal.add_snapshot(bar, b"state %d" % bar)
    assert journal.newest_snapshot() == (3, b"state 3")
    assert journal._db.execute("SELECT bar_idx FROM snapshots").fetchall() == [(2,), (3,)]
    journal.close()


def test_a_batch_is_committed_whole_and_a_failed_bar_leaves_none_of_it(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = filled(path, 0)
    journal.bars_per_commit = 4
    for bar in range(6):
        with journal.transaction():
            journal.add_decision(decision(bar), 25_000.0)
    reader = Journal.read_only(path)
    assert reader.last_bar() == 3
    reader.close()

    def fail() -> None:
        with journal.transaction():
            journal.add_decision(decision(6), 25_000.0)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert journal.last_bar() == 3
    with journal.transaction():
        journal.add_decision(decision(4), 25_000.0)
    journal.set_meta({"status": "finished"})
    reader = Journal.read_only(path)
    assert reader.last_bar() == 4
    assert reader.meta()["status"] == "finished"
    reader.close()
    journal.close()


def test_entries_exits_and_every_so_many_bars_are_flushed(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "journal.db", {}, fsync_every=3)
    seen: list[str] = []
    journal._db.set_trace_callback(
        lambda sql: seen.append(sql) if sql.startswith(("PRAGMA sync", "COMMIT")) else None
    )
    for bar in range(6):
        with journal.transaction(durable=bar == 1):
            journal.add_decision(decision(bar), 25_000.0)
    journal._db.set_trace_callback(None)
    flushed = []
    full = False
    for sql in seen:
        full = "FULL" in sql if sql.startswith("PRAGMA") else full
        if sql == "COMMIT":
            flushed.append(full)
    assert flushed == [False, True, False, False, False, True]
    journal.close()


# readers and writers


def test_readers_see_whole_bars_of_one_instant_while_the_writer_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = filled(path)
    reader = Journal.read_only(path)
    with journal.transaction():
        journal.add_decision(decision(3), 25_000.0)
        late = Journal.read_only(path)
        assert late.last_bar() == 2
        late.close()
    assert reader.last_bar() == 2
    assert len(list(reader.records())) == 3
    reader.close()
    reader = Journal.read_only(path)
    assert reader.last_bar() == 3
    journal.close()
    reader.close()
    again = Journal.open(path)
    assert again.last_bar() == 3
    again.close()


def test_a_second_writer_is_refused_here_and_in_another_process(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = filled(path)
    for take in (Journal.open, lambda p: Journal.create(p, {})):
        with pytest.raises(StoreError, match="another process writes this run") as caught:
            take(path)
        assert "\n" not in str(caught.value)
    code = """
        import sys
        from pathlib import Path
        from dolphin.domain.errors import StoreError
        from dolphin.journal.store import Journal
        try:
            Journal.open(Path(sys.argv[1]))
        except StoreError as error:
            print(error)
    """
    assert "another process writes this run" in in_another_process(code, str(path)).stdout
    journal.close()
    Journal.open(path).close()
    with pytest.raises(StoreError, match="a journal is here already"):
        Journal.create(path, {})


def test_a_closed_journal_is_one_file_that_a_read_only_folder_can_hold(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    filled(folder / "journal.db").close()
    assert sorted(p.name for p in folder.iterdir()) == ["journal.db", "journal.db.lock"]
    assert (folder / "journal.db").read_bytes()[18:20] == b"\x01\x01", "left in write-ahead mode"
    os.chmod(folder, 0o555)
    reader = Journal.read_only(folder / "journal.db")
    assert reader.last_bar() == 2
    reader.close()
    os.chmod(folder, 0o755)


# damaged, foreign and missing files


def make_text(path: Path) -> None:
    path.write_text("this is no database, and long enough to have a header of its own" * 30)


def make_foreign(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE photos (id INTEGER)")
    connection.commit()
    connection.close()


def make_empty(path: Path) -> None:
    path.touch()


def make_other_schema(path: Path) -> None:
    filled(path).close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE meta SET value = '7' WHERE key = 'schema_version'")
    connection.commit()
    connection.close()


def make_truncated(path: Path) -> None:
    traded(path, MARKET)
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (make_text, "is no journal .*expected the journal.db of a run"),
        (make_foreign, "is no journal .*no such table"),
        (make_empty, "is no journal"),
        (make_other_schema, "journal schema 7, this version reads 1"),
        (make_truncated, "is damaged|is no journal"),
    ],
)
def test_a_file_that_is_no_journal_is_told_in_one_line_and_left_alone(
    make, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "journal.db"
    make(path)
    before = path.read_bytes()

    def read_everything(journal: Journal) -> None:
        try:
            list(journal.decisions())
            journal.trades()
        finally:
            journal.close()

    for take in (Journal.read_only, Journal.open):
        with pytest.raises(DataError, match=words) as caught:
            read_everything(take(path))
        assert "\n" not in str(caught.value)
    if make is not make_truncated:
        assert path.read_bytes() == before


def test_no_journal_at_all_is_one_line(tmp_path: Path) -> None:
    for take in (Journal.read_only, Journal.open):
        with pytest.raises(DataError, match="no journal here; expected the folder of a run"):
            take(tmp_path / "journal.db")


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = filled(path)
    journal._db.execute("UPDATE decisions SET detail = x'81a1' WHERE bar_idx = 1")
    with pytest.raises(DataError, match=r"the record of bar 1 is damaged .* see `dolphin audit`"):
        list(journal.decisions())
    journal.close()


def test_left_overs_of_a_creation_that_died_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.with_name("journal.db.new").write_bytes(b"half a file")
    path.with_name("journal.db.new-journal").write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + b"x" * 600)
    journal = filled(path)
    assert journal.last_bar() == 2
    journal.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["journal.db", "journal.db.lock"]


# disks that refuse


def test_an_unwritable_folder_is_one_line(tmp_path: Path) -> None:
    """A file in the place of the folder refuses everybody, an administrator too."""
    place = tmp_path / "file"
    place.write_text("")
    for attempt in (
        lambda: require_writable(place / "run"),
        lambda: Journal.create(place / "journal.db", {}),
    ):
        with pytest.raises(StoreError) as caught:
            attempt()
        assert "\n" not in str(caught.value)
        assert str(place) in str(caught.value)


FILL = """
    import resource, sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[2])
    from scan_market import scans, trader_of
    from dolphin.domain.errors import StoreError
    path = Path(sys.argv[1])
    trader = trader_of(path)
    soft = int(sys.argv[3])
    market = scans(21, 200)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY))
    try:
        for scan in market:
            trader.on_scan(scan)
    except StoreError as error:
        print(error)
    try:
        trader.on_scan(market[-1])
    except StoreError as error:
        print("again:", error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    trader.journal.close()
"""


@pytest.mark.parametrize("limit", [70_000, 150_000])
def test_a_full_disk_loses_nothing(limit: int, tmp_path: Path) -> None:
    """A limit on a file's size refuses as a full disk does; lifted, a resume ends with the same bytes."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    path = tmp_path / "journal.db"
    done = in_another_process(FILL, str(path), str(Path(__file__).parents[2] / "sim"), str(limit))
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert "the journal cannot be written" in first
    assert "free some space" in first or "free space" in first
    assert second == f"again: {first}"
    trader = trader_of(path, backlog=lambda after: (s for s in MARKET if s.scan_number > after))
    decided = trader.recover()
    assert 0 < decided < len(MARKET)
    assert trader.catch_up() == len(MARKET) - decided
    found = trader.journal.decisions_sha256()
    trader.journal.close()
    traded(tmp_path / "plain.db", MARKET)
    plain = Journal.read_only(tmp_path / "plain.db")
    assert found == plain.decisions_sha256()
    plain.close()
