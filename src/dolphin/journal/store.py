"""The local journal: one SQLite file that is the truth of a run.

Why SQLite: a decision, its trade, its cash flows and a snapshot become durable in one transaction; the write-ahead
log survives a SIGKILL at any instant and costs about 60 us a commit; it is in the standard library, and any tool can
read the file.

Invariants: 1. one transaction a bar, so that a bar is there whole or not at all; 2. rows are appended and never
changed; 3. bars are contiguous from 0; 4. nothing leaves the process for a bar before its transaction is committed.
Durability: every commit survives the death of the process; entries, exits, days and every `fsync_every` bars are also
flushed to the disk against power loss.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from dolphin.domain.codes import ACTION_HOLD, ACTION_NONE
from dolphin.domain.decision import Decision
from dolphin.domain.errors import DataError, InvariantError, StoreError
from dolphin.journal.ledger import LEGS, ClosedTrade

SCHEMA_VERSION: Final = 1
FSYNC_EVERY: Final = 500

_SCHEMA: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE decisions (
  bar_idx INTEGER PRIMARY KEY, timestamp_ns INTEGER NOT NULL, scan_number INTEGER NOT NULL,
  action INTEGER NOT NULL, reason INTEGER NOT NULL, asset TEXT NOT NULL,
  equity REAL NOT NULL, certified_bits INTEGER NOT NULL, lambdas BLOB, canonical BLOB NOT NULL, detail BLOB NOT NULL);
CREATE TABLE trades (
  trade_id TEXT PRIMARY KEY, asset TEXT NOT NULL, direction INTEGER NOT NULL,
  entry_bar INTEGER NOT NULL UNIQUE, exit_bar INTEGER NOT NULL UNIQUE,
  entry_ns INTEGER NOT NULL, exit_ns INTEGER NOT NULL,
  entry_price REAL NOT NULL, exit_scan_price REAL NOT NULL, exit_price REAL NOT NULL,
  notional REAL NOT NULL, leverage REAL NOT NULL, reason TEXT NOT NULL,
  entry_fee REAL NOT NULL, exit_fee REAL NOT NULL, ob_edge REAL NOT NULL, net REAL NOT NULL,
  stale_price INTEGER NOT NULL);
CREATE TABLE cash_flows (
  id INTEGER PRIMARY KEY, trade_id TEXT NOT NULL REFERENCES trades, leg TEXT NOT NULL,
  amount_e8 INTEGER NOT NULL, bar_idx INTEGER NOT NULL, timestamp_ns INTEGER NOT NULL, UNIQUE (trade_id, leg));
CREATE TABLE days (date TEXT PRIMARY KEY, result TEXT NOT NULL);
CREATE TABLE events (id INTEGER PRIMARY KEY, timestamp_ns INTEGER NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL);
CREATE TABLE snapshots (bar_idx INTEGER PRIMARY KEY, state BLOB NOT NULL);
"""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Decision).decode


def _store_error(path: Path, error: Exception) -> StoreError:
    text = str(error)
    hint = "check the folder and its permissions"
    if "full" in text or "No space" in text:
        hint = "free some space, then resume"
    elif "readonly" in text or "denied" in text:
        hint = "make the folder writable or choose another --out"
    elif "locked" in text:
        hint = "another process has this run open; wait for it or choose another --out"
    return StoreError(f"{path}: the journal cannot be written ({text}); {hint}")


class Journal:
    """Writer and reader of one run's journal. Use `create`, `open` or `read_only`."""

    def __init__(self, path: Path, connection: sqlite3.Connection, fsync_every: int = FSYNC_EVERY) -> None:
        self.path = path
        #: Bars a commit; above 1 only where a killed process simply starts again (backtests).
        self.bars_per_commit = 1
        self._db = connection
        self._fsync_every = fsync_every
        self._since_fsync = 0
        self._since_commit = 0

    @classmethod
    def create(cls, path: Path, meta: Mapping[str, str], fsync_every: int = FSYNC_EVERY) -> Journal:
        """A new journal with its settings. Raises StoreError when there is one already or it cannot be written."""
        if path.exists():
            raise StoreError(f"{path}: a journal is here already; resume it or choose another --out")
        draft = path.with_name(path.name + ".new")
        with _translated(path):
            draft.unlink(missing_ok=True)
            connection = sqlite3.connect(draft, isolation_level=None)
            connection.executescript("PRAGMA journal_mode=DELETE;BEGIN;" + _SCHEMA + "COMMIT;")
            values = {"schema_version": str(SCHEMA_VERSION), "status": "running", **meta}
            connection.execute("BEGIN")
            connection.executemany("INSERT INTO meta VALUES (?, ?)", list(values.items()))
            connection.execute("COMMIT")
            connection.close()
            # A crash before this rename leaves no journal at all, never half of one.
            draft.replace(path)
        return cls.open(path, fsync_every)

    @classmethod
    def open(cls, path: Path, fsync_every: int = FSYNC_EVERY) -> Journal:
        """An existing journal, for writing on. Raises DataError when it is none, StoreError when it is locked."""
        if not path.exists():
            raise DataError(f"{path}: no journal here; expected the folder of a run")
        with _translated(path):
            connection = sqlite3.connect(path, isolation_level=None, timeout=2.0)
            # The lock stays for the life of the writer: two writers of one run would be two truths.
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("PRAGMA foreign_keys=ON")
            connection.execute("PRAGMA wal_autocheckpoint=4000")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("COMMIT")
        journal = cls(path, connection, fsync_every)
        journal._check_schema()
        return journal

    @classmethod
    def read_only(cls, path: Path) -> Journal:
        """An existing journal, for reading. Raises DataError when there is none or it is no journal."""
        if not path.exists():
            raise DataError(f"{path}: no journal here; expected the folder of a run")
        with _translated(path):
            connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        journal = cls(path, connection)
        journal._check_schema()
        return journal

    def _check_schema(self) -> None:
        try:
            version = self.meta().get("schema_version")
        except sqlite3.DatabaseError as error:
            raise DataError(f"{self.path}: is no journal ({error}); expected the journal.db of a run") from error
        if version != str(SCHEMA_VERSION):
            raise DataError(f"{self.path}: journal schema {version}, this version reads {SCHEMA_VERSION}")

    def close(self) -> None:
        """Fold the write-ahead log in and release the file."""
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._db.close()

    # writing

    @contextlib.contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[None]:
        """All writes inside become visible together, or none of them. durable: flushed to the disk too."""
        if self.bars_per_commit > 1:
            with _translated(self.path):
                if not self._db.in_transaction:
                    self._db.execute("BEGIN IMMEDIATE")
                yield
                self._since_commit += 1
                if self._since_commit >= self.bars_per_commit:
                    self.commit_batch()
            return
        flush = durable or self._since_fsync >= self._fsync_every
        with _translated(self.path):
            if flush:
                self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            finally:
                if flush:
                    self._db.execute("PRAGMA synchronous=NORMAL")
        self._since_fsync = 0 if flush else self._since_fsync + 1

    def commit_batch(self) -> None:
        """Commit what a batch has gathered."""
        if self._db.in_transaction:
            self._db.execute("COMMIT")
        self._since_commit = 0

    def add_decision(
        self, decision: Decision, equity: float, certified_bits: int = 0, lambdas: tuple[float, ...] | None = None
    ) -> None:
        """Append one bar's decision with the marked equity in USDT and what the report wants of its scan.

        lambdas are the four windows' dominant eigenvalues, None where the source does not carry them. Raises
        InvariantError when the bar is there.
        """
        try:
            self._db.execute(
                "INSERT INTO decisions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    decision.bar_idx,
                    decision.timestamp_ns,
                    decision.scan_number,
                    decision.action,
                    decision.reason,
                    decision.asset,
                    equity,
                    certified_bits,
                    None if lambdas is None else struct.pack(f"<{len(lambdas)}d", *lambdas),
                    decision.canonical(),
                    _encode(decision),
                ),
            )
        except sqlite3.IntegrityError as error:
            raise InvariantError(f"{self.path}: bar {decision.bar_idx} was decided before; one decision a bar") from error

    def add_trade(self, trade: ClosedTrade, legs: Mapping[str, int]) -> None:
        """Append a closed trade and its legs. Raises InvariantError when the trade is there already."""
        values = msgspec.structs.astuple(trade)
        try:
            self._db.execute(f"INSERT INTO trades VALUES ({', '.join('?' * len(values))})", values)  # noqa: S608
            self._db.executemany(
                "INSERT INTO cash_flows (trade_id, leg, amount_e8, bar_idx, timestamp_ns) VALUES (?, ?, ?, ?, ?)",
                [(trade.trade_id, leg, legs[leg], trade.exit_bar, trade.exit_ns) for leg in LEGS],
            )
        except sqlite3.IntegrityError as error:
            raise InvariantError(f"{self.path}: trade {trade.trade_id} or one of its bars was booked before") from error

    def add_day(self, date: str, result: Mapping[str, Any]) -> None:
        """Append the result of a finished day."""
        self._db.execute(
            "INSERT INTO days VALUES (?, ?)", (date, msgspec.json.encode(result, order="sorted").decode())
        )

    def add_event(self, timestamp_ns: int, kind: str, text: str) -> None:
        """Append something worth telling: a refused scan, a rejected price, a violated invariant."""
        self._db.execute(
            "INSERT INTO events (timestamp_ns, kind, text) VALUES (?, ?, ?)", (timestamp_ns, kind, text)
        )

    def add_snapshot(self, bar_idx: int, state: bytes) -> None:
        """Keep the state after a bar; the two newest snapshots stay."""
        self._db.execute("INSERT OR REPLACE INTO snapshots VALUES (?, ?)", (bar_idx, state))
        self._db.execute(
            "DELETE FROM snapshots WHERE bar_idx NOT IN (SELECT bar_idx FROM snapshots ORDER BY bar_idx DESC LIMIT 2)"
        )

    def set_meta(self, values: Mapping[str, str]) -> None:
        """Set settings or results of the run."""
        with self.transaction(durable=True):
            self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", list(values.items()))

    # reading

    def meta(self) -> dict[str, str]:
        """All settings."""
        return dict(self._db.execute("SELECT key, value FROM meta").fetchall())

    def last_bar(self) -> int:
        """Highest bar_idx decided, -1 when none was."""
        row = self._db.execute("SELECT max(bar_idx) FROM decisions").fetchone()
        return -1 if row[0] is None else int(row[0])

    def newest_snapshot(self) -> tuple[int, bytes] | None:
        """(bar_idx, state) of the newest snapshot."""
        row = self._db.execute("SELECT bar_idx, state FROM snapshots ORDER BY bar_idx DESC LIMIT 1").fetchone()
        return None if row is None else (int(row[0]), bytes(row[1]))

    def decisions(self, first: int = 0, last: int | None = None, *, active: bool = False) -> Iterator[Decision]:
        """Decisions of the bars first..last in order; `active` leaves out bars on which nothing was held or done."""
        where = f" AND action NOT IN ({ACTION_NONE}, {ACTION_HOLD})" if active else ""
        rows = self._db.execute(
            f"SELECT detail FROM decisions WHERE bar_idx BETWEEN ? AND ?{where} ORDER BY bar_idx",  # noqa: S608
            (first, (1 << 62) if last is None else last),
        )
        for (detail,) in rows:
            yield _decode(detail)

    def canonicals(self) -> Iterator[tuple[int, int, bytes]]:
        """(bar_idx, scan_number, canonical record) in bar order."""
        yield from self._db.execute("SELECT bar_idx, scan_number, canonical FROM decisions ORDER BY bar_idx")

    def equity(self) -> list[tuple[int, int, float]]:
        """(bar_idx, timestamp_ns, marked equity in USDT) in bar order."""
        return self._db.execute("SELECT bar_idx, timestamp_ns, equity FROM decisions ORDER BY bar_idx").fetchall()

    def lambdas(self) -> list[tuple[float, ...]]:
        """Dominant eigenvalues of the windows by bar; an empty list when any bar came without them."""
        rows = self._db.execute("SELECT lambdas FROM decisions ORDER BY bar_idx").fetchall()
        if any(row[0] is None for row in rows):
            return []
        return [struct.unpack(f"<{len(row[0]) // 8}d", row[0]) for row in rows]

    def certified_bits_min(self) -> int | None:
        """Least certified accuracy of any scan decided on, in bits; None without bars or without certificates."""
        row = self._db.execute("SELECT min(certified_bits) FROM decisions").fetchone()
        return int(row[0]) if row[0] else None

    def vel_divs(self) -> list[float]:
        """vel_div by bar, 1/s."""
        return [decision.vel_div for decision in self.decisions()]

    def reasons(self) -> dict[tuple[int, int], int]:
        """Count of bars by (action, reason) code."""
        rows = self._db.execute("SELECT action, reason, count(*) FROM decisions GROUP BY action, reason")
        return {(int(a), int(r)): int(n) for a, r, n in rows}

    def trades(self) -> list[ClosedTrade]:
        """All closed trades in order of their entry."""
        rows = self._db.execute("SELECT * FROM trades ORDER BY entry_bar")
        return [ClosedTrade(**dict(zip(ClosedTrade.__struct_fields__, (*r[:-1], bool(r[-1])), strict=True))) for r in rows]

    def cash_flows(self) -> list[tuple[str, str, int]]:
        """(trade_id, leg, amount in units of 1e-8 USDT) in the order of booking."""
        return self._db.execute("SELECT trade_id, leg, amount_e8 FROM cash_flows ORDER BY id").fetchall()

    def days(self) -> list[dict[str, Any]]:
        """Results of the finished days, in order."""
        rows = self._db.execute("SELECT result FROM days ORDER BY date").fetchall()
        return [msgspec.json.decode(row[0]) for row in rows]

    def events(self) -> list[tuple[int, str, str]]:
        """(timestamp_ns, kind, text) in order."""
        return self._db.execute("SELECT timestamp_ns, kind, text FROM events ORDER BY id").fetchall()

    def decisions_sha256(self) -> str:
        """SHA-256 over the canonical records in bar order."""
        digest = hashlib.sha256()
        for _, _, record in self.canonicals():
            digest.update(record)
        return digest.hexdigest()


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    """SQLite's and the system's errors as one line about the journal."""
    try:
        yield
    except (sqlite3.OperationalError, OSError) as error:
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise _store_error(path, Exception(text)) from error
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.IntegrityError):
            raise
        raise DataError(f"{path}: is no journal ({error}); expected the journal.db of a run") from error


def require_writable(folder: Path) -> None:
    """Make the folder and prove that a file can be written in it. Raises StoreError."""
    probe = folder / f".probe-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x" * 4096)
    except OSError as error:
        raise StoreError(
            f"{folder}: cannot be written ({error.strerror}); free some space, make it writable or choose another --out"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
