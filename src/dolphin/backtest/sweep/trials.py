"""How many bindings were ever tried on a cache: a small ledger beside the cache, so that none is forgotten.

Entry point: `TrialLedger`. The deflated Sharpe ratio of the best binding needs the trials that were run, in
this sweep and in all before it on the same days.

The ledger is `sweep_trials.json` among the days of the cache, however the cache was named. Where that takes
no file, it lies beside the sweep's folder instead, and a sentence says so. A sweep counts once, however often
it is run again; two sweeps that share a binding count it twice: the count errs on the careful side.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

import msgspec

from dolphin.domain.errors import StoreError
from dolphin.market.cache_format import cache_folder, put_bytes

NAME: Final = "sweep_trials.json"
FORMAT: Final = "dolphin sweep trials 1"


class Entry(msgspec.Struct, kw_only=True):
    """One sweep's trials."""

    data: str
    first_day: str
    last_day: str
    trials: int
    folder: str


class _Ledger(msgspec.Struct, kw_only=True):
    format: str = FORMAT
    sweeps: dict[str, Entry] = msgspec.field(default_factory=dict)


class TrialLedger:
    """The ledger of one cache."""

    def __init__(self, cache: Path, sweep: Path) -> None:
        """Choose the place. Raises StoreError where neither folder takes a file."""
        place = cache_folder(cache)
        self.path = place / NAME
        self.fell_back = False
        if not os.access(place, os.W_OK):
            self.path, self.fell_back = sweep.parent / NAME, True
        if self.path.exists():
            self._read()

    def put(self, key: str, entry: Entry) -> None:
        """Write a sweep's count; a smaller one than is there changes nothing. Raises StoreError."""
        try:
            lock = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise StoreError(
                f"{self.path}: cannot be written ({error.strerror}); check permissions"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = self._read()
            before = found.sweeps.get(key)
            if before is None or before.trials < entry.trials:
                found.sweeps[key] = entry
                put_bytes(self.path, msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
        finally:
            os.close(lock)

    def total(self, first_day: str, last_day: str) -> int:
        """Trials of all sweeps that used any of these days."""
        return sum(
            entry.trials
            for entry in self._read().sweeps.values()
            if entry.first_day <= last_day and first_day <= entry.last_day
        )

    def _read(self) -> _Ledger:
        try:
            found = msgspec.json.decode(self.path.read_bytes(), type=_Ledger)
        except FileNotFoundError:
            return _Ledger()
        except (OSError, msgspec.DecodeError) as error:
            raise StoreError(
                f"{self.path}: cannot be read as a ledger of trials; mend it, or move it away and know that"
                " trials before now are forgotten"
            ) from error
        if found.format != FORMAT:
            raise StoreError(f"{self.path}: is {found.format!r}, expected {FORMAT!r}; move it away")
        return found
