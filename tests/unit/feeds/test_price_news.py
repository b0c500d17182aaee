"""What a person hears of live prices: each trouble once."""

from __future__ import annotations

from dolphin.domain.clock import NS_PER_S
from dolphin.feeds.price_news import PriceNews

FRESH_NS = 30 * NS_PER_S


class Told:
    """Bars of a universe of ten, 5 s apart."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.news = PriceNews(self.lines.append, FRESH_NS)
        self.now_s = 1_000
        self.heard = 0
        self.counts = {"errors": 0, "renewals": 0}

    def bar(self, fresh: int, *, trades: int = 1, newest_s: int | None = None) -> None:
        self.now_s += 5
        self.heard += trades
        newest_ns = None if newest_s is None else newest_s * NS_PER_S
        self.news.look(self.now_s * NS_PER_S, fresh, 10, newest_ns, self.heard, self.counts, "trades: gone")


def test_prices_that_stop_are_told_once_with_since_when_and_why() -> None:
    told = Told()
    for fresh in (10, 5, 4, 0, 0):
        told.bar(fresh, newest_s=980)
    assert told.lines == ["no fresh price of 6 of 10 symbols since 00:16:20 UTC (trades: gone)"]
    told.bar(7)
    told.bar(10)
    assert told.lines[1:] == ["prices are back: 7 of 10 symbols, after 50 s"]


def test_first_prices_have_time_to_come() -> None:
    told = Told()
    for _ in range(6):
        told.bar(0, trades=0)
    assert told.lines == []
    told.bar(0, trades=0)
    assert told.lines == ["no fresh price of 10 of 10 symbols since 00:16:45 UTC (trades: gone)"]


def test_a_lost_connection_is_told_once_and_renewals_are_not() -> None:
    told = Told()
    told.bar(10)
    told.counts["errors"] += 1
    told.counts["renewals"] += 1
    told.bar(10)
    assert told.lines == []
    for _ in range(3):
        told.counts["errors"] += 2
        told.bar(10, trades=0)
    told.bar(10, trades=0)
    assert told.lines == ["connection lost (trades: gone); asked again"]
    told.bar(10)
    told.bar(10)
    assert told.lines[1:] == ["connected again: trades are heard"]
