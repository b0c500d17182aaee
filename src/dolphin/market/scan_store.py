"""The Arrow scan store: one file per scan under `<root>/arrow_scans/YYYY-MM-DD/`.

Entry points: `ScanStore.write`, `.read`, `.scans`, `.next_scan_number`, `.quarantine`.

Invariants:

1. A reader never sees half a file: the bytes go to a hidden name in the same folder, then one rename.
2. A scan number stands for one content. Writing the same scan again changes nothing; another content is
   refused.
3. Iteration survives foreign and damaged files: they move to `<root>/quarantine/` with a `.reason.txt` and
   are counted.
4. Numbers are ordered as integers, across day folders; six digits is a least width, not a limit.

One writer per root. pyarrow's errors end here.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from dolphin.domain.clock import day_from_ns, time_of_day
from dolphin.domain.errors import DataError, StoreError
from dolphin.domain.scan import COLUMNS, SCHEMA_VERSION, WINDOWS, Scan

#: A scan of 500 assets is about 30 kB; anything beyond this is foreign.
SCAN_BYTES_MAX = 4_000_000

_FILE = re.compile(r"scan_(\d{6,19})_(\d{6})\.arrow")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_INTEGERS = frozenset({"scan_number", "timestamp_ns", "missing_asset_count"})
_TEXTS = frozenset({"assets", "asset_prices", "asset_loadings", "schema_version"})
_NULLABLE = frozenset(
    {"asset_loadings", "instability_composite"}
    | {f"w{w}_{field}" for w in WINDOWS for field in ("rotation", "instability")}
)
_METADATA = (b"universe_id", b"certified_bits", b"outcome", b"stale_assets")


def _type_of(column: str) -> pa.DataType:
    if column in _INTEGERS:
        return pa.int64()
    return pa.utf8() if column in _TEXTS else pa.float64()


#: The 27 columns with their types; the metadata is the scan's own.
SCHEMA = pa.schema([pa.field(name, _type_of(name), nullable=name in _NULLABLE) for name in COLUMNS])
_TYPES = [SCHEMA.field(name).type for name in COLUMNS]
_ROW = pa.struct(list(SCHEMA))

_encode = msgspec.json.encode
_decode_assets = msgspec.json.Decoder(tuple[str, ...]).decode
_decode_prices = msgspec.json.Decoder(tuple[float | None, ...]).decode
_decode_loadings = msgspec.json.Decoder(tuple[float, ...]).decode
_decode_bits = msgspec.json.Decoder(tuple[int, ...]).decode


class ScanStore:
    """Scans as files.

    `root` is the storage root; `arrow_scans/` and `quarantine/` are made under it on first use.
    """

    def __init__(self, root: Path | str, fsync: bool = False) -> None:
        """`fsync` makes every write survive a loss of power, at the disk's price; without it, a crash of
        the process.
        """
        self.root = Path(root)
        self.folder = self.root / "arrow_scans"
        self.quarantine_folder = self.root / "quarantine"
        self.fsync = fsync
        #: Files moved to quarantine by this object.
        self.n_quarantined = 0
        self._highest: int | None = None
        self._day = ""
        self._day_folder = self.folder
        self._assets_json: tuple[tuple[str, ...], bytes] = ((), b"[]")
        self._listings: dict[str, tuple[int, list[tuple[int, str]]]] = {}

    # -- writing -----------------------------------------------------------------------------------

    def path_of(self, scan: Scan) -> Path:
        """`arrow_scans/YYYY-MM-DD/scan_NNNNNN_HHMMSS.arrow`, UTC of the scan's stamp."""
        day = day_from_ns(scan.timestamp_ns)
        return self.folder / day / f"scan_{scan.scan_number:06d}_{time_of_day(scan.timestamp_ns)}.arrow"

    def write(self, scan: Scan) -> Path:
        """Write one scan and return its file. The same scan again is no work at all.

        Raises StoreError when the number already stands for another scan, or when the disk refuses.
        """
        day = day_from_ns(scan.timestamp_ns)
        if day != self._day:
            self._enter_day(day)
        name = f"scan_{scan.scan_number:06d}_{time_of_day(scan.timestamp_ns)}.arrow"
        path = self._day_folder / name
        if self._highest is None:
            self._highest = self.next_scan_number() - 1
        if scan.scan_number <= self._highest:
            for existing in self._files_of(scan.scan_number):
                if existing == path and self.read(existing) == scan:
                    return path
                raise StoreError(
                    f"{existing}: scan {scan.scan_number} is there with other content; a scan is never"
                    f" overwritten. Continue from scan {self._highest + 1}, or give another storage root"
                )
        self._put(path, self._bytes_of(scan))
        if scan.scan_number > self._highest:
            self._highest = scan.scan_number
        return path

    def _enter_day(self, day: str) -> None:
        folder = self.folder / day
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"{folder}: cannot be made ({error.strerror}); check permissions and disk"
            ) from error
        self._day, self._day_folder = day, folder

    def _put(self, path: Path, content: pa.Buffer) -> None:
        hidden = f"{self._day_folder}/.{path.name}.{os.getpid()}.tmp"
        try:
            fd = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            try:
                view = memoryview(content)
                while view:
                    view = view[os.write(fd, view) :]
                if self.fsync:
                    os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(hidden, path)
            if self.fsync:
                fsync_folder(self._day_folder)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(hidden)
            raise StoreError(
                f"{path}: cannot be written ({error.strerror}); check disk and permissions"
            ) from error

    def _bytes_of(self, scan: Scan) -> pa.Buffer:
        assets, assets_json = self._assets_json
        if scan.assets is not assets:
            assets_json = _encode(scan.assets)
            self._assets_json = (scan.assets, assets_json)
        values: dict[str, Any] = {name: getattr(scan, name) for name in COLUMNS}
        values["assets"] = assets_json
        values["asset_prices"] = _encode(scan.asset_prices)
        values["asset_loadings"] = None if scan.asset_loadings is None else _encode(scan.asset_loadings)
        metadata = {
            b"universe_id": scan.universe_id.encode(),
            b"certified_bits": _encode(scan.certified_bits),
            b"outcome": _encode(scan.outcome),
            b"stale_assets": _encode(scan.stale_assets),
        }
        try:
            row = pa.array((values,), _ROW)  # one struct: a third of the time of 27 arrays
            batch = pa.RecordBatch.from_struct_array(row).replace_schema_metadata(metadata)
            sink = pa.BufferOutputStream()
            with pa.ipc.new_file(sink, batch.schema) as writer:
                writer.write_batch(batch)
            return sink.getvalue()
        except (pa.ArrowException, TypeError, OverflowError) as error:
            raise DataError(f"scan {scan.scan_number}: does not fit the store's columns ({error})") from error

    # -- reading -----------------------------------------------------------------------------------

    def read(self, path: Path | str) -> Scan:
        """The scan in one file.

        Raises StoreError when the file cannot be read, DataError when it is cut off, foreign, or breaks the
        schema.
        """
        path = Path(path)
        try:
            size = path.stat().st_size
            if size > SCAN_BYTES_MAX:
                raise DataError(f"{path}: {size} bytes, more than any scan has; it is no scan file")
            content = path.read_bytes()
        except OSError as error:
            raise StoreError(
                f"{path}: cannot be read ({error.strerror}); check permissions and disk"
            ) from error
        scan = decode_scan(content, str(path))
        match = _FILE.fullmatch(path.name)
        if match and int(match[1]) != scan.scan_number:
            raise DataError(
                f"{path}: holds scan {scan.scan_number}; the number in the name must be the one inside"
            )
        return scan

    def find(self, scan_number: int) -> Path | None:
        """The file of a scan number (the newest one, should foreign scanners have reused it), or None."""
        for day in self._days():
            names = [name for number, name in self._list_day(day) if number == scan_number]
            if names:
                return self.folder / day / max(names)
        return None

    def days(self) -> list[str]:
        """The UTC days that have a folder, the oldest first. Raises StoreError when they cannot be listed."""
        return self._days()[::-1]

    def scans(self, after: int = -1) -> Iterator[Scan]:
        """The scans with a number above `after`, in the order of their numbers, as the folders stand at the
        call.

        Damaged and foreign files are moved to quarantine and counted in `n_quarantined`; the iteration goes
        on.
        """
        wanted: list[tuple[int, str, str]] = []
        for day in self._days():
            for number, name in self._list_day(day, quarantine_foreign=True):
                if number > after:
                    wanted.append((number, day, name))
        wanted.sort()
        for _, day, name in wanted:
            path = self.folder / day / name
            try:
                yield self.read(path)
            except DataError as error:
                self.quarantine(path, str(error))
            except StoreError as error:
                if path.is_file() or not path.exists():
                    raise
                # A folder with the name of a scan would stop every reader for good.
                self.quarantine(path, str(error))

    def scans_of_day(self, day: str) -> Iterator[Scan]:
        """The scans of one UTC day, ordered by number; nothing for a day without a folder. See `scans`."""
        if day not in self._days():
            return
        for _, name in sorted(self._list_day(day, quarantine_foreign=True)):
            path = self.folder / day / name
            try:
                yield self.read(path)
            except DataError as error:
                self.quarantine(path, str(error))

    def next_scan_number(self) -> int:
        """The highest number on disk plus one; 1 for an empty store. Lists every day folder, the newest
        first.

        Every folder, because a foreign scanner may have started again at a low number on a later day.
        """
        return 1 + max((number for day in self._days() for number, _ in self._list_day(day)), default=0)

    def quarantine(self, path: Path | str, reason: str) -> Path:
        """Move a file to `quarantine/` and write the reason beside it. Raises StoreError when that fails."""
        path = Path(path)
        target = self.quarantine_folder / path.name
        try:
            self.quarantine_folder.mkdir(parents=True, exist_ok=True)
            n = 1
            while target.exists():
                target = self.quarantine_folder / f"{path.name}.{n}"
                n += 1
            os.rename(path, target)
            target.with_name(target.name + ".reason.txt").write_text(f"{path}\n{reason}\n", encoding="utf-8")
        except OSError as error:
            raise StoreError(
                f"{path}: cannot be moved to quarantine ({error.strerror}); remove it by hand"
            ) from error
        self.n_quarantined += 1
        return target

    # -- listing -----------------------------------------------------------------------------------

    def _days(self) -> list[str]:
        """Day folders, the newest first."""
        try:
            return sorted((name for name in os.listdir(self.folder) if _DAY.fullmatch(name)), reverse=True)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(
                f"{self.folder}: cannot be listed ({error.strerror}); check permissions"
            ) from error

    def _list_day(self, day: str, quarantine_foreign: bool = False) -> list[tuple[int, str]]:
        """(number, name) of a day's scans. A folder whose change time has not moved is not listed again."""
        folder = self.folder / day
        try:
            changed_ns = os.stat(folder).st_mtime_ns
            known = self._listings.get(day)
            if known is not None and known[0] == changed_ns:
                return known[1]
            names = os.listdir(folder)
        except OSError as error:
            raise StoreError(f"{folder}: cannot be listed ({error.strerror}); check permissions") from error
        found: list[tuple[int, str]] = []
        foreign: list[str] = []
        for name in names:
            match = _FILE.fullmatch(name)
            if match:
                found.append((int(match[1]), name))
            elif not name.startswith("."):
                foreign.append(name)
        if quarantine_foreign:
            for name in foreign:
                self.quarantine(folder / name, "the name is not scan_NNNNNN_HHMMSS.arrow: no scan of ours")
            foreign = []
        days = self._days()
        if (
            not foreign and day not in days[:2]
        ):  # the newest two may grow within one tick of the folder's clock
            self._listings[day] = (changed_ns, found)
        return found

    def _files_of(self, scan_number: int) -> list[Path]:
        return [
            self.folder / day / name
            for day in reversed(self._days())
            for number, name in self._list_day(day)
            if number == scan_number
        ]


