"""The scanner's last prices on disk, so that a restart does not wait an hour for its windows again.

An append-only file of fixed-width rows: a header (magic, row width, universe), then rows of payload +
CRC-32. The payload is the bytes of the scanner's own `RingRow`; this file does not look inside.

Invariants:

1. A torn tail (the process died inside a write) is cut at opening and counted; whole rows before it are kept.
2. The file never holds more than `4 x keep` rows: then it is rewritten with the last `keep`, atomically.
3. A ring of another universe or row width is never mixed in: it is set aside as `<name>.foreign` and told.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import zlib
from pathlib import Path

from dolphin.domain.errors import DataError, StoreError, plural
from dolphin.domain.scan import WARMUP_PRICES

MAGIC = b"DLPHRNG1"
_HEADER = struct.Struct("<8sI16sI")  # magic, payload width, universe_id, CRC-32 of the foregoing
_CRC = struct.Struct("<I")
ROW_BYTES_MAX = 1 << 20


class PriceRing:
    """The last `keep` rows (752: one before the first scan) of fixed width on disk."""

    def __init__(
        self,
        path: Path | str,
        row_bytes: int,
        universe_id: str,
        keep: int = WARMUP_PRICES,
        fsync: bool = False,
    ) -> None:
        """Open or make the ring.

        Parameters
        ----------
        path : the file; its folder is made.
        row_bytes : width of every row's payload.
        universe_id : sixteen characters; rows of another universe are never given back.
        keep : how many rows `rows()` gives at most.
        fsync : make every row survive a loss of power.

        Raises StoreError when the file cannot be made, read or set aside.
        """
        if not 0 < row_bytes <= ROW_BYTES_MAX:
            raise DataError(f"price ring {path}: a row of {row_bytes} bytes; expected 1 to {ROW_BYTES_MAX}")
        self.path = Path(path)
        self.row_bytes = row_bytes
        self.keep = keep
        self.fsync = fsync
        self._notes: list[str] = []
        body = _HEADER.pack(MAGIC, row_bytes, universe_id.encode()[:16], 0)[: -_CRC.size]
        self._header = body + _CRC.pack(zlib.crc32(body))
        self._fd = -1
        self._rows: list[bytes] = []
        self._n_on_disk = 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._open()
        except OSError as error:
            raise self._refused(error) from error

    @property
    def notes(self) -> tuple[str, ...]:
        """Whole sentences for the person: what was cut off or set aside at opening. Empty as a rule."""
        return tuple(self._notes)

    def append(self, row: bytes) -> None:
        """Add one row.

        Raises DataError for another width, StoreError when the disk refuses (then nothing is added).
        """
        if len(row) != self.row_bytes:
            raise DataError(f"{self.path}: a row of {len(row)} bytes, expected {self.row_bytes}")
        if self._fd < 0:
            raise StoreError(f"{self.path}: the ring is closed; open it again")
        whole = self._size(self._n_on_disk)
        try:
            if self._n_on_disk >= 4 * self.keep:
                self._rewrite()
                whole = self._size(self._n_on_disk)
            _write_all(self._fd, row + _CRC.pack(zlib.crc32(row)))
            if self.fsync:
                os.fsync(self._fd)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, whole)
            raise self._refused(error) from error
        self._n_on_disk += 1
        self._rows.append(row)
        del self._rows[: -self.keep]

    def rows(self) -> list[bytes]:
        """The last `keep` rows, the oldest first."""
        return list(self._rows)

    def clear(self) -> None:
        """Forget all rows, atomically. Raises StoreError when the disk refuses."""
        self._rows = []
        try:
            self._rewrite()
        except OSError as error:
            raise self._refused(error) from error

    def close(self) -> None:
        """Close the file; rows() still answers."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # -- inside ------------------------------------------------------------------------------------

    def _size(self, n_rows: int) -> int:
        return _HEADER.size + n_rows * (self.row_bytes + _CRC.size)

    def _open(self) -> None:
        content = self.path.read_bytes() if self.path.exists() else b""
        if content and not content.startswith(self._header):
            aside = self.path.with_name(self.path.name + ".foreign")
            os.replace(self.path, aside)
            self._notes.append(
                f"{self.path}: belongs to another universe or format; set aside as {aside.name}"
            )
            content = b""
        if not content:
            self._rewrite()
            return
        width = self.row_bytes + _CRC.size
        good = _HEADER.size
        while good + width <= len(content):
            row = content[good : good + self.row_bytes]
            if _CRC.unpack_from(content, good + self.row_bytes)[0] != zlib.crc32(row):
                break
            self._rows.append(row)
            good += width
        self._n_on_disk = len(self._rows)
        self._rows = self._rows[-self.keep :]
        self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        if good < len(content):
            os.ftruncate(self._fd, good)
            cut = plural(len(content) - good, "byte")
            self._notes.append(f"{self.path}: {cut} of a torn tail cut off; whole rows before it are kept")

    def _rewrite(self) -> None:
        """Write header and kept rows under a hidden name, flush, rename over the ring, and go on appending
        there.
        """
        hidden = self.path.with_name(f".{self.path.name}.tmp")
        fd = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            _write_all(fd, self._header + b"".join(row + _CRC.pack(zlib.crc32(row)) for row in self._rows))
            os.fsync(fd)
            os.replace(hidden, self.path)
        except OSError:
            os.close(fd)
            with contextlib.suppress(OSError):
                os.unlink(hidden)
            raise
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
        self._n_on_disk = len(self._rows)

    def _refused(self, error: OSError) -> StoreError:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        way_out = "free some space and go on" if full else "check disk and permissions"
        return StoreError(f"{self.path}: price ring refused ({error.strerror}); {way_out}")


def _write_all(fd: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


def read_rows(path: Path, row_bytes: int) -> list[bytes]:
    """All whole rows of a ring that another process writes, the oldest first; a torn tail is left out.

    Raises StoreError when it cannot be read, DataError when it holds rows of another width.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StoreError(
            f"price ring {path}: cannot be read ({error.strerror}); check permissions"
        ) from error
    if len(content) < _HEADER.size or _HEADER.unpack_from(content)[:2] != (MAGIC, row_bytes):
        raise DataError(f"price ring {path}: holds no rows of {row_bytes} bytes; expected the universe's")
    width = row_bytes + _CRC.size
    rows = []
    for at in range(_HEADER.size, len(content) - width + 1, width):
        row = content[at : at + row_bytes]
        if _CRC.unpack_from(content, at + row_bytes)[0] != zlib.crc32(row):
            break
        rows.append(row)
    return rows
