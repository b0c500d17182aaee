"""The local journal: one SQLite file that is the truth of a run.

Why SQLite: a decision, its trade, its cash flows and a snapshot become durable in one transaction; the
write-ahead log survives a SIGKILL at any instant and costs about 60 us a commit; it is in the standard
library, and any tool can read the file, also while the run goes on.

Invariants: 1. one transaction a bar, so that a bar is there whole or not at all; 2. rows are appended and
never changed (only the two newest snapshots stay); 3. bars are contiguous from 0; 4. nothing leaves the
process for a bar before its transaction is committed; 5. one writer a journal, by a lock that the kernel
takes back when the process dies.
Durability: every commit survives the death of the process; entries, exits, days and every `fsync_every` bars
are also flushed to the disk against power loss.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import sqlite3
import struct
import threading
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import msgspec
import numpy as np

from dolphin.domain.bar import FloatArray, IntArray
from dolphin.domain.codes import ACTION_ENTER, ACTION_EXIT, ACTION_HOLD, ACTION_NONE
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
  equity REAL NOT NULL, certified_bits INTEGER NOT NULL, lambdas BLOB, canonical BLOB NOT NULL,
  detail BLOB NOT NULL, checksum INTEGER NOT NULL);
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
  amount_e8 INTEGER NOT NULL, bar_idx INTEGER NOT NULL, timestamp_ns INTEGER NOT NULL,
  UNIQUE (trade_id, leg));
CREATE TABLE days (date TEXT PRIMARY KEY, result TEXT NOT NULL);
CREATE TABLE events (
  id INTEGER PRIMARY KEY, timestamp_ns INTEGER NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL);
CREATE TABLE snapshots (bar_idx INTEGER PRIMARY KEY, state BLOB NOT NULL);
"""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Decision).decode
_MARKED = struct.Struct("<dq")


class Series(NamedTuple):
    """What a report draws of every bar: vel_div (n_bars,), 1/s, and scan prices of positions by entry bar.

    The prices (USDT) go from a position's entry to its exit, or to the last bar.
    """

    vel_div: FloatArray
    held: dict[int, FloatArray]


class Record(NamedTuple):
    """A row of `decisions` as it lies in the file; `decision()` opens it."""

    bar_idx: int
    timestamp_ns: int
    scan_number: int
    action: int
    reason: int
    asset: str
    equity: float
    certified_bits: int
    lambdas: bytes | None
    canonical: bytes
    detail: bytes
    checksum: int

    def decision(self) -> Decision:
        """The decision inside. Raises msgspec.DecodeError when the bytes are none."""
        return _decode(self.detail)

    def whole(self) -> bool:
        """Whether the row is the one that was written."""
        return self.checksum == _checksum(
            self.equity, self.certified_bits, self.lambdas or b"", self.canonical, self.detail
        )


def _checksum(equity: float, certified_bits: int, lambdas: bytes, canonical: bytes, detail: bytes) -> int:
    return zlib.crc32(detail, zlib.crc32(canonical, zlib.crc32(lambdas, zlib.crc32(
        _MARKED.pack(equity, certified_bits)))))  # fmt: skip


