"""A sweep's folder: parts of results, the manifest, the digest of all rows.

Entry points: `SweepStore`, `canonical_bytes`.

    DIR/sweep.json                    the manifest: plan, data, code, counts, result digest
    DIR/results/part-00000.parquet    one row a binding, in the order of the plan
    DIR/daily/part-00000.parquet      the same bindings' marked equity at each day's last bar, USDT
    DIR/carried/part-00000.parquet    while a period of several pieces runs: where the part's bindings stand
    DIR/refused.jsonl                 combinations that break a rule, each with the rule

1. A part is written under a hidden name, synced, renamed; its daily equity first. So the part with a name is
   whole, and a kill at any moment costs at most the part at work.
2. A part is believed only if the digest of its rows is the one written into it, and plan, data and code are
   those of the manifest; otherwise it is run again.
3. `carried` has one file a part: the state of its bindings after the last piece that they went through, and
   their daily equity until then. A later piece's takes its place in one step; the part's results end it.
4. The result digest covers the rows alone, in the order of the plan, not how they were cut or when they ran.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dolphin.backtest.period import CARRIED, Carry
from dolphin.domain.bar import FloatArray
from dolphin.domain.errors import StoreError
from dolphin.engine.period import COUNT_NAMES, TOTAL_NAMES
from dolphin.engine.state import new_state
from dolphin.market.cache_format import put_bytes

MANIFEST: Final = "sweep.json"
FORMAT: Final = "dolphin sweep 1"
REFUSED: Final = "refused.jsonl"
CARRIED_FOLDER: Final = "carried"
_KEY: Final = b"dolphin.sweep"
_SHOWN: Final = 12


class Manifest(msgspec.Struct, kw_only=True):
    """What a sweep's folder holds."""

    format: str = FORMAT
    plan: dict[str, Any]
    plan_sha256: str
    #: sha256, cache, source, first_day, last_day, days, bars, assets
    data: dict[str, Any]
    code_sha256: str
    #: Other code that went on with the folder, each with the first binding it ran.
    other_code: list[dict[str, Any]] = msgspec.field(default_factory=list)
    version: str = ""
    bindings: int
    refused: int
    refused_by_rule: list[dict[str, Any]] = msgspec.field(default_factory=list)
    bindings_per_part: int
    #: Of all rows, in the order of the plan; empty until every part is there.
    result_sha256: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Results of consecutive bindings: columns (n,) by name, daily equity (n, n_days) in USDT.

    Floats are float64 with NaN for a figure that does not exist; set_hash is bytes of 16 hex digits.
    """

    columns: Mapping[str, np.ndarray[Any, Any]]
    daily: FloatArray

    def __len__(self) -> int:
        """Number of bindings."""
        return len(self.daily)


@dataclass(frozen=True, slots=True, eq=False)
class Carried:
    """Where a part's bindings stand after the day `through`: daily equity is (n, n_days), of `days`, USDT."""

    through: str
    carries: tuple[Carry, ...]
    days: tuple[str, ...]
    daily: FloatArray


def joined(parts: list[Rows]) -> Rows:
    """The rows of all parts, one after the other."""
    return Rows(
        {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns},
        np.concatenate([part.daily for part in parts]),
    )


def canonical_bytes(rows: Rows) -> bytes:
    """The rows as bytes that do not depend on the machine: a row's set hash, then its numbers, then its days.

    Every number is float64, little endian, with one NaN; columns in their order.
    """
    numbers = [np.asarray(v, np.float64) for name, v in rows.columns.items() if name != "set_hash"]
    values = np.concatenate([np.stack(numbers, axis=1), rows.daily], axis=1)
    values = np.where(np.isnan(values), np.nan, values)
    packed = np.empty(len(rows), np.dtype([("set", "S16"), ("values", "<f8", (values.shape[1],))]))
    packed["set"], packed["values"] = rows.columns["set_hash"], values
    return packed.tobytes()