def decode_scan(content: bytes, source: str) -> Scan:
    """The scan in the bytes of one Arrow IPC file. Raises DataError naming `source` and the broken rule."""
    try:
        with pa.ipc.open_file(pa.BufferReader(content)) as reader:
            schema = reader.schema
            n_batches = reader.num_record_batches
            _check_schema(schema, source)
            if n_batches != 1:
                raise DataError(f"{source}: {n_batches} record batches, expected one")
            batch = reader.get_batch(0)
            batch.validate(full=True)
            if batch.num_rows != 1:
                raise DataError(f"{source}: {batch.num_rows} rows, expected one")
            values = {name: column[0].as_py() for name, column in zip(COLUMNS, batch.columns, strict=True)}
    except (pa.ArrowException, OSError, ValueError, UnicodeDecodeError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise DataError(f"{source}: is no whole Arrow file ({first[:120]})") from error
    return _scan_of(values, schema.metadata, source)


def _check_schema(schema: pa.Schema, source: str) -> None:
    if tuple(schema.names) != COLUMNS:
        for k, name in enumerate(COLUMNS):
            got = schema.names[k] if k < len(schema.names) else "nothing"
            if got != name:
                raise DataError(f"{source}: column {k} is {got}, expected {name} of schema {SCHEMA_VERSION}")
        raise DataError(
            f"{source}: {len(schema.names)} columns, expected the {len(COLUMNS)} of {SCHEMA_VERSION}"
        )
    for field, kind in zip(schema, _TYPES, strict=True):
        if field.type != kind:
            raise DataError(f"{source}: column {field.name} is {field.type}, expected {kind}")
    for key in _METADATA:
        if key not in (schema.metadata or {}):
            raise DataError(f"{source}: metadata {key.decode()} is missing; it is no scan of ours")


def _scan_of(values: dict[str, Any], metadata: dict[bytes, bytes], source: str) -> Scan:
    if values["schema_version"] != SCHEMA_VERSION:
        raise DataError(f"{source}: schema version {values['schema_version']!r}, expected {SCHEMA_VERSION!r}")
    for name in COLUMNS:
        value = values[name]
        if value is None:
            if name not in _NULLABLE:
                raise DataError(f"{source}: {name} is null; only rotation, instability and loadings may be")
        elif isinstance(value, float) and not -1e300 < value < 1e300:
            raise DataError(f"{source}: {name} is {value}, expected a finite number")
    try:
        assets = _decode_assets(values["assets"])
        prices = _decode_prices(values["asset_prices"])
        loadings = None if values["asset_loadings"] is None else _decode_loadings(values["asset_loadings"])
        extra = {
            "universe_id": metadata[b"universe_id"].decode(),
            "certified_bits": _decode_bits(metadata[b"certified_bits"]),
            "outcome": _decode_assets(metadata[b"outcome"]),
            "stale_assets": _decode_assets(metadata[b"stale_assets"]),
        }
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{source}: a list inside is malformed ({error})") from error
    for what, n in (
        ("asset_prices", len(prices)),
        ("asset_loadings", len(assets if loadings is None else loadings)),
    ):
        if n != len(assets):
            raise DataError(f"{source}: {what} has {n} values for {len(assets)} assets")
    return Scan(**values | extra | {"assets": assets, "asset_prices": prices, "asset_loadings": loadings})


def fsync_folder(folder: Path | str) -> None:
    """Make a rename inside a folder survive a loss of power. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
