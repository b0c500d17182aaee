"""Book readings survive the journal, and bytes of something else are refused."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dolphin.domain.decision import Decision
from dolphin.domain.errors import DataError
from dolphin.host.readings import pack, unpack
from dolphin.journal.books import add_readings, readings_of
from dolphin.journal.store import Journal
from dolphin.orderbook.fold import FRESH, HIDDEN, MISSING, REFUSED, STALE, admit, new_arrivals

amounts = st.one_of(st.floats(0.0, 1e12), st.just(float("nan")))
books = st.tuples(
    st.sampled_from([FRESH, FRESH, FRESH, MISSING]),
    st.lists(amounts, min_size=10, max_size=10),
    st.sampled_from([0.0, 5.0, 20.0, 100.0, 33.0]),
    st.sampled_from([0, 10**9, 10**10]),
)


@given(st.lists(books, min_size=1, max_size=6))
def test_what_is_read_of_books_comes_back_as_it_was(rows):
    arrivals = new_arrivals(len(rows))
    for i, (status, values, reach_bps, age_ns) in enumerate(rows):
        arrivals.status[i], arrivals.age_ns[i] = status, age_ns
        arrivals.bid[i], arrivals.ask[i] = values[:5], values[5:]
        arrivals.visible[i] = 7.5, 8.25, reach_bps
    admit(arrivals)
    again = unpack(pack(arrivals), len(rows))
    assert set(arrivals.status.tolist()) <= {FRESH, MISSING, STALE, REFUSED, HIDDEN}
    np.testing.assert_array_equal(again.status, arrivals.status)
    for i in np.flatnonzero(arrivals.status == FRESH).tolist():
        used = int(arrivals.covered[i])
        assert (again.covered[i], again.reach[i]) == (used, arrivals.reach[i])
        np.testing.assert_array_equal(again.bid[i, :used], arrivals.bid[i, :used])
        np.testing.assert_array_equal(again.ask[i, :used], arrivals.ask[i, :used])


@pytest.mark.parametrize("data", [b"", b"123", bytes(12) + bytes(79), bytes(12) + bytes(80)])
def test_bytes_of_something_else_are_refused(data):
    with pytest.raises(DataError, match="book readings"):
        unpack(data if len(data) < 90 else bytes([1]) * 12 + bytes(80), 4)


def test_the_journal_keeps_them_beside_the_decision(tmp_path):
    with contextlib.closing(Journal.create(tmp_path / "journal.db", {})) as journal:
        assert list(readings_of(journal)) == []
        for bar in range(3):
            with journal.transaction():
                journal.add_decision(Decision(bar_idx=bar, timestamp_ns=bar), 25_000.0)
                add_readings(journal, bar, bytes([bar]) * 100)
        assert [bar for bar, _ in readings_of(journal, 1)] == [1, 2]
        assert next(readings_of(journal, 2)) == (2, b"\x02" * 100)


def test_damaged_readings_are_named(tmp_path):
    with contextlib.closing(Journal.create(tmp_path / "journal.db", {})) as journal:
        with journal.transaction():
            add_readings(journal, 0, b"whole")
            journal._db.execute("UPDATE books SET readings = ?", (b"\x78\x01\xff",))
        with pytest.raises(DataError, match=r"the books of bar 0 are damaged"):
            list(readings_of(journal))
