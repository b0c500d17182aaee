"""Streams kept alive: back-off, silence, and connections renewed before the exchange ends them.

Entry point: `StreamKeeper`. ccxt connects, subscribes and parses; here is when it does so again.

1. A watch that fails is asked again after a jittered back-off, and not before the exchange's Retry-After.
2. A connection without a frame of data for `silent_s` is given up, though its pings are answered. One that
   has trades of thin symbols alone may be quiet for longer, by how often it spoke so far, while another
   connection shows that the exchange sends; one that said nothing at all since it was made may not.
3. A connection is renewed by plan within the last twentieth before `life_s`, which lies under the exchange's
   24 h, each at a moment of its own.
4. What the client itself refuses to watch (too many symbols, an unknown one) is an error at once, since it
   would refuse it again.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

from dolphin.domain.clock import NS_PER_S
from dolphin.domain.errors import DataError
from dolphin.feeds.client import PublicBinance, is_final, reason_of
from dolphin.feeds.polling import Pace, Schedule

#: Declared dead after so long without data, with the watchdog's own step within 30 s.
SILENT_S: Final = 25.0
#: Trades of thin symbols: so many times their usual distance is no silence yet, up to so many seconds.
QUIET_TIMES: Final = 20
QUIET_MAX_S: Final = 600.0
#: The exchange ends a connection after 24 h.
LIFE_S: Final = 23.5 * 3_600.0
PACE: Final = Pace(period_s=30.0, tries=1_000_000, backoff_first_s=0.2, backoff_max_s=30.0)


class StreamKeeper:
    """Watches of one client; all of it runs on one event loop.

    Parameters
    ----------
    exchange : its `on_text` is taken
    hear : gets kind (`frame` or `snapshot`), text and address as they come
    mono_ns : the clock of silence and life, which never goes back
    """

    def __init__(
        self,
        exchange: PublicBinance,
        hear: Callable[[str, str, str], None],
        *,
        mono_ns: Callable[[], int] = time.monotonic_ns,
        silent_s: float = SILENT_S,
        life_s: float = LIFE_S,
        check_every_s: float = 1.0,
        pace: Pace = PACE,
        seed: int = 0,
    ) -> None:
        self.exchange = exchange
        #: errors, error_<class>, silent, renewals: since the start.
        self.counts: Counter[str] = Counter()
        #: One line about the newest error, empty before any.
        self.last_error = ""
        self._hear = hear
        self._mono_ns = mono_ns
        self._silent_ns, self._life_ns = int(silent_s * NS_PER_S), int(life_s * NS_PER_S)
        self._check_every_s = check_every_s
        self._pace = pace
        self._seed = seed
        self._chance = random.Random(f"{seed}:renewal")  # noqa: S311 jitter, no secret
        self._data_ns: dict[str, int] = {}
        #: By address, whatever connection it was: frames, and when it was first seen.
        self._frames: Counter[str] = Counter()
        self._first_ns: dict[str, int] = {}
        #: By address: the connection, when it was first seen, when it is renewed.
        self._born: dict[str, tuple[Any, int, int]] = {}
        exchange.on_text = self._text

    def _text(self, kind: str, text: str, address: str) -> None:
        if kind == "frame":
            self._data_ns[address] = self._mono_ns()
            self._frames[address] += 1
        self._hear(kind, text, address)

    async def keep(
        self, name: str, watch: Callable[[], Awaitable[Any]], forget: Callable[[], None] = lambda: None
    ) -> None:
        """Watch for ever; `forget` is called before a watch that failed is asked again.

        Raises DataError for what the client refuses by itself.
        """
        schedule = Schedule(self._pace, f"{self._seed}:{name}")
        while True:
            try:
                await watch()
                if schedule.failures:
                    schedule.after_success_s()
            except Exception as error:  # ccxt's own, and what its parsing brings: asked again
                await self._after(name, schedule, error)
                forget()

    async def once(self, name: str, ask: Callable[[], Awaitable[Any]]) -> Any:
        """Ask until it is answered, and return the answer. Raises DataError as `keep` does."""
        schedule = Schedule(self._pace, f"{self._seed}:{name}")
        while True:
            try:
                return await ask()
            except Exception as error:  # whatever it is, it is asked again
                await self._after(name, schedule, error)

    async def _after(self, name: str, schedule: Schedule, error: Exception) -> None:
        """Wait until a question that failed is asked again."""
        self.failed(name, error)
        if is_final(error):
            raise DataError(f"{name}: cannot be asked for ({reason_of(error)})") from error
        quiet_s = self.exchange.blocked_until_s - time.monotonic()
        await asyncio.sleep(schedule.after_failure_s(passes=True) + max(0.0, quiet_s))

    def failed(self, name: str, error: Exception) -> None:
        """Count an error and keep its line."""
        self.counts["errors"] += 1
        self.counts[f"error_{type(error).__name__}"] += 1
        self.last_error = f"{name}: {type(error).__name__}: {reason_of(error)}"

    async def watch_over(self) -> None:
        """Give up connections that are silent or old, for ever."""
        while True:
            await asyncio.sleep(self._check_every_s)
            self.look()

    def look(self) -> None:
        """One look at every connection."""
        now_ns = self._mono_ns()
        for address, connection in list((self.exchange.clients or {}).items()):
            born = self._born.get(address)
            if born is None or born[0] is not connection:
                renewed_ns = now_ns + int(self._life_ns * self._chance.uniform(0.95, 1.0))
                born = self._born[address] = (connection, now_ns, renewed_ns)
            quiet_ns = now_ns - max(born[1], self._data_ns.get(address, 0))
            if quiet_ns > self._allowed_ns(address, connection, born[1], now_ns):
                self.counts["silent"] += 1
                self.exchange.give_up(address, f"no data for {quiet_ns / NS_PER_S:.0f} s")
            elif now_ns >= born[2]:
                self.counts["renewals"] += 1
                self.exchange.give_up(address, "renewed by plan")

    def _allowed_ns(self, address: str, connection: Any, born_ns: int, now_ns: int) -> int:
        """How long this connection may be quiet before it is taken for dead."""
        first_ns = self._first_ns.setdefault(address, born_ns)
        spoke = self._data_ns.get(address, -1) >= born_ns
        thin = all(str(key).startswith("trade::") for key in connection.subscriptions)
        others = any(
            now_ns - at_ns <= self._silent_ns for other, at_ns in self._data_ns.items() if other != address
        )
        if not (spoke and thin and others):
            return self._silent_ns
        usual_ns = (now_ns - first_ns) // self._frames[address]
        return max(self._silent_ns, min(QUIET_TIMES * usual_ns, int(QUIET_MAX_S * NS_PER_S)))
