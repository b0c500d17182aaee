"""Live feeds on a thread of their own: an asyncio loop that ends when another thread says so.

Entry points: `LoopThread`, `run_until`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final

#: How long a thread may take to have its loop, seconds.
START_S: Final = 5.0


class LoopThread:
    """A daemon thread that runs one coroutine on a loop of its own.

    Parameters
    ----------
    name : the thread's
    main : makes the coroutine, on the loop; it has to return soon after the event that it is given is set
    stop_s : how long `stop` waits for it, seconds
    """

    def __init__(
        self, name: str, main: Callable[[asyncio.Event], Coroutine[Any, Any, None]], stop_s: float
    ) -> None:
        self._name, self._main, self._stop_s = name, main, stop_s
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Event | None = None

    def start(self) -> None:
        """Begin; returns once there is a loop, which may then be stopped. Not twice without a stop."""
        ready = threading.Event()
        self._loop = self._ended = None
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run(ready)), name=self._name, daemon=True
        )
        self._thread.start()
        ready.wait(START_S)

    async def _run(self, ready: threading.Event) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        ready.set()
        if self._thread is None:  # stopped before there was a loop to be told
            self._ended.set()
        await self._main(self._ended)

    def stop(self) -> None:
        """Tell it to end and wait for it; nothing where it was never begun, or ended before."""
        thread, self._thread = self._thread, None
        if thread is not None:
            if self._ended is not None:
                self.soon(self._ended.set)
            thread.join(self._stop_s)

    def soon(self, call: Callable[[], object]) -> None:
        """Run it on the loop, from any thread; nothing where there is no loop."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it is closed
                self._loop.call_soon_threadsafe(call)


async def run_until(ended: asyncio.Event, life: Coroutine[Any, Any, None]) -> BaseException | None:
    """Run `life` until it breaks off or `ended` is set, which cancels it: what broke it, if anything did."""
    running, ending = asyncio.ensure_future(life), asyncio.ensure_future(ended.wait())
    try:
        await asyncio.wait({running, ending}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        running.cancel()
        ending.cancel()
        (error, _) = await asyncio.gather(running, ending, return_exceptions=True)
    return error
