"""The disk of the simulated processes: their SQLite connections and their durable states.

While `installed`, a connection belongs to the process that runs when it is opened. It passes the sites where
that process may be killed, says `database or disk is full` by SQLite's own limit of pages, and writes down
which process committed which bar under which fence: a witness that shares nothing with the journal's reader.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pytest

from dolphin.domain.errors import StoreError
from dolphin.journal.store import Record
from dolphin.services import durable, kill_switch

PAGES_ANY = 1_073_741_823


class Committed(NamedTuple):
    """A bar as it was committed: by whom, under which fence, when (clock and true time, ns)."""

    record: Record
    owner: str
    life: int
    fence: int
    clock_ns: int
    true_ns: int
    may_enter: str


class Runner(Protocol):
    """The process that runs now."""

    name: str
    dead: bool
    life: int
    files: list[sqlite3.Connection]

    def passing(self, site: str, text: str, *, after: bool = False) -> None:
        """A place where it may be killed."""
        ...


class Disk:
    """What the disk of one run is like, and what was written on it."""

    def __init__(self, clock_ns: Callable[[], int], true_ns: Callable[[], int]) -> None:
        self.clock_ns, self.true_ns = clock_ns, true_ns
        self.running: Callable[[], Runner | None] = lambda: None
        #: Why no position may be opened now, by what the world knows; empty where it may.
        self.forbidden: Callable[[Runner], str] = lambda runner: ""
        self.journal_full = False
        self.states_full = False
        self.committed: list[Committed] = []
        self.fences: list[tuple[int, str]] = []
        self.n_refused = 0


class Connection(sqlite3.Connection):
    """A connection of a simulated process."""

    disk: Disk
    owner: Runner | None = None
    fence = 0

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        owner = self.owner
        if owner is None:
            return super().execute(sql, *args)
        if owner.dead:
            raise sqlite3.OperationalError("the process is dead")
        word = (sql.split(None, 1) or [""])[0].upper()
        owner.passing(word, sql)
        if word == "BEGIN" and sql != "BEGIN":
            self._pending: list[Record] = []
            self._term = 0
            pages = PAGES_ANY
            if self.disk.journal_full:
                (pages,) = super().execute("PRAGMA page_count").fetchone()
            super().execute(f"PRAGMA max_page_count={pages}")
        try:
            found = super().execute(sql, *args)
        except sqlite3.OperationalError as error:
            self.disk.n_refused += "full" in str(error)
            raise
        if sql.startswith("INSERT INTO decisions"):
            self._pending.append(Record(*args[0]))
        elif sql.startswith("INSERT INTO terms"):
            self._term = int(args[0][0])
        elif word == "COMMIT":
            self._witness(owner)
        owner.passing(word, sql, after=True)
        return found

    def _witness(self, owner: Runner) -> None:
        disk = self.disk
        if self._term:
            self.fence = self._term
            disk.fences.append((self._term, owner.name))
        for record in self._pending:
            disk.committed.append(
                Committed(
                    record, owner.name, owner.life, self.fence, disk.clock_ns(), disk.true_ns(),
                    disk.forbidden(owner),
                )
            )  # fmt: skip
        self._pending, self._term = [], 0


@contextlib.contextmanager
def installed(disk: Disk) -> Iterator[None]:
    """The disk in the place of the machine's own."""
    connect, write = sqlite3.connect, durable.write_durably

    def connected(*args: Any, **named: Any) -> sqlite3.Connection:
        runner = disk.running()
        if runner is None:
            return connect(*args, **named)
        if runner.dead:
            raise sqlite3.OperationalError("the process is dead")
        # A lock of the file that another simulated process holds is not let go of while this one waits.
        made: Connection = connect(*args, factory=Connection, **{**named, "timeout": 0.0})
        made.disk, made.owner = disk, runner
        made._pending, made._term = [], 0
        runner.files.append(made)
        return made

    def written(path: Path, content: bytes, mode: int = 0o644) -> None:
        runner = disk.running()
        if runner is None:
            write(path, content, mode)
            return
        if runner.dead or disk.states_full:
            raise StoreError(f"{path}: cannot be written (No space left on device); free some space")
        runner.passing("SAVE", path.name)
        write(path, content, mode)
        runner.passing("SAVE", path.name, after=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "connect", connected)
        patch.setattr(durable, "write_durably", written)
        patch.setattr(kill_switch, "write_durably", written)
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield
