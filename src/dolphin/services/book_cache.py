"""Books and features as a file, for when the grid is away (spec 04, "Flow").

Entry points: `BookFile` (what stands in the file), `write_cache`, `CachedBooks` (its reader),
`FileFirstBooks` (a provider that prefers the file while the writer's circuit is open), `Watch` (the thread
that reads for both).

1. The file is replaced as a whole. Its reader takes it only while it says that the circuit is not closed and
   is at most 5 s old: a writer that died, or that is back on the grid, is never read from here.
2. The file is read by `refresh` alone, which belongs on a thread of its own. `judge` and what follows from it
   touch memory only, so that a decision never waits for a disk; the books of a bar are of one content.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final, Literal, NamedTuple

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
#: The label of decisions made with the file's books.
FILE: Final = "file"
#: How often a watch looks at the file, and how long it is waited for at the end: real seconds.
LOOK_EVERY_S = 0.2
STOP_S: Final = 1.0

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


class _Held(NamedTuple):
    """One content, made ready to be read."""

    content: BookFile
    books: dict[str, BookSnapshot]


class CachedBooks:
    """The file as its readers see it: `refresh` reads it, `judge` says whether it counts."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / CACHE_FILE
        self._decode = msgspec.json.Decoder(BookFile).decode
        self._seen: tuple[int, int, int] | None = None
        self._held: _Held | None = None
        self._judged: _Held | None = None
        #: Contents that could not be read.
        self.n_refused = 0

    @property
    def in_force(self) -> bool:
        """Whether the file was to be preferred when it was judged last."""
        return self._judged is not None

    @property
    def written_ns(self) -> int | None:
        """When the content that is held was written, ns UTC; None without one."""
        held = self._held
        return None if held is None else held.content.written_ns

    def refresh(self) -> None:
        """Read the file where it was replaced since; a damaged one is counted and is none. Raises nothing."""
        try:
            found = self.path.stat()
            mark = (found.st_mtime_ns, found.st_ino, found.st_size)
            if mark == self._seen:
                return
            content = self._decode(self.path.read_bytes())
            for payload in (*content.books.values(), *content.features.values()):
                payload.check()
            books = {symbol: snapshot_of(book) for symbol, book in content.books.items()}
            self._held, self._seen = _Held(content, books), mark
        except FileNotFoundError:
            self._held = self._seen = None
        except (OSError, ValueError):
            self.n_refused += 1
            self._held = self._seen = None

    def judge(self, now_ns: int) -> bool:
        """Whether what was read is to be preferred at now_ns; getters are of that content from here on."""
        held = self._held
        in_force = (
            held is not None
            and held.content.circuit != "closed"
            and abs(now_ns - held.content.written_ns) <= STALE_AFTER_NS
        )
        self._judged = held if in_force else None
        return in_force

    def look(self, now_ns: int) -> bool:
        """Read what is new and judge it, for a reader that decides nothing."""
        self.refresh()
        return self.judge(now_ns)

    def newest(self, symbol: str) -> BookSnapshot | None:
        """The file's book, while it is in force."""
        judged = self._judged
        return None if judged is None else judged.books.get(symbol)

    def features(self, symbol: str) -> ShardFeatures | None:
        """The file's features, while it is in force."""
        judged = self._judged
        return None if judged is None else judged.content.features.get(symbol)


class FileFirstBooks:
    """A provider that reads the file while it is in force, the grid otherwise.

    It reads memory only: whoever owns it keeps the file read (`Watch`).
    """

    def __init__(self, grid: BookProvider, cached: CachedBooks) -> None:
        self._grid = grid
        self._cached = cached
        self._told = ""
        self._news: list[str] = []

    @property
    def label(self) -> str:
        """See `BookProvider.label`."""
        return FILE if self._cached.in_force else self._grid.label

    def advance(self, now_ns: int) -> None:
        """See `BookProvider.advance`; for the whole bar the books are of what is chosen here."""
        in_force = self._cached.judge(now_ns)
        self._grid.advance(now_ns)
        told = FILE if in_force else ""
        if told != self._told:
            self._told = told
            self._news.append(
                f"books come from {self._cached.path.name}: their writer's way to the grid is shut"
                if in_force
                else f"books come from the {self._grid.label} again"
            )

    def newest(self, symbol: str) -> BookSnapshot | None:
        """See `BookProvider.newest`."""
        return self._cached.newest(symbol) if self._cached.in_force else self._grid.newest(symbol)

    def take_news(self) -> list[tuple[str, str]]:
        """(source, sentence) for every change between grid and file since the last call."""
        taken, self._news = self._news, []
        return [(FILE, line) for line in taken]


class Watch:
    """A thread that keeps a `CachedBooks` read, from its making to `stop`."""

    def __init__(self, cached: CachedBooks) -> None:
        self._cached = cached
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="book-file", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ending.is_set():
            self._cached.refresh()
            self._ending.wait(LOOK_EVERY_S)

    def stop(self) -> None:
        """End it; a read that hangs is left behind."""
        self._ending.set()
        self._thread.join(STOP_S)