class Journal:
    """Writer and reader of one run's journal. Use `create`, `open` or `read_only`.

    Several threads may share it: their transactions follow one another.
    """

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        fsync_every: int = FSYNC_EVERY,
        lock: int | None = None,
    ) -> None:
        self.path = path
        #: Bars a commit; above 1 only where a killed process simply starts again (backtests).
        self.bars_per_commit = 1
        self._db = connection
        self._lock = lock
        self._turn = threading.RLock()
        self._fsync_every = fsync_every
        self._since_fsync = 0
        self._since_commit = 0

    @classmethod
    def create(cls, path: Path, meta: Mapping[str, str], fsync_every: int = FSYNC_EVERY) -> Self:
        """A new journal with its settings. Raises StoreError when there is one or it cannot be written."""
        lock = writer_lock(path)
        try:
            if path.exists():
                raise StoreError(f"{path}: a journal is here already; resume it or choose another --out")
            with _translated(path, "made"):
                _make(path, {"schema_version": str(SCHEMA_VERSION), "status": "running", **meta})
            return cls._opened(path, fsync_every, lock)
        except BaseException:
            os.close(lock)
            raise

    @classmethod
    def open(cls, path: Path, fsync_every: int = FSYNC_EVERY) -> Self:
        """An existing journal, to write on. Raises DataError when it is none, StoreError when in use."""
        if not path.exists():
            raise DataError(f"{path}: no journal here; expected the folder of a run")
        lock = writer_lock(path)
        try:
            return cls._opened(path, fsync_every, lock)
        except BaseException:
            os.close(lock)
            raise

    @classmethod
    def _opened(cls, path: Path, fsync_every: int, lock: int) -> Self:
        # A foreign file must stay as it is, so it is looked at before anything is set.
        cls.read_only(path).close()
        with _translated(path, "opened"):
            connection = sqlite3.connect(path, isolation_level=None, timeout=2.0, check_same_thread=False)
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=NORMAL")
                connection.execute("PRAGMA foreign_keys=ON")
                connection.execute("PRAGMA wal_autocheckpoint=4000")
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("COMMIT")
            except BaseException:
                connection.close()
                raise
        return cls(path, connection, fsync_every, lock)

    @classmethod
    def read_only(cls, path: Path) -> Self:
        """An existing journal as it stands now, for reading, also while its run goes on.

        Raises DataError when there is none or it is no journal of this schema.
        """
        if not path.exists():
            raise DataError(f"{path}: no journal here; expected the folder of a run")
        with _translated(path, "read"):
            connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None
            )
        journal = cls(path, connection)
        try:
            with _translated(path, "read"):
                # One transaction until the end: all that is read belongs to one instant of the run.
                connection.execute("BEGIN")
            version = journal.meta().get("schema_version")
            if version != str(SCHEMA_VERSION):
                raise DataError(f"{path}: journal schema {version}, this version reads {SCHEMA_VERSION}")
        except BaseException:
            connection.close()
            raise
        return journal

    def close(self) -> None:
        """Leave one plain file, readable anywhere, and give the lock back. A batch not committed is gone."""
        if self._lock is not None:
            with contextlib.suppress(sqlite3.Error):
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                # A reader of the moment keeps the log alive; the next writer folds it in.
                self._db.execute("PRAGMA busy_timeout=0")
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                self._db.execute("PRAGMA journal_mode=DELETE")
        self._db.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # writing

    @contextlib.contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[None]:
        """All writes inside become visible together, or none of them. durable: flushed to the disk too."""
        with self._turn, _translated(self.path, "written"):
            if self.bars_per_commit > 1:
                yield from self._batched()
                return
            flush = durable or self._since_fsync >= self._fsync_every
            if flush:
                self._db.execute("PRAGMA synchronous=FULL")
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield
                    self._db.execute("COMMIT")
                except BaseException:
                    self._roll_back()
                    raise
            finally:
                if flush:
                    self._db.execute("PRAGMA synchronous=NORMAL")
            self._since_fsync = 0 if flush else self._since_fsync + 1

    def _batched(self) -> Iterator[None]:
        if not self._db.in_transaction:
            self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            # Half a bar must not be committed with the rest of the batch.
            self._roll_back()
            self._since_commit = 0
            raise
        self._since_commit += 1
        if self._since_commit >= self.bars_per_commit:
            self.commit_batch()

    def _roll_back(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def commit_batch(self) -> None:
        """Commit what a batch has gathered."""
        with self._turn, _translated(self.path, "written"):
            if self._db.in_transaction:
                self._db.execute("COMMIT")
            self._since_commit = 0

    def add_decision(
        self,
        decision: Decision,
        equity: float,
        certified_bits: int = 0,
        lambdas: tuple[float, ...] | None = None,
    ) -> None:
        """Append one bar's decision with the marked equity in USDT and what the report wants of its scan.

        lambdas are the four windows' dominant eigenvalues, None where the source does not carry them. Raises
        InvariantError when the bar is there.
        """
        canonical, detail = decision.canonical(), _encode(decision)
        packed = None if lambdas is None else struct.pack(f"<{len(lambdas)}d", *lambdas)
        try:
            self._db.execute(
                "INSERT INTO decisions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    decision.bar_idx,
                    decision.timestamp_ns,
                    decision.scan_number,
                    decision.action,
                    decision.reason,
                    decision.asset,
                    equity,
                    certified_bits,
                    packed,
                    canonical,
                    detail,
                    _checksum(equity, certified_bits, packed or b"", canonical, detail),
                ),
            )
        except sqlite3.IntegrityError as error:
            raise InvariantError(
                f"{self.path}: bar {decision.bar_idx} was decided before; one decision a bar"
            ) from error

    def add_trade(self, trade: ClosedTrade, legs: Mapping[str, int]) -> None:
        """Append a closed trade and its legs. Raises InvariantError when the trade is there already."""
        values = msgspec.structs.astuple(trade)
        try:
            self._db.execute(f"INSERT INTO trades VALUES ({', '.join('?' * len(values))})", values)  # noqa: S608
            self._db.executemany(
                "INSERT INTO cash_flows (trade_id, leg, amount_e8, bar_idx, timestamp_ns)"
                " VALUES (?, ?, ?, ?, ?)",
                [(trade.trade_id, leg, legs[leg], trade.exit_bar, trade.exit_ns) for leg in LEGS],
            )
        except sqlite3.IntegrityError as error:
            raise InvariantError(
                f"{self.path}: trade {trade.trade_id} or one of its bars was booked before"
            ) from error

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
            "DELETE FROM snapshots WHERE bar_idx NOT IN"
            " (SELECT bar_idx FROM snapshots ORDER BY bar_idx DESC LIMIT 2)"
        )

    def set_meta(self, values: Mapping[str, str]) -> None:
        """Set settings or results of the run, durable at once."""
        with self.transaction(durable=True):
            self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", list(values.items()))
        self.commit_batch()

    # reading

    def _rows(self, sql: str, values: tuple[Any, ...] = ()) -> Iterator[Any]:
        with _translated(self.path, "read"):
            yield from self._db.execute(sql, values)

    def _row(self, sql: str) -> Any:
        return next(self._rows(sql), None)

    def meta(self) -> dict[str, str]:
        """All settings."""
        return dict(self._rows("SELECT key, value FROM meta"))

    def last_bar(self) -> int:
        """Highest bar_idx decided, -1 when none was."""
        highest = self._row("SELECT max(bar_idx) FROM decisions")[0]
        return -1 if highest is None else int(highest)

    def last_scan_number(self) -> int:
        """Number of the scan decided last, -1 when none was."""
        row = self._row("SELECT scan_number FROM decisions ORDER BY bar_idx DESC LIMIT 1")
        return -1 if row is None else int(row[0])

    def equity_peak(self) -> float | None:
        """Highest marked equity in USDT, None without bars."""
        highest = self._row("SELECT max(equity) FROM decisions")[0]
        return None if highest is None else float(highest)

    def equity_at(self, bar_idx: int) -> float:
        """Marked equity in USDT after a bar. Raises InvariantError when there is no such bar."""
        row = self._row(f"SELECT equity FROM decisions WHERE bar_idx = {int(bar_idx)}")  # noqa: S608
        if row is None:
            raise InvariantError(f"{self.path}: bar {bar_idx} is not in the journal")
        return float(row[0])

    def newest_snapshot(self) -> tuple[int, bytes] | None:
        """(bar_idx, state) of the newest snapshot."""
        row = self._row("SELECT bar_idx, state FROM snapshots ORDER BY bar_idx DESC LIMIT 1")
        return None if row is None else (int(row[0]), bytes(row[1]))

    def records(self, first: int = 0) -> Iterator[Record]:
        """The rows of the bars from `first` on as they lie in the file, in order, undecoded."""
        for row in self._rows("SELECT * FROM decisions WHERE bar_idx >= ? ORDER BY bar_idx", (first,)):
            yield Record(*row)

    def decisions(
        self, first: int = 0, last: int | None = None, *, active: bool = False
    ) -> Iterator[Decision]:
        """Decisions of the bars first..last in order; `active`: entries and exits alone.

        Raises DataError for a record that cannot be decoded.
        """
        where = f" AND action NOT IN ({ACTION_NONE}, {ACTION_HOLD})" if active else ""
        rows = self._rows(
            f"SELECT bar_idx, detail FROM decisions WHERE bar_idx BETWEEN ? AND ?{where} ORDER BY bar_idx",  # noqa: S608
            (first, (1 << 62) if last is None else last),
        )
        for bar, detail in rows:
            try:
                yield _decode(detail)
            except msgspec.DecodeError as error:
                raise DataError(
                    f"{self.path}: the record of bar {bar} is damaged ({error}); see `dolphin audit`"
                ) from error

    def last_active(self) -> Decision | None:
        """The newest decision that did something (entry, hold or exit), None when there is none.

        Raises DataError for a record that cannot be decoded.
        """
        row = self._row(
            f"SELECT bar_idx FROM decisions WHERE action <> {ACTION_NONE} ORDER BY bar_idx DESC LIMIT 1"  # noqa: S608
        )
        return None if row is None else next(self.decisions(int(row[0]), int(row[0])))

    def canonicals(self, first: int = 0) -> Iterator[tuple[int, int, bytes]]:
        """(bar_idx, scan_number, canonical record) of the bars from `first` on, in order."""
        yield from self._rows(
            "SELECT bar_idx, scan_number, canonical FROM decisions WHERE bar_idx >= ? ORDER BY bar_idx",
            (first,),
        )

    def equity(self) -> list[tuple[int, int, float]]:
        """(bar_idx, timestamp_ns, marked equity in USDT) in bar order."""
        return list(self._rows("SELECT bar_idx, timestamp_ns, equity FROM decisions ORDER BY bar_idx"))

    def marks(self) -> tuple[IntArray, FloatArray]:
        """(timestamp_ns, marked equity in USDT) of every bar, arrays (n_bars,)."""
        rows = np.array(
            list(self._rows("SELECT timestamp_ns, equity FROM decisions ORDER BY bar_idx")),
            dtype=[("timestamp_ns", np.int64), ("equity", np.float64)],
        )
        return rows["timestamp_ns"].copy(), rows["equity"].copy()

    def series(self) -> Series:
        """What was seen on every bar, and what a held asset cost."""
        vel_div: list[float] = []
        held: dict[int, list[float]] = {}
        path: list[float] = []
        for decision in self.decisions():
            vel_div.append(decision.vel_div)
            if decision.action == ACTION_ENTER:
                path = held[decision.bar_idx] = [decision.price]
            elif decision.action == ACTION_HOLD:
                path.append(decision.price)
            elif decision.action == ACTION_EXIT:
                path.append(decision.scan_price)
        return Series(np.array(vel_div), {bar: np.array(prices) for bar, prices in held.items()})

    def lambdas(self) -> list[tuple[float, ...]]:
        """Dominant eigenvalues of the windows by bar; an empty list when any bar came without them."""
        found: list[tuple[float, ...]] = []
        for (packed,) in self._rows("SELECT lambdas FROM decisions ORDER BY bar_idx"):
            if packed is None:
                return []
            found.append(struct.unpack(f"<{len(packed) // 8}d", packed))
        return found

    def certified_bits_min(self) -> int | None:
        """Least certified accuracy of any scan decided on, in bits; None without bars or certificates."""
        least = self._row("SELECT min(certified_bits) FROM decisions")[0]
        return int(least) if least else None

    def reasons(self) -> dict[tuple[int, int], int]:
        """Count of bars by (action, reason) code."""
        rows = self._rows("SELECT action, reason, count(*) FROM decisions GROUP BY action, reason")
        return {(int(a), int(r)): int(n) for a, r, n in rows}

    def trades(self) -> list[ClosedTrade]:
        """All closed trades in order of their entry."""
        names = ClosedTrade.__struct_fields__
        rows = self._rows("SELECT * FROM trades ORDER BY entry_bar")
        return [ClosedTrade(**dict(zip(names, (*r[:-1], bool(r[-1])), strict=True))) for r in rows]

    def cash_flows(self) -> list[tuple[str, str, int]]:
        """(trade_id, leg, amount in units of 1e-8 USDT) in the order of booking."""
        return list(self._rows("SELECT trade_id, leg, amount_e8 FROM cash_flows ORDER BY id"))

    def days(self) -> list[dict[str, Any]]:
        """Results of the finished days, in order."""
        return [msgspec.json.decode(row[0]) for row in self._rows("SELECT result FROM days ORDER BY date")]

    def events(self) -> list[tuple[int, str, str]]:
        """(timestamp_ns, kind, text) in order."""
        return list(self._rows("SELECT timestamp_ns, kind, text FROM events ORDER BY id"))

    def decisions_sha256(self) -> str:
        """SHA-256 over the canonical records in bar order."""
        digest = hashlib.sha256()
        for (record,) in self._rows("SELECT canonical FROM decisions ORDER BY bar_idx"):
            digest.update(record)
        return digest.hexdigest()