class SweepStore:
    """The folder of one sweep, held by one process at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder and hold it. Raises StoreError where another process does, or the disk refuses."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise StoreError(f"{self.folder}: {error.strerror}; choose another --out") from error
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise StoreError(
                    f"{self.folder}: another sweep is at work here; wait for it, or choose another --out"
                ) from error
            yield
        finally:
            os.close(lock)

    def manifest(self) -> Manifest | None:
        """The manifest that is there. Raises StoreError for one that cannot be read, or without one."""
        path = self.folder / MANIFEST
        try:
            found = msgspec.json.decode(path.read_bytes(), type=Manifest)
        except FileNotFoundError as error:
            if (self.folder / "results").exists():
                raise StoreError(
                    f"{self.folder}: holds results without {MANIFEST}; choose another --out"
                ) from error
            return None
        except (OSError, msgspec.DecodeError) as error:
            raise StoreError(f"{path}: cannot be read as a sweep's manifest; choose another --out") from error
        if found.format != FORMAT:
            raise StoreError(f"{path}: is {found.format!r}, expected {FORMAT!r}; choose another --out")
        return found

    def put_manifest(self, manifest: Manifest) -> None:
        """Write it in one step. Raises StoreError."""
        text = json.dumps(msgspec.to_builtins(manifest), indent=1) + "\n"
        put_bytes(self.folder / MANIFEST, text.encode())

    def adopt(self, wanted: Manifest, other_code: bool) -> Manifest:
        """The manifest to go on with: the one there if it is of the same plan, data and code, else `wanted`.

        Raises StoreError that names what differs. With other_code, code may differ, and the manifest says so.
        """
        found = self.manifest()
        if found is None:
            self.put_manifest(wanted)
            return wanted
        if found.plan_sha256 != wanted.plan_sha256:
            differing = _differing(found.plan, wanted.plan)
            raise StoreError(
                f"{self.folder}: holds a sweep of another plan ({differing}); choose another --out"
            )
        if found.data["sha256"] != wanted.data["sha256"]:
            differing = _differing(found.data, wanted.data, without=("sha256",)) or "content of a day's file"
            raise StoreError(
                f"{self.folder}: holds a sweep of other data ({differing}); choose another --out"
            )
        last = found.other_code[-1]["sha256"] if found.other_code else found.code_sha256
        if last != wanted.code_sha256 and not found.result_sha256:
            if not other_code:
                raise StoreError(
                    f"{self.folder}: was begun by other code ({last[:_SHOWN]} by {found.version}, this is"
                    f" {wanted.code_sha256[:_SHOWN]}); choose another --out, or go on with --other-code,"
                    " which the manifest will say"
                )
            found.other_code.append({"sha256": wanted.code_sha256, "version": wanted.version})
            self.put_manifest(found)
        return found

    # -- parts -------------------------------------------------------------------------------------------

    def put_part(self, number: int, rows: Rows, days: tuple[str, ...], stamp: str) -> None:
        """Write a part; stamp says of which plan, data and code it is. Raises StoreError."""
        meta = {_KEY: json.dumps({"stamp": stamp, "rows": _sha256(rows)}, sort_keys=True).encode()}
        daily: dict[str, Any] = {"binding": rows.columns["binding"]}
        daily |= {day: np.ascontiguousarray(rows.daily[:, k]) for k, day in enumerate(days)}
        results = {
            name: pa.array(v.astype("U16") if name == "set_hash" else v, from_pandas=v.dtype.kind == "f")
            for name, v in rows.columns.items()
        }
        for folder, columns in (("daily", daily), ("results", results)):
            self._put(self._path(folder, number), pa.table(columns).replace_schema_metadata(meta))

    def part(self, number: int, stamps: tuple[str, ...]) -> Rows | None:
        """A part that is whole and of one of these stamps; None where it is to be run (again)."""
        try:
            results = pq.read_table(self._path("results", number))
            daily = pq.read_table(self._path("daily", number))
            meta = json.loads(results.schema.metadata[_KEY])
            if meta != json.loads(daily.schema.metadata[_KEY]) or meta["stamp"] not in stamps:
                return None
            columns: dict[str, Any] = {}
            for name in results.column_names:
                if name == "set_hash":
                    columns[name] = np.array(results.column(name).to_pylist(), "S16")
                else:
                    columns[name] = results.column(name).to_numpy()
            days = [daily.column(name).to_numpy() for name in daily.column_names[1:]]
            rows = Rows(columns, np.ascontiguousarray(np.stack(days, axis=1)))
            return rows if _sha256(rows) == meta["rows"] else None
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
            return None

    # -- bindings between two pieces ---------------------------------------------------------------------

    def put_carried(self, number: int, carried: Carried, stamp: str) -> None:
        """Write where a part stands, in place of where it stood before. Raises StoreError."""
        blobs = _blobs(carried.carries)
        meta = {"stamp": stamp, "through": carried.through, "content": _content(blobs, carried)}
        columns: dict[str, Any] = {
            name: pa.array([row.tobytes() for row in rows], pa.binary()) for name, rows in blobs.items()
        }
        columns |= {day: np.ascontiguousarray(carried.daily[:, k]) for k, day in enumerate(carried.days)}
        table = pa.table(columns).replace_schema_metadata({_KEY: json.dumps(meta, sort_keys=True).encode()})
        self._put(self._path(CARRIED_FOLDER, number), table)

    def carried(self, number: int, stamps: tuple[str, ...]) -> Carried | None:
        """Where a part stands, if that is whole and of one of these stamps; None where it is at the start."""
        try:
            table = pq.read_table(self._path(CARRIED_FOLDER, number))
            meta = json.loads(table.schema.metadata[_KEY])
            if meta["stamp"] not in stamps:
                return None
            blobs = {}
            for name, like in _likes().items():
                raw = table.column(name).to_pylist()
                blobs[name] = [np.frombuffer(row, like.dtype).reshape(like.shape) for row in raw]
            days = tuple(table.column_names[len(blobs) :])
            daily = np.stack([table.column(day).to_numpy() for day in days], axis=1)
            carries = tuple(
                Carry(tuple(values[:-2]), values[-2], values[-1])
                for values in zip(*blobs.values(), strict=True)
            )
            carried = Carried(meta["through"], carries, days, np.ascontiguousarray(daily))
            return carried if _content(blobs, carried) == meta["content"] else None
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
            return None

    def drop_carried(self, number: int) -> None:
        """Forget where a part stood: its results are there."""
        with contextlib.suppress(OSError):
            self._path(CARRIED_FOLDER, number).unlink()

    def end_carried(self) -> None:
        """Remove the folder of what was carried."""
        shutil.rmtree(self.folder / CARRIED_FOLDER, ignore_errors=True)

    def _put(self, path: Path, table: pa.Table) -> None:
        try:
            path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise StoreError(f"{path.parent}: {error.strerror}; check disk and permissions") from error
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        put_bytes(path, memoryview(sink.getvalue()))

    def _path(self, folder: str, number: int) -> Path:
        return self.folder / folder / f"part-{number:05d}.parquet"


def _sha256(rows: Rows) -> str:
    return hashlib.sha256(canonical_bytes(rows)).hexdigest()


def _likes() -> dict[str, np.ndarray[Any, Any]]:
    """Every array of a binding's carry by name: its kind and shape."""
    state = new_state(1, 0.0)
    likes: dict[str, np.ndarray[Any, Any]] = {name: getattr(state, name) for name in CARRIED}
    return likes | {"totals": np.zeros(len(TOTAL_NAMES)), "counts": np.zeros(len(COUNT_NAMES), np.int64)}


