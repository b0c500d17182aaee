"""The fenced journal: of several traders that have it open, only the one with the highest fence writes."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from dolphin.domain.decision import Decision
from dolphin.domain.errors import FenceError, StoreError
from dolphin.journal.fenced import (
    FencedJournal,
    Term,
    highest_fence,
    inputs_of,
    newest_inputs,
    terms_of,
)
from dolphin.journal.store import Journal

NOW = 1_767_571_200_000_000_000


def term(path: Path, fence: int, owner: str = "one") -> FencedJournal:
    return FencedJournal.take_term(path, {"set": "gold"}, fence=fence, owner=owner, now_ns=NOW + fence)


def decide(journal: Journal, bar: int) -> None:
    with journal.transaction():
        journal.add_decision(Decision(bar_idx=bar, timestamp_ns=NOW + bar), 25_000.0)


def test_the_first_term_makes_the_journal_and_the_next_goes_on_in_it(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    assert highest_fence(path) == 0
    first = term(path, 3)
    decide(first, 0)
    decide(first, 1)
    first.close()
    assert highest_fence(path) == 3
    second = term(path, 7, "two")
    decide(second, 2)
    assert terms_of(second) == [Term(3, 0, NOW + 3, "one"), Term(7, 2, NOW + 7, "two")]
    assert [d.bar_idx for d in second.decisions()] == [0, 1, 2]
    assert second.meta()["set"] == "gold"
    second.close()


def test_a_smaller_fence_writes_nothing_while_both_have_it_open(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    old = term(path, 1)
    decide(old, 0)
    new = term(path, 2, "two")
    with pytest.raises(FenceError, match="fence is 1, the journal belongs to fence 2"):
        decide(old, 1)
    with pytest.raises(FenceError), old.transaction(durable=True):
        old.add_event(NOW, "x", "never there")
    with pytest.raises(FenceError):
        old.set_meta({"status": "x"})
    decide(new, 1)
    assert new.last_bar() == 1
    assert new.events() == []
    old.close()
    decide(new, 2)
    new.close()
    assert [d.bar_idx for d in Journal.read_only(path).decisions()] == [0, 1, 2]


@pytest.mark.parametrize("fence", [5, 4, 1])
def test_a_fence_that_the_journal_has_seen_is_refused(fence: int, tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    term(path, 5).close()
    with pytest.raises(FenceError, match=f"fence {fence} is not above 5"):
        term(path, fence)
    assert highest_fence(path) == 5
    # The refusal gave its lock back.
    Journal.open(path).close()


def test_a_run_of_its_own_and_traders_keep_each_other_out(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    leader = term(path, 1)
    with pytest.raises(StoreError, match="another process writes this run"):
        Journal.open(path)
    leader.close()
    alone = Journal.open(path)
    with pytest.raises(StoreError, match="another process writes this run"):
        term(path, 2)
    alone.close()


def test_two_that_write_without_pause_never_share_a_bar(tmp_path: Path) -> None:
    """Each tries to decide every bar; whoever is fenced out ends. A term's bars are its own."""
    path = tmp_path / "journal.db"
    term(path, 1).close()
    wrote: dict[int, list[int]] = {}
    failed: list[BaseException] = []

    def lead(fence: int) -> None:
        try:
            journal = term(path, fence, str(fence))
        except FenceError:
            return
        mine = wrote.setdefault(fence, [])
        try:
            for _ in range(200):
                with journal.transaction():
                    bar = journal.last_bar() + 1
                    journal.add_decision(Decision(bar_idx=bar, timestamp_ns=NOW + bar), 1.0)
                mine.append(bar)
        except FenceError:
            pass
        except BaseException as error:
            failed.append(error)
        finally:
            journal.close()

    threads = [threading.Thread(target=lead, args=(fence,)) for fence in range(2, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed
    journal = Journal.read_only(path)
    bars = sorted(bar for mine in wrote.values() for bar in mine)
    assert bars == list(range(len(bars))) == [d.bar_idx for d in journal.decisions()]
    terms = terms_of(journal)
    for this, after in zip(terms, [*terms[1:], None], strict=True):
        last = len(bars) if after is None else after.first_bar
        assert wrote.get(this.fence, []) == list(range(this.first_bar, last))
    journal.close()


def test_inputs_are_kept_in_order_and_the_newest_of_each_is_found(tmp_path: Path) -> None:
    journal = term(tmp_path / "journal.db", 1)
    with journal.transaction():
        journal.add_input(NOW, 0, "SAFETY", b"a")
        journal.add_input(NOW + 1, 1, "ACB_BOOST", b"b")
        journal.add_input(NOW + 2, 2, "SAFETY", b"c")
    assert [(i.bar_idx, i.source, i.payload) for i in inputs_of(journal)] == [
        (0, "SAFETY", b"a"),
        (1, "ACB_BOOST", b"b"),
        (2, "SAFETY", b"c"),
    ]
    assert newest_inputs(journal) == {"SAFETY": b"c", "ACB_BOOST": b"b"}
    journal.close()


def test_a_journal_that_was_never_fenced_has_neither_and_may_become_so(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    plain = Journal.create(path, {})
    decide(plain, 0)
    assert (terms_of(plain), inputs_of(plain), newest_inputs(plain)) == ([], [], {})
    plain.close()
    assert highest_fence(path) == 0
    fenced = term(path, 1)
    assert terms_of(fenced)[0].first_bar == 1
    fenced.close()


def test_a_leader_that_died_in_a_transaction_leaves_nothing_of_it(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    old = term(path, 1)
    decide(old, 0)
    old._db.execute("BEGIN IMMEDIATE")
    old.add_decision(Decision(bar_idx=1, timestamp_ns=NOW + 1), 1.0)
    old._db.close()  # what the kernel does to the dead
    new = term(path, 2)
    decide(new, 1)
    assert [d.timestamp_ns for d in new.decisions()] == [NOW, NOW + 1]
    new.close()


def test_a_leader_that_is_stopped_in_a_transaction_keeps_the_next_one_waiting(tmp_path: Path) -> None:
    """Until it goes on or is killed nobody can know whether it will commit: waiting is the only answer."""
    path = tmp_path / "journal.db"
    old = term(path, 1)
    old._db.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="another process has this run open"):
        term(path, 2)
    old._db.execute("ROLLBACK")
    new = term(path, 2)
    with pytest.raises(FenceError):
        decide(old, 0)
    old.close()
    new.close()


def test_a_new_term_is_refused_by_the_database_too(tmp_path: Path) -> None:
    journal = term(tmp_path / "journal.db", 1)
    with pytest.raises(sqlite3.IntegrityError):
        journal._db.execute("INSERT INTO terms VALUES (1, 0, 0, '')")
    journal.close()
