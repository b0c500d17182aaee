"""The predecessor's archive of scans, read only: factors and w750 velocities of its days (spec 01).

Entry points: `Archive`, `is_archive`, `archive_sources`, `scan_values`.

Layout: `eigenvalues/YYYY-MM-DD/` with, per scan, `scan_NUMBER[_HHMMSS]__Indicators.npz` (funding_btc,
dvol_btc, fng, taker), `scan_NUMBER[_HHMMSS]__scan_global.npz` (lambda_vel_w750), and
`scan_NUMBER[_HHMMSS].json`, which may hold both. A value is a number, or an array of one; NaN and null are
missing.

A scan is flat (`{"funding_btc": ..}`) or nested (`{"external": {"funding_btc": ..}}`,
`{"result": {"multi_window_results": {"750": {"velocity": ..}}}}`); in an NPZ a nested name is written
`external/funding_btc`. Both come out of `scan_values` alike. The grid's own scans are normalised at its door
(`dolphin.grid.payloads.ScanPayload`).

Invariants
----------
1. Nothing in an archive is ever executed: NPZ is opened with allow_pickle=False, and objects are refused.
2. A file that is refused costs one line in `refused`, and only itself.
3. Scans are taken in the order of their time of day, then of their number. A name without a time has only its
   place: the k-th such scan of a day is stamped k seconds after midnight.
"""

from __future__ import annotations

import json
import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from dolphin.domain.clock import NS_PER_S, day_start_ns
from dolphin.domain.errors import DataError, StoreError
from dolphin.factors.series import Series, SeriesSource, series_of
from dolphin.risk.breaker_day import FACTORS, FactorRecord

FOLDER: Final = "eigenvalues"
#: Where a nested scan keeps what a flat one has on top.
NESTS: Final = ("result", "external", "external_factors", "indicators")
VELOCITY: Final = "lambda_vel_w750"
_VELOCITY_NAMES: Final = (VELOCITY, "w750_velocity", "v750_lambda_max_velocity")

_NAME = re.compile(
    r"scan_(?P<number>\d{1,19})(?:_(?P<time>\d{6}))?(?P<kind>__Indicators\.npz|__scan_global\.npz|\.json)"
)
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


class _File(NamedTuple):
    at_ns: int
    number: int
    kind: str
    path: Path


class Archive:
    """One archive. folder is its root, or the `eigenvalues` in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder if folder.name == FOLDER else folder / FOLDER
        #: One line a file that was refused.
        self.refused: list[str] = []

    def days(self) -> list[str]:
        """The dates that have a folder, ascending. Raises StoreError."""
        try:
            return sorted(path.name for path in self.folder.iterdir() if _DAY.fullmatch(path.name))
        except OSError as error:
            raise StoreError(
                f"{self.folder}: cannot be read ({error.strerror}); name the archive's folder"
            ) from error

    def records(self, day: str, n_max: int | None = None) -> list[FactorRecord]:
        """The day's records that have any factor, oldest first; with n_max only the first so many."""
        found: list[FactorRecord] = []
        for file, values in self._scans(day, "__Indicators.npz"):
            four = tuple(values.get(name) for name in FACTORS)
            if four != (None,) * len(FACTORS):
                found.append(FactorRecord(pushed_ns=file.at_ns, values=four))  # type: ignore[arg-type]
                if n_max is not None and len(found) == n_max:
                    break
        return found

    def velocities(self, day: str) -> list[tuple[int, float]]:
        """(ns UTC, w750 velocity in 1/s) of the first scan of every minute that has one, ascending."""
        found: list[tuple[int, float]] = []
        done = -1
        for file, values in self._scans(day, "__scan_global.npz", once_a_minute=True):
            minute = file.at_ns // (60 * NS_PER_S)
            velocity = values.get(VELOCITY)
            if velocity is not None and minute != done:
                found.append((file.at_ns, velocity))
                done = minute
        return found

    def _scans(
        self, day: str, kind: str, *, once_a_minute: bool = False
    ) -> Iterator[tuple[_File, dict[str, float | None]]]:
        """Files of a kind and the JSON ones, with what they hold; once_a_minute: until one of it is good."""
        done = -1
        for file in self._files(day, kind):
            minute = file.at_ns // (60 * NS_PER_S)
            if once_a_minute and minute == done:
                continue
            try:
                values = scan_values(_content(file.path), file.path.name)
            except DataError as error:
                self.refused.append(f"{day}/{error}")
                continue
            done = minute
            yield file, values

    def _files(self, day: str, kind: str) -> list[_File]:
        start_ns = day_start_ns(day)
        try:
            names = [path for path in (self.folder / day).iterdir() if path.is_file()]
        except OSError as error:
            raise StoreError(f"{self.folder / day}: cannot be read ({error.strerror})") from error
        timed: list[_File] = []
        untimed: list[tuple[int, str, Path]] = []
        for path in names:
            match = _NAME.fullmatch(path.name)
            if match is None or match["kind"] not in (kind, ".json"):
                continue
            if match["time"] is None:
                untimed.append((int(match["number"]), match["kind"], path))
                continue
            hours, minutes, seconds = (int(match["time"][k : k + 2]) for k in (0, 2, 4))
            if hours > 23 or minutes > 59 or seconds > 59:
                self.refused.append(f"{day}/{path.name}: {match['time']} is no time of day, expected HHMMSS")
                continue
            at_ns = start_ns + ((hours * 60 + minutes) * 60 + seconds) * NS_PER_S
            timed.append(_File(at_ns, int(match["number"]), match["kind"], path))
        places = [
            _File(start_ns + k * NS_PER_S, number, which, path)
            for k, (number, which, path) in enumerate(sorted(untimed))
        ]
        return sorted(timed + places)


