"""A journal that several traders may open, of which one writes: the one with the highest fence.

Entry points: `FencedJournal.take_term`, `terms_of`, `inputs_of`.

The grid's lock says who leads, but a leader that was stopped for a while does not know that it has lost the
lock. The journal does: every leadership is a *term* with the fence of the lock, and a transaction of a
smaller fence than the newest term's is refused inside the transaction itself. So no bar is decided by two
fences, whatever the grid believes, and the grid may even be lost whole: a term is only taken with a fence
above all that the journal has seen.

Beside the terms it keeps the *inputs*: what the organs said, whenever it changed, so that a grid that came
back empty can be told again and a reader can see what a decision knew.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Self

from dolphin.domain.errors import FenceError
from dolphin.journal.store import FSYNC_EVERY, Journal, writer_lock

_SCHEMA = """
CREATE TABLE IF NOT EXISTS terms (
  fence INTEGER PRIMARY KEY, first_bar INTEGER NOT NULL, timestamp_ns INTEGER NOT NULL, owner TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS inputs (
  id INTEGER PRIMARY KEY, timestamp_ns INTEGER NOT NULL, bar_idx INTEGER NOT NULL, source TEXT NOT NULL,
  payload BLOB NOT NULL);
"""


class Term(NamedTuple):
    """One leadership: the bars from `first_bar` on are its own, up to the next term's."""

    fence: int
    first_bar: int
    timestamp_ns: int
    owner: str


class Input(NamedTuple):
    """What an organ said, as bytes, from `bar_idx` on."""

    timestamp_ns: int
    bar_idx: int
    source: str
    payload: bytes


class FencedJournal(Journal):
    """A journal opened under one term; every transaction proves that the term is still the newest."""

    fence = 0

    @classmethod
    def take_term(
        cls,
        path: Path,
        meta: Mapping[str, str],
        *,
        fence: int,
        owner: str,
        now_ns: int,
        fsync_every: int = FSYNC_EVERY,
    ) -> Self:
        """Open the journal, made with `meta` where there is none, and begin a term with `fence`.

        owner names the process; now_ns is its clock. Raises FenceError when the journal has seen this fence
        or a higher one, StoreError when another process has it to itself, DataError when it is none.
        """
        if not path.exists():
            Journal.create(path, meta, fsync_every).close()
        lock = writer_lock(path, shared=True)
        try:
            journal = cls._opened(path, fsync_every, lock)
        except BaseException:
            os.close(lock)
            raise
        try:
            with Journal.transaction(journal, durable=True):
                for statement in _SCHEMA.split(";"):
                    journal._db.execute(statement)
                highest = journal._highest_fence()
                if fence <= highest:
                    raise FenceError(
                        f"{path}: fence {fence} is not above {highest}, which the journal has seen; "
                        "another trader leads, or the grid has forgotten its fences"
                    )
                journal._db.execute(
                    "INSERT INTO terms VALUES (?, ?, ?, ?)", (fence, journal.last_bar() + 1, now_ns, owner)
                )
            journal.fence = fence
        except BaseException:
            journal.close()
            raise
        return journal

    @contextlib.contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[None]:
        """See `Journal.transaction`. Raises FenceError, and writes nothing, once another term has begun."""
        with super().transaction(durable=durable):
            self.require_term()
            yield

    def require_term(self) -> None:
        """Raise FenceError unless this term is the newest; inside a transaction it stays so to its end."""
        highest = self._highest_fence()
        if highest != self.fence:
            raise FenceError(
                f"{self.path}: this trader's fence is {self.fence}, the journal belongs to fence {highest}; "
                "it stands by now"
            )

    def _highest_fence(self) -> int:
        return int(self._row("SELECT coalesce(max(fence), 0) FROM terms")[0])

    def add_input(self, timestamp_ns: int, bar_idx: int, source: str, payload: bytes) -> None:
        """Append what an organ says from a bar on."""
        self._db.execute(
            "INSERT INTO inputs (timestamp_ns, bar_idx, source, payload) VALUES (?, ?, ?, ?)",
            (timestamp_ns, bar_idx, source, payload),
        )


def terms_of(journal: Journal) -> list[Term]:
    """All terms, in order; empty for a journal that was never fenced."""
    if not _has(journal, "terms"):
        return []
    return [Term(*row) for row in journal._rows("SELECT * FROM terms ORDER BY fence")]


def highest_fence(path: Path) -> int:
    """The highest fence that the journal at `path` has seen; 0 where there is none."""
    if not path.exists():
        return 0
    with contextlib.closing(Journal.read_only(path)) as journal:
        terms = terms_of(journal)
    return terms[-1].fence if terms else 0


def inputs_of(journal: Journal) -> list[Input]:
    """What the organs said, in order; empty for a journal that was never fenced."""
    if not _has(journal, "inputs"):
        return []
    return [
        Input(*row)
        for row in journal._rows("SELECT timestamp_ns, bar_idx, source, payload FROM inputs ORDER BY id")
    ]


def newest_inputs(journal: Journal) -> dict[str, bytes]:
    """The newest word of each organ."""
    if not _has(journal, "inputs"):
        return {}
    rows = journal._rows(
        "SELECT source, payload FROM inputs WHERE id IN (SELECT max(id) FROM inputs GROUP BY source)"
    )
    return {str(source): bytes(payload) for source, payload in rows}


def _has(journal: Journal, table: str) -> bool:
    found = journal._row(f"SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = '{table}'")  # noqa: S608
    return bool(found[0])
