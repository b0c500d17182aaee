"""Features of single assets, spread over ten maps by a rule that never changes.

Entry points: `shard_index`, `shard_name`, `assets_of`, `ShardedStore`.

Invariants
----------
1. The shard of a symbol is a function of its letters alone, the same in every process, version and language.
2. A value read after a change was delivered is never older than that change: the near view is invalidated by
   the shards' own listeners, and a read that raced with a change is not kept.
3. The near view holds at most `near_entries_max` values a shard, each for at most `near_ttl_s`.
4. Which assets exist is read from the shards' keys; there is no list.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from dolphin.domain.clock import NS_PER_S
from dolphin.grid.payloads import WHOLE, PayloadRejected
from dolphin.grid.port import EntryEvent, Grid, GridMap
from dolphin.grid.topics import encode

N_SHARDS = 10
NEAR_ENTRIES_MAX = 5_000
NEAR_TTL_S = 300


def shard_index(symbol: str) -> int:
    """Shard of `symbol`, 0 to 9: the sum of its code points modulo ten."""
    return sum(map(ord, symbol)) % N_SHARDS


def shard_name(symbol: str) -> str:
    """Name of the map that holds the features of `symbol`."""
    return f"DOLPHIN_FEATURES_SHARD_{shard_index(symbol):02d}"


def assets_of(grid: Grid) -> tuple[str, ...]:
    """Symbols that have anything in any shard of `grid`, sorted. Asks the grid ten times: not for the hot
    path. Raises GridUnreachable without a connection.
    """
    return _symbols_in(grid.map(f"DOLPHIN_FEATURES_SHARD_{i:02d}") for i in range(N_SHARDS))


def _symbols_in(shards: Iterable[GridMap]) -> tuple[str, ...]:
    # A key is the symbol itself or `{feature}_{symbol}`, and a symbol has no underscore.
    return tuple(sorted({key.rpartition("_")[2] for shard in shards for key in shard.keys()}))  # noqa: SIM118


class _Shard:
    """One map and its near view.

    `epoch` counts invalidations, so that a read can tell that one came in between.
    """

    __slots__ = ("epoch", "lock", "map", "near", "subscription")

    def __init__(self, source: GridMap) -> None:
        self.map = source
        self.lock = threading.Lock()
        self.near: OrderedDict[str, tuple[bytes, int]] = OrderedDict()
        self.epoch = 0
        self.subscription = source.listen(self._on_entry)

    def _on_entry(self, event: EntryEvent) -> None:
        self.invalidate(event.key)

    def invalidate(self, key: str) -> None:
        with self.lock:
            self.epoch += 1
            self.near.pop(key, None)


class ShardedStore:
    """JSON values by (symbol, feature) over the ten shards of `grid`.

    Parameters
    ----------
    now_ns : callable
        A clock that never goes back, nanoseconds; used for the age of near entries only.
    near_entries_max, near_ttl_s : int
        Bounds of the near view: entries a shard, and seconds.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        now_ns: Callable[[], int] = time.monotonic_ns,
        near_entries_max: int = NEAR_ENTRIES_MAX,
        near_ttl_s: int = NEAR_TTL_S,
    ) -> None:
        self._now_ns = now_ns
        self._near_entries_max = near_entries_max
        self._near_ttl_ns = near_ttl_s * NS_PER_S
        self._shards = [_Shard(grid.map(f"DOLPHIN_FEATURES_SHARD_{i:02d}")) for i in range(N_SHARDS)]
        self.n_near_hits = 0
        self.n_near_misses = 0

    def put(self, symbol: str, feature: str, value: Any) -> None:
        """Store a JSON value.

        Raises PayloadRejected when it has no JSON form or a float in it is not finite.
        """
        shard, key = self._where(symbol, feature)
        try:
            data = encode(value)
        except (ValueError, TypeError) as error:
            raise PayloadRejected(shard.map.name, key, WHOLE, str(error)) from error
        shard.map.put(key, data)
        # With a worker thread the event comes later: whoever wrote must not read what was there before.
        shard.invalidate(key)

    def get(self, symbol: str, feature: str) -> Any:
        """The value, or None when there is none. From the near view when it is there and young enough.

        Raises PayloadRejected when a foreign writer stored something that is no JSON, GridUnreachable on a
        near miss without a connection.
        """
        shard, key = self._where(symbol, feature)
        now_ns = self._now_ns()
        with shard.lock:
            held = shard.near.get(key)
            if held is not None and now_ns - held[1] < self._near_ttl_ns:
                shard.near.move_to_end(key)
                self.n_near_hits += 1
                return msgspec.json.decode(held[0])
            epoch = shard.epoch
            self.n_near_misses += 1
        data = shard.map.get(key)
        try:
            value = None if data is None else msgspec.json.decode(data)
        except msgspec.DecodeError as error:
            raise PayloadRejected(shard.map.name, key, WHOLE, str(error)) from error
        with shard.lock:
            if data is None or epoch != shard.epoch:
                # A change came while we asked; what we hold may be the older value.
                shard.near.pop(key, None)
            else:
                shard.near[key] = (data, now_ns)
                shard.near.move_to_end(key)
                if len(shard.near) > self._near_entries_max:
                    shard.near.popitem(last=False)
        return value

    def delete(self, symbol: str, feature: str) -> bool:
        """Remove the value; True when there was one."""
        shard, key = self._where(symbol, feature)
        was_there = shard.map.delete(key)
        shard.invalidate(key)
        return was_there

    def assets(self) -> tuple[str, ...]:
        """Symbols that have anything in any shard, sorted. Asks the grid ten times: not for the hot path."""
        return _symbols_in(shard.map for shard in self._shards)

    def near_size(self, symbol: str) -> int:
        """Entries of the near view in the shard of `symbol`."""
        shard = self._shards[shard_index(symbol)]
        with shard.lock:
            return len(shard.near)

    def close(self) -> None:
        """Stop listening."""
        for shard in self._shards:
            shard.subscription.close()

    def _where(self, symbol: str, feature: str) -> tuple[_Shard, str]:
        return self._shards[shard_index(symbol)], f"{feature}_{symbol}"
