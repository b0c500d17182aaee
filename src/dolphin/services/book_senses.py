"""A trader's books from a provider, read once a bar: the grid's near view, the exchange, a recording, mocks.

Entry points: `BookSenses`, `Together`, `open_books`. Until any book of the universe was heard the trader has
no books at all, and its decisions say `absent`; from the first one on a silence shows as `degraded`.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from dolphin.domain.errors import ConfigError
from dolphin.domain.scan import ScanRow
from dolphin.orderbook.arrivals import read_snapshots
from dolphin.orderbook.fold import FRESH, Arrivals
from dolphin.orderbook.guards import GuardRules
from dolphin.orderbook.provider import BookProvider
from dolphin.services.senses import Senses

MOCK: Final = "mock"
BINANCE: Final = "binance"
#: Kind of the journal's events that say what went wrong with books.
BOOKS: Final = "books"
_HEARD: Final = b"heard"
_RECORDED: Final = "recorded"


class BookSenses:
    """See `dolphin.services.senses.Senses`.

    close is what ends the provider's listening, news what went wrong with it since the last call.
    """

    def __init__(
        self,
        provider: BookProvider,
        symbols: Sequence[str],
        close: Callable[[], None] = lambda: None,
        news: Callable[[], Sequence[tuple[str, str]]] = lambda: (),
    ) -> None:
        self._provider = provider
        self._symbols = tuple(symbols)
        self._close = close
        self._news = news
        self._heard = False

    @property
    def label(self) -> str:
        """See `Senses.label`."""
        return self._provider.label

    def sense(self, row: ScanRow, now_ns: int, stress: float | None) -> Arrivals | None:
        """See `Senses.sense`."""
        self._provider.advance(now_ns)
        arrivals = read_snapshots(self._symbols, now_ns, self._provider.newest)
        self._heard = self._heard or bool((arrivals.status == FRESH).any())
        return arrivals if self._heard else None

    def pass_over(self, row: ScanRow, stress: float | None, read: Arrivals | None) -> None:
        """See `Senses.pass_over`."""
        self._heard = self._heard or read is not None

    def take_news(self) -> list[tuple[str, str]]:
        """See `Senses.take_news`."""
        return [(BOOKS, line) for _, line in self._news()]

    def state(self) -> bytes:
        """See `Senses.state`."""
        return _HEARD if self._heard else b""

    def restore(self, state: bytes) -> None:
        """See `Senses.restore`."""
        self._heard = state == _HEARD

    def close(self) -> None:
        """See `Senses.close`."""
        self._close()


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[bytes, bytes]).decode


class Together:
    """Books of one sense with the factors of another."""

    def __init__(self, books: Senses, factors: Senses) -> None:
        self._books = books
        self._factors = factors

    @property
    def label(self) -> str:
        """See `Senses.label`."""
        return self._books.label

    def sense(self, row: ScanRow, now_ns: int, stress: float | None) -> Arrivals | None:
        """See `Senses.sense`."""
        self._factors.sense(row, now_ns, stress)
        return self._books.sense(row, now_ns, stress)

    def pass_over(self, row: ScanRow, stress: float | None, read: Arrivals | None) -> None:
        """See `Senses.pass_over`."""
        self._factors.pass_over(row, stress, read)
        self._books.pass_over(row, stress, read)

    def take_news(self) -> list[tuple[str, str]]:
        """See `Senses.take_news`."""
        return [*self._factors.take_news(), *self._books.take_news()]

    def state(self) -> bytes:
        """See `Senses.state`."""
        return _encode((self._books.state(), self._factors.state()))

    def restore(self, state: bytes) -> None:
        """See `Senses.restore`."""
        books, factors = _decode(state) if state else (b"", b"")
        self._books.restore(books)
        self._factors.restore(factors)

    def close(self) -> None:
        """See `Senses.close`."""
        self._books.close()
        self._factors.close()


def books_identity(books: str) -> str:
    """What decides a run's books, for its settings: `mock`, `binance`, or a recording's content and folder.

    books is one of the words, or the folder of a recording. Raises ConfigError where there is none.
    """
    if books in (MOCK, BINANCE):
        return books
    folder = Path(books)
    parts = sorted(folder.glob("date=*/part-*.parquet"))
    if not parts:
        raise ConfigError(
            f"--books {books}: no recorded books there; expected auto, off, mock, or a folder with"
            " date=YYYY-MM-DD/part-*.parquet"
        )
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{part.relative_to(folder)}\n".encode())
        told = part.stat()
        digest.update(_content(part, told.st_size, told.st_mtime_ns))
    return f"{_RECORDED}:{digest.hexdigest()[:16]}:{books}"


@functools.lru_cache(maxsize=65_536)
def _content(part: Path, size: int, changed_ns: int) -> bytes:
    """SHA-256 of a part, read once while it is as it is: a run asks for it several times."""
    with part.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def books_named(identity: str) -> str:
    """The books that an identity stands for, as a run is asked for them."""
    return identity.split(":", 2)[2] if identity.startswith(f"{_RECORDED}:") else identity


def open_books(
    books: str, symbols: Sequence[str], base_url: str | None = None, rules: GuardRules | None = None
) -> BookSenses:
    """The senses of `mock`, of `binance` live, or of a folder of recorded snapshots.

    base_url is another address than the exchange's own, rules those of its guards. Raises DataError and
    StoreError for a recording, UsageError where the feeds extra is missing.
    """
    if books == MOCK:
        from dolphin.orderbook.mock import MockBooks

        return BookSenses(MockBooks(), symbols)
    if books == BINANCE:
        from dolphin.feeds.book_flow import BookFlow
        from dolphin.feeds.book_view import BookView

        view = BookView()
        flow = BookFlow(symbols, view, base_url=base_url, rules=rules)
        flow.start()
        return BookSenses(view, symbols, flow.stop, flow.notices)
    from dolphin.market.recorded_books import RecordedBooks

    return BookSenses(RecordedBooks(books), symbols)
