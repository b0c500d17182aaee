"""When a connection is taken for dead, and which refusals end a watch; no network."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from ccxt.base.errors import BadRequest, BadSymbol, NetworkError

from dolphin.domain.clock import NS_PER_S
from dolphin.domain.errors import DataError
from dolphin.feeds.polling import Pace
from dolphin.feeds.streams import StreamKeeper

TRADES, MARKS = "ws://x/ws/1", "ws://x/ws/2"
NO_WAIT = Pace(period_s=1.0, tries=1_000_000, backoff_first_s=1e-6, backoff_max_s=1e-6)


class Stage:
    """A keeper of a client with two connections, on a clock that the test moves."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.given_up: list[str] = []
        hashes = {TRADES: "trade::X/USDT:USDT", MARKS: "markPrice:markPrice@X/USDT:USDT"}
        self.exchange: Any = SimpleNamespace(
            clients={url: SimpleNamespace(subscriptions={key: True}) for url, key in hashes.items()},
            give_up=lambda url, why: self.given_up.append(url),
            blocked_until_s=0.0,
        )
        self.keeper = StreamKeeper(
            self.exchange, lambda *told: None, mono_ns=lambda: int(self.now_s * NS_PER_S), pace=NO_WAIT
        )
        self.keeper.look()

    def until(self, end_s: float, *, trades_every_s: float = 0.0, marks: bool = True) -> None:
        """Seconds pass, with a look at each."""
        while self.now_s < end_s and not self.given_up:
            self.now_s += 1.0
            if marks:
                self.exchange.on_text("frame", "", MARKS)
            if trades_every_s and self.now_s % trades_every_s == 0.0:
                self.exchange.on_text("frame", "", TRADES)
            self.keeper.look()


def test_trades_of_a_thin_symbol_may_be_quiet_while_others_speak() -> None:
    stage = Stage()
    stage.until(100.0, trades_every_s=20.0)
    stage.until(300.0)
    assert stage.given_up == []
    stage.until(2_000.0)
    assert stage.given_up == [TRADES]
    assert 400.0 <= stage.now_s <= 720.0


@pytest.mark.parametrize("why", ["busy", "alone", "no word"])
def test_a_dead_connection_of_trades_is_found_within_30_s(why: str) -> None:
    stage = Stage()
    if why == "alone":
        del stage.exchange.clients[MARKS]
    if why != "no word":
        stage.until(100.0, trades_every_s=20.0 if why == "alone" else 1.0, marks=why != "alone")
    began_s = stage.now_s
    stage.until(10_000.0, marks=why != "alone")
    assert stage.given_up == [TRADES]
    assert stage.now_s - began_s <= 30.0


def test_any_other_connection_that_is_silent_is_dead() -> None:
    stage = Stage()
    stage.until(10.0, trades_every_s=1.0)
    stage.until(100.0, trades_every_s=1.0, marks=False)
    assert stage.given_up == [MARKS]
    assert stage.now_s <= 40.0


@pytest.mark.parametrize(
    "error", [BadRequest("binanceusdm accepts 200 symbols"), BadSymbol("no such market")]
)
def test_what_the_client_refuses_is_an_error_and_not_asked_again(error: Exception) -> None:
    asked = []

    async def watch() -> None:
        asked.append(1)
        raise error

    with pytest.raises(DataError, match=rf"trades: cannot be asked for \({error}\)"):
        asyncio.run(asyncio.wait_for(Stage().keeper.keep("trades", watch), 5.0))
    assert asked == [1]


@pytest.mark.parametrize(
    "error", [NetworkError("gone"), BadSymbol('binanceusdm {"code":-1121,"msg":"Invalid symbol."}')]
)
def test_what_the_exchange_refuses_is_asked_again(error: Exception) -> None:
    asked = []

    async def watch() -> None:
        asked.append(1)
        if len(asked) == 3:
            raise asyncio.CancelledError
        raise error

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(Stage().keeper.keep("trades", watch))
    assert len(asked) == 3
