"""Books and features as a file, for when the grid is away (spec 04, "Flow").

Entry points: `BookFile` (what stands in the file), `write_cache`, `CachedBooks` (its reader),
`FileFirstBooks` (a provider that prefers the file while the writer's circuit is open).

The file is replaced as a whole. Its reader takes it only while it says that the circuit is not closed and is
at most 5 s old: a writer that died, or that is back on the grid, is never read from here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

import msgspec

from dolphin.grid.books import snapshot_of
from dolphin.grid.payloads import AssetBook, ObfLatest, ShardFeatures
from dolphin.orderbook.constants import STALE_AFTER_NS
from dolphin.orderbook.provider import BookProvider
from dolphin.orderbook.snapshot import BookSnapshot
from dolphin.services.durable import write_durably

CACHE_FILE: Final = "latest_ob_features.json"
SCHEMA_FILE: Final = "SCHEMA.md"
SCHEMA_VERSION: Final = 1

SCHEMA_TEXT: Final = f"""# {CACHE_FILE}

Newest order books and features, written by `dolphin books` while the grid does not take them. The file is
replaced as a whole. Read it only while `circuit` is not `closed` and `written_ns` is at most 5 s ago;
otherwise the grid is right.

| field | meaning |
|---|---|
| `schema_version` | {SCHEMA_VERSION} |
| `written_ns` | when it was written, nanoseconds since 1970 UTC |
| `circuit` | `open`, `half_open`: the grid is away; `closed`: the grid has everything again |
| `books.<SYMBOL>` | as `DOLPHIN_FEATURES["asset_<SYMBOL>_ob"]`: USD and base units by band |
| `features.<SYMBOL>` | as `DOLPHIN_FEATURES_SHARD_0<d>["<SYMBOL>"]` |
| `market` | as `DOLPHIN_FEATURES["obf_latest"]` |
"""


class BookFile(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in the file; see `SCHEMA_TEXT`."""

    schema_version: int = SCHEMA_VERSION
    written_ns: int
    circuit: Literal["closed", "open", "half_open"]
    books: dict[str, AssetBook] = {}
    features: dict[str, ShardFeatures] = {}
    market: ObfLatest | None = None


def write_cache(folder: Path, content: BookFile) -> None:
    """Replace the file, and describe it beside. Raises StoreError."""
    schema = folder / SCHEMA_FILE
    if not schema.exists():
        write_durably(schema, SCHEMA_TEXT.encode())
    write_durably(folder / CACHE_FILE, msgspec.json.encode(content))


class CachedBooks:
    """The file as its readers see it.

    `look` reads it, where it was replaced since; `newest` asks nobody.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / CACHE_FILE
        self._decode = msgspec.json.Decoder(BookFile).decode
        self._version = 0
        self._content: BookFile | None = None
        self._books: dict[str, BookSnapshot] = {}
        self.in_force = False
        #: Contents that could not be read.
        self.n_refused = 0

    def look(self, now_ns: int) -> bool:
        """Read what is new; whether the file is to be preferred at now_ns. A damaged one is not."""
        try:
            version = self.path.stat().st_mtime_ns
            if version != self._version:
                content = self._decode(self.path.read_bytes())
                for payload in (*content.books.values(), *content.features.values()):
                    payload.check()
                self._books = {symbol: snapshot_of(book) for symbol, book in content.books.items()}
                self._content, self._version = content, version
        except FileNotFoundError:
            self._content = None
        except (OSError, ValueError):
            self.n_refused += 1
            self._content = None
            self._version = 0
        held = self._content
        self.in_force = (
            held is not None and held.circuit != "closed" and abs(now_ns - held.written_ns) <= STALE_AFTER_NS
        )
        return self.in_force

    def newest(self, symbol: str) -> BookSnapshot | None:
        """The file's book, while it is in force."""
        return self._books.get(symbol) if self.in_force else None

    def features(self, symbol: str) -> ShardFeatures | None:
        """The file's features, while it is in force."""
        return self._content.features.get(symbol) if self.in_force and self._content else None


class FileFirstBooks:
    """A provider that reads the file while it is in force, the grid otherwise.

    `advance` reads the file: it belongs where a bar begins, not between a bar and its decision.
    """

    def __init__(self, grid: BookProvider, cached: CachedBooks) -> None:
        self._grid = grid
        self._cached = cached

    @property
    def label(self) -> str:
        """See `BookProvider.label`."""
        return "file" if self._cached.in_force else self._grid.label

    def advance(self, now_ns: int) -> None:
        """See `BookProvider.advance`."""
        self._cached.look(now_ns)
        self._grid.advance(now_ns)

    def newest(self, symbol: str) -> BookSnapshot | None:
        """See `BookProvider.newest`."""
        return self._cached.newest(symbol) if self._cached.in_force else self._grid.newest(symbol)