def writer_lock(path: Path, *, shared: bool = False) -> int:
    """The lock of the one writer of a file, a descriptor to close; the kernel takes it back from the dead.

    shared: one of several writers that keep each other out by fences (`dolphin.journal.fenced`); the one
    writer keeps all of them out, and they him. Raises StoreError when another process holds it, or this one
    in another place.
    """
    lock_path = path.with_name(path.name + ".lock")
    with _translated(path, "locked"):
        lock = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise StoreError(
            f"{path}: another process writes this run; wait for it or choose another --out"
        ) from error
    return lock


def _make(path: Path, meta: Mapping[str, str]) -> None:
    """Write schema and settings under another name, then rename: a crash leaves no half journal."""
    draft = path.with_name(path.name + ".new")
    for left in (draft, draft.with_name(draft.name + "-journal")):
        left.unlink(missing_ok=True)
    connection = sqlite3.connect(draft, isolation_level=None)
    try:
        connection.executescript("PRAGMA journal_mode=DELETE;BEGIN;" + _SCHEMA)
        connection.executemany("INSERT INTO meta VALUES (?, ?)", list(meta.items()))
        connection.execute("COMMIT")
    finally:
        connection.close()
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


_HINTS: Final = (
    (("full", "No space", "too large"), "free some space, then resume"),
    (("readonly", "denied", "Read-only"), "make the folder writable or choose another --out"),
    (("locked",), "another process has this run open; wait for it or choose another --out"),
    (("disk I/O",), "check the disk and its free space, then resume"),
)


@contextlib.contextmanager
def _translated(path: Path, verb: str) -> Iterator[None]:
    """SQLite's and the system's errors as one line about the journal."""
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except (sqlite3.OperationalError, OSError) as error:
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        if "no such" in text:
            raise DataError(f"{path}: is no journal ({text}); expected the journal.db of a run") from error
        hint = next((way for words, way in _HINTS if any(word in text for word in words)), None)
        raise StoreError(
            f"{path}: the journal cannot be {verb} ({text}); {hint or 'check the folder and its permissions'}"
        ) from error
    except sqlite3.DatabaseError as error:
        rule = "is damaged" if "malformed" in str(error) else "is no journal"
        raise DataError(f"{path}: {rule} ({error}); expected the journal.db of a run") from error


def require_writable(folder: Path) -> None:
    """Make the folder and prove that a file can be written in it. Raises StoreError."""
    probe = folder / f".probe-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x" * 4096)
    except OSError as error:
        raise StoreError(
            f"{folder}: cannot be written ({error.strerror}); "
            "free some space, make it writable or choose another --out"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