def _blobs(carries: tuple[Carry, ...]) -> dict[str, list[np.ndarray[Any, Any]]]:
    rows = [(*carry.arrays, carry.totals, carry.counts) for carry in carries]
    return {name: [row[k] for row in rows] for k, name in enumerate(_likes())}


def _content(blobs: Mapping[str, list[np.ndarray[Any, Any]]], carried: Carried) -> str:
    """SHA-256 (hex) over all that is carried."""
    digest = hashlib.sha256(json.dumps([carried.through, *carried.days]).encode())
    for rows in blobs.values():
        for row in rows:
            digest.update(row.tobytes())
    digest.update(carried.daily.tobytes())
    return digest.hexdigest()


def _differing(found: Mapping[str, Any], wanted: Mapping[str, Any], without: tuple[str, ...] = ()) -> str:
    """Keys that differ with both values, short enough for one line."""
    told = []
    for key in sorted((found.keys() | wanted.keys()) - set(without)):
        a, b = found.get(key), wanted.get(key)
        if a == b:
            continue
        if isinstance(a, dict) and isinstance(b, dict):
            told.append(f"{key}: {_differing(a, b)}")
        else:
            told.append(f"{key} {_cut(a)} there, {_cut(b)} here")
    return "; ".join(told[:3]) + (f"; and {len(told) - 3} more" if len(told) > 3 else "")


def _cut(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