def is_archive(folder: Path) -> bool:
    """Whether a folder is such an archive, or holds one."""
    return folder.name == FOLDER or (folder / FOLDER).is_dir()


def archive_sources(folder: Path) -> dict[str, SeriesSource]:
    """A source for each factor, by name, of all records of the archive; read when one is asked first."""
    table: dict[str, Series] = {}

    def load(name: str) -> Series:
        if not table:
            archive = Archive(folder)
            records = [record for day in archive.days() for record in archive.records(day)]
            if not records:
                first = f"; {archive.refused[0]}" if archive.refused else ""
                raise DataError(
                    f"{archive.folder}: no scan with a factor, expected scan_*__Indicators.npz{first}"
                )
            for k, each in enumerate(FACTORS):
                pairs = [(r.pushed_ns, value) for r in records if (value := r.values[k]) is not None]
                at_ns = np.array([at for at, _ in pairs], np.int64)
                table[each] = series_of(at_ns, np.array([value for _, value in pairs], np.float64), at_ns)
        return table[name]

    return {name: SeriesSource(name, lambda name=name: load(name)) for name in FACTORS}  # type: ignore[misc]


def scan_values(scan: Mapping[str, Any], source: str) -> dict[str, float | None]:
    """The factors and `lambda_vel_w750` of a scan in either form; None where it does not have one.

    Units are those of `dolphin.risk.breaker_day`. source is named in errors. Raises DataError for a value
    that is no number.
    """
    layers = _layers(scan)
    found: dict[str, float | None] = {name: _first_number(layers, (name,), source) for name in FACTORS}
    velocity = _first_number(layers, _VELOCITY_NAMES, source)
    for layer in layers:
        windows = layer.get("multi_window_results")
        if velocity is None and isinstance(windows, Mapping):
            window = windows.get("750", windows.get(750))
            if isinstance(window, Mapping):
                velocity = _first_number([window], ("velocity",), source)
    found[VELOCITY] = velocity
    return found


def _layers(scan: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The scan and what is nested in it, the outermost first."""
    layers: list[Mapping[str, Any]] = [scan]
    for layer in layers:
        layers += [layer[nest] for nest in NESTS if isinstance(layer.get(nest), Mapping)]
    return layers


def _first_number(layers: list[Mapping[str, Any]], names: tuple[str, ...], source: str) -> float | None:
    for layer in layers:
        for name in names:
            value = layer.get(name)
            if value is None:
                continue
            number = _number(value)
            if number is None:
                raise DataError(f"{source}: {name} is {str(value)[:40]!r}, expected one number")
            if math.isfinite(number):
                return number
    return None


def _number(value: Any) -> float | None:
    if isinstance(value, np.ndarray):
        if value.size != 1 or value.dtype.kind not in "fiu":
            return None
        return float(value.reshape(())[()])
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)


def _content(path: Path) -> Mapping[str, Any]:
    """What a file holds, as a mapping. Raises DataError."""
    try:
        if path.suffix == ".json":
            content = json.loads(path.read_bytes())
            if not isinstance(content, dict):
                raise DataError(f"{path.name}: is no JSON object")
            return content
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            nested: dict[str, Any] = {}
            for name in file.files:
                *nests, last = name.split("/")
                layer = nested
                for nest in nests:
                    layer = layer.setdefault(nest, {})
                    if not isinstance(layer, dict):
                        raise DataError(f"{path.name}: {nest} is a value and a nest at once")
                layer[last] = file[name]
            return nested
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        told = (str(error).splitlines() or [type(error).__name__])[0][:100]
        raise DataError(
            f"{path.name}: refused ({told}); expected numbers only, no pickled objects"
        ) from error
