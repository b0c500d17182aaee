"""The circuit breaker's factors live from their publishers, each on its own schedule.

Entry points: `LiveFactors`, `LiveSource`.

Invariants
----------
1. A source is a task of its own with its own timeout: one that fails, drips or is silent delays no other.
2. The last good answer stays, with the time it speaks of; whoever reads it judges its range and age.
3. A wait that a server asks for (Retry-After) is kept. A ban (418) holds for every source of that host, since
   asking on would make it longer; a 429 holds for the source that met it.
4. Nothing is followed elsewhere, nothing beyond `ANSWER_MAX_BYTES` is read, no key is known.
5. A fault is told when a turn's tries are used up: what passes by itself is no news.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from dolphin.domain.clock import NS_PER_S
from dolphin.domain.errors import DataError, UsageError
from dolphin.factors.keeper import Sample, SourceError
from dolphin.feeds.factor_answers import FACTOR_PAGES, FactorPage, checked_addresses
from dolphin.feeds.loop_thread import LoopThread
from dolphin.feeds.polling import Pace, Schedule, retry_after_s

try:
    import aiohttp
except ImportError as _error:
    raise UsageError(
        "live factors need the feeds extra; `make feeds` installs it, and recorded factors need none"
    ) from _error

#: The largest answer of the four has some hundred bytes.
ANSWER_MAX_BYTES: Final = 64 * 1024
#: Waits where a server bans or slows us down without saying for how long, seconds.
BAN_S: Final = 300.0
SLOW_DOWN_S: Final = 60.0
#: How long stopping may take, seconds.
STOP_S: Final = 5.0


class _RefusedError(Exception):
    """An answer that is no value: what, whether it passes by itself, how long to wait, for the whole host."""

    def __init__(self, text: str, *, passes: bool, wait_s: float | None = None, banned: bool = False) -> None:
        super().__init__(text)
        self.passes = passes
        self.wait_s = wait_s
        self.banned = banned


class LiveSource:
    """One factor; see `dolphin.factors.keeper.Source`. Read on any thread, written by its task alone."""

    def __init__(self, name: str, page: FactorPage, address: str, seed: int) -> None:
        self.name = name
        self.page = page
        self.url = address + page.path
        self.schedule = Schedule(page.pace, f"{seed}:{name}")
        #: questions, answers, failures: since the start.
        self.counts: Counter[str] = Counter()
        self._state: tuple[Sample | None, str] = (None, "")

    def read(self, instant_ns: int) -> Sample | None:
        """The last good answer, None before the first. Raises SourceError with it while a fault lasts."""
        sample, fault = self._state
        if fault:
            raise SourceError(fault, sample)
        return sample

    def succeeded(self, sample: Sample) -> bool:
        """Take a good answer; True for the first. An answer older than the last good one changes nothing."""
        before = self._state[0]
        self._state = (sample if before is None or sample.at_ns >= before.at_ns else before, "")
        return before is None

    def failed(self, text: str) -> None:
        """A turn ended without a good answer."""
        self._state = (self._state[0], f"{self.url.partition('://')[2]}: {text}")


class LiveFactors:
    """The sources and the thread that asks for them.

    Parameters
    ----------
    addresses : base addresses by host, in place of the usual; see `checked_addresses` for errors.
    seed : of all jitter.
    now_ns : the clock by which answers are judged, ns UTC.
    on_news : called (on the thread) when a source has its first value.
    paces : other paces by factor, for tests.
    """

    def __init__(
        self,
        addresses: Mapping[str, str],
        *,
        seed: int,
        now_ns: Callable[[], int],
        on_news: Callable[[], None] = lambda: None,
        paces: Mapping[str, Pace] | None = None,
    ) -> None:
        bases = checked_addresses(addresses)
        # A proxy of the environment is for the world outside, not for this machine.
        self._trust_env = all(base.startswith("https://") for base in bases.values())
        self.sources: dict[str, LiveSource] = {}
        for name, page in FACTOR_PAGES.items():
            pace = (paces or {}).get(name, page.pace)
            self.sources[name] = LiveSource(name, replace(page, pace=pace), bases[page.host], seed)
        self._now_ns = now_ns
        self._on_news = on_news
        self._banned_until: dict[str, float] = {}
        self._thread = LoopThread("factors", self._main, STOP_S)

    def start(self) -> None:
        """Begin to ask; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """Ask no more; questions that are out are given up."""
        self._thread.stop()

    async def _main(self, ended: asyncio.Event) -> None:
        async with aiohttp.ClientSession(
            trust_env=self._trust_env, headers={"User-Agent": "dolphin"}, cookie_jar=aiohttp.DummyCookieJar()
        ) as session:
            tasks = [asyncio.create_task(self._poll(session, source)) for source in self.sources.values()]
            await ended.wait()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _poll(self, session: aiohttp.ClientSession, source: LiveSource) -> None:
        """One source for ever."""
        schedule, host = source.schedule, source.page.host
        loop = asyncio.get_running_loop()
        wait_s = schedule.first_s()
        while True:
            await asyncio.sleep(wait_s)
            banned_s = self._banned_until.get(host, 0.0) - loop.time()
            if banned_s > 0.0:
                source.failed(f"not asked: {host} bans this address for {banned_s:.0f} s more")
                wait_s = banned_s
                continue
            source.counts["questions"] += 1
            try:
                sample = await self._ask(session, source)
            except _RefusedError as refused:
                source.counts["failures"] += 1
                wait_s = schedule.after_failure_s(passes=refused.passes, wait_s=refused.wait_s)
                if refused.banned:
                    self._banned_until[host] = loop.time() + wait_s
                if not schedule.failures:
                    source.failed(str(refused))
            else:
                source.counts["answers"] += 1
                wait_s = schedule.after_success_s()
                if source.succeeded(sample):
                    self._on_news()

    async def _ask(self, session: aiohttp.ClientSession, source: LiveSource) -> Sample:
        """One question. Raises _RefusedError."""
        pace = source.page.pace
        try:
            async with asyncio.timeout(pace.timeout_s):
                query = source.page.query(self._now_ns())
                async with session.get(source.url, params=query, allow_redirects=False) as response:
                    content = await _content(response)
                    self._judge_status(response, content)
        except TimeoutError:
            raise _RefusedError(f"no whole answer within {pace.timeout_s:g} s", passes=True) from None
        except (aiohttp.ClientError, OSError) as error:
            raise _RefusedError(_line(error), passes=True) from None
        try:
            answer = json.loads(content, parse_constant=_refuse_constant)
            return source.page.parse(answer, self._now_ns())
        except DataError as error:
            raise _RefusedError(str(error), passes=True) from None
        except (ValueError, RecursionError):
            raise _RefusedError(f"the answer is no JSON: {_shown(content)}", passes=True) from None

    def _judge_status(self, response: aiohttp.ClientResponse, content: bytes) -> None:
        status = response.status
        if status == 200:
            return
        wait_s = retry_after_s(response.headers.get("Retry-After"), self._now_ns() / NS_PER_S)
        if status == 418:
            wait_s = BAN_S if wait_s is None else wait_s
            raise _RefusedError(f"banned (418) for {wait_s:.0f} s", passes=False, wait_s=wait_s, banned=True)
        if status == 429:
            wait_s = SLOW_DOWN_S if wait_s is None else wait_s
            raise _RefusedError(
                f"too many questions (429), waits {wait_s:.0f} s", passes=False, wait_s=wait_s
            )
        raise _RefusedError(f"answered {status}: {_shown(content)}", passes=status >= 500, wait_s=wait_s)


async def _content(response: aiohttp.ClientResponse) -> bytes:
    """The body. Raises _RefusedError for more than anybody needs."""
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > ANSWER_MAX_BYTES:
            raise _RefusedError(f"the answer is larger than {ANSWER_MAX_BYTES:,} bytes", passes=False)
    return bytes(content)


def _refuse_constant(word: str) -> Any:
    raise DataError(f"the answer holds {word}, which is no number of JSON")


def _shown(content: bytes) -> str:
    """The beginning of an answer as one printable line."""
    text = " ".join(content[:120].decode("utf-8", "replace").split())
    return "".join(c if c.isprintable() else "?" for c in text) or "nothing"


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:120]}" if text else type(error).__name__
