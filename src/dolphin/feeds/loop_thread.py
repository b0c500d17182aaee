"""Live feeds on a thread of their own: an asyncio loop that ends when another thread says so.

Entry points: `LoopThread`, `run_until`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeAlias

#: How long `start` waits for a loop, seconds.
START_S: Final = 5.0
Main: TypeAlias = Callable[[asyncio.Event], Coroutine[Any, Any, None]]


class LoopThread:
    """A daemon thread that runs one coroutine on a loop of its own.

    Parameters
    ----------
    name : the thread's
    main : makes the coroutine, on the loop; it has to return soon after the event that it is given is set
    stop_s : how long `stop` waits for it, seconds
    """

    def __init__(self, name: str, main: Main, stop_s: float) -> None:
        self._name, self._main, self._stop_s = name, main, stop_s
        self._life: _Life | None = None

    def start(self) -> None:
        """Begin; returns once there is a loop, or after `START_S`. Not twice without a stop."""
        life = self._life = _Life()
        life.thread = threading.Thread(target=life.run, args=(self._main,), name=self._name, daemon=True)
        life.thread.start()
        life.ready.wait(START_S)

    def stop(self) -> None:
        """Tell it to end and wait for it; nothing where it was never begun, or ended before."""
        life, self._life = self._life, None
        if life is not None and life.thread is not None:
            life.end()
            life.thread.join(self._stop_s)

    def soon(self, call: Callable[[], object]) -> None:
        """Run it on the loop, from any thread; nothing where there is no loop."""
        if self._life is not None:
            self._life.soon(call)


class _Life:
    """From one start to its end, however late its loop comes."""

    def __init__(self) -> None:
        self.thread: threading.Thread | None = None
        self.ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Event | None = None
        self._is_over = False

    def run(self, main: Main) -> None:
        """The thread's work."""
        try:
            asyncio.run(self._go(main))
        finally:
            self.ready.set()  # a loop that could not be made is not waited for

    async def _go(self, main: Main) -> None:
        self._ended, self._loop = asyncio.Event(), asyncio.get_running_loop()
        self.ready.set()
        if self._is_over:  # said before there was a loop to be told
            self._ended.set()
        await main(self._ended)

    def end(self) -> None:
        """Set main's event."""
        self._is_over = True
        if self._ended is not None:
            self.soon(self._ended.set)

    def soon(self, call: Callable[[], object]) -> None:
        """See `LoopThread.soon`."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it is closed
                self._loop.call_soon_threadsafe(call)


async def run_until(ended: asyncio.Event, life: Coroutine[Any, Any, None]) -> BaseException | None:
    """Run `life` until it breaks off or `ended` is set, which cancels it.

    Returns what broke it; None where it ended by itself, or was cancelled.
    """
    running, ending = asyncio.ensure_future(life), asyncio.ensure_future(ended.wait())
    try:
        done, _ = await asyncio.wait({running, ending}, return_when=asyncio.FIRST_COMPLETED)
        return running.exception() if running in done and not running.cancelled() else None
    finally:
        running.cancel()
        ending.cancel()
        await asyncio.gather(running, ending, return_exceptions=True)
