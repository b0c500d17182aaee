"""How many settings sweeps and studies tried on a cache: a small ledger in it, so that none is forgotten.

Entry point: `TrialLedger`. The deflated Sharpe ratio of the best setting needs the trials that were run, in
this sweep or study and in all before it on the same days. Single backtests, runs and forks enter nothing.

The ledger is `sweep_trials.json` among the days of the cache, however the cache was named. Where that takes
no file, it lies beside the folder of the results instead, and `told` says so. A sweep or a study counts once,
however often it is run again; two that share a setting count it twice: the count errs on the careful side.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from dolphin.domain.errors import StoreError
from dolphin.market.cache_format import cache_folder, put_bytes
from dolphin.market.scan_cache import CacheReader

NAME: Final = "sweep_trials.json"
FORMAT: Final = "dolphin sweep trials 1"
#: What a ledger outside the cache cannot know.
FELL_BACK: Final = (
    "The cache takes no file: what other folders' sweeps and studies tried on it is not counted"
)


class Entry(msgspec.Struct, kw_only=True):
    """The trials of one sweep or study."""

    data: str
    first_day: str
    last_day: str
    trials: int
    folder: str


class _Ledger(msgspec.Struct, kw_only=True):
    format: str = FORMAT
    sweeps: dict[str, Entry] = msgspec.field(default_factory=dict)


def data_sha256(cache: CacheReader, days: Sequence[str]) -> str:
    """SHA-256 (hex) over universe, days and every day's file, as a sweep's manifest has it."""
    files = [[day, cache.manifest.days[day].sha256] for day in days]
    content = json.dumps([cache.manifest.universe_id, list(cache.symbols), files])
    return hashlib.sha256(content.encode()).hexdigest()


class TrialLedger:
    """The ledger of one cache."""

    def __init__(self, cache: Path, results: Path) -> None:
        """Choose the place: the cache, or beside `results`. Raises StoreError for a broken ledger."""
        place = cache_folder(cache)
        self.path = place / NAME
        self.fell_back = False
        if not os.access(place, os.W_OK):
            self.path, self.fell_back = results.parent / NAME, True
        if self.path.exists():
            self._read()

    @property
    def told(self) -> str:
        """Where the ledger is, in words that name no machine's path."""
        if self.fell_back:
            return f"{self.path.name} beside the results, because the cache takes no file"
        return f"{self.path.name} of the cache"

    def put(self, key: str, entry: Entry) -> None:
        """Write a sweep's or study's count; one smaller than is there changes nothing. Raises StoreError."""
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

    def total(self, first_day: str, last_day: str, but: str = "") -> int:
        """Trials of all sweeps and studies that used any of these days, without the entry `but`."""
        return sum(
            entry.trials
            for key, entry in self._read().sweeps.items()
            if key != but and entry.first_day <= last_day and first_day <= entry.last_day
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
