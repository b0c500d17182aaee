"""A feed's own thread: it begins with a loop, ends when told, and takes calls from other threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from dolphin.feeds.loop_thread import LoopThread, run_until

STOP_S = 10.0


class Life:
    """A main that says when it runs and when it has ended."""

    def __init__(self) -> None:
        self.began, self.ended = threading.Event(), threading.Event()

    async def main(self, ended: asyncio.Event) -> None:
        """Run until told."""
        self.began.set()
        await ended.wait()
        self.ended.set()


@pytest.fixture(name="life")
def a_life() -> Life:
    """A fresh one."""
    return Life()


@pytest.fixture(name="thread")
def a_thread(life: Life) -> Iterator[LoopThread]:
    """Of that life."""
    made = LoopThread("test", life.main, STOP_S)
    yield made
    made.stop()


def test_it_ends_when_told_and_may_begin_anew(life: Life, thread: LoopThread) -> None:
    for _ in range(2):
        life.began.clear()
        life.ended.clear()
        thread.start()
        assert life.began.wait(STOP_S)
        thread.stop()
        assert life.ended.is_set()


def test_a_stop_is_heard_before_there_is_a_loop(
    life: Life, thread: LoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, run = threading.Event(), asyncio.run
    monkeypatch.setattr(
        "dolphin.feeds.loop_thread.asyncio.run", lambda main: (gate.wait(STOP_S), run(main))[1]
    )
    monkeypatch.setattr("dolphin.feeds.loop_thread.START_S", 0.0)
    thread.start()
    stopping = threading.Thread(target=thread.stop)
    stopping.start()
    while thread._thread is not None:
        threading.Event().wait(0.001)
    gate.set()
    stopping.join(STOP_S)
    assert life.ended.is_set()


def test_a_call_from_another_thread_runs_on_the_loop(life: Life, thread: LoopThread) -> None:
    heard: list[str] = []
    thread.soon(lambda: heard.append("too early"))
    thread.start()
    came = threading.Event()
    thread.soon(lambda: (heard.append(threading.current_thread().name), came.set()))
    assert came.wait(STOP_S)
    thread.stop()
    thread.soon(lambda: heard.append("too late"))
    assert heard == ["test"]


def test_a_stop_without_a_start_is_nothing(life: Life, thread: LoopThread) -> None:
    thread.stop()
    assert not life.began.is_set()


def test_what_breaks_off_is_told() -> None:
    async def broken() -> None:
        raise LookupError("gone")

    async def main() -> BaseException | None:
        return await run_until(asyncio.Event(), broken())

    assert repr(asyncio.run(main())) == repr(LookupError("gone"))


def test_what_ends_by_itself_is_no_error() -> None:
    async def short() -> None:
        await asyncio.sleep(0)

    async def main() -> BaseException | None:
        return await run_until(asyncio.Event(), short())

    assert asyncio.run(main()) is None


def test_the_end_cancels_what_runs() -> None:
    told: list[str] = []

    async def long(ended: asyncio.Event) -> None:
        ended.set()
        try:
            await asyncio.Event().wait()
        finally:
            told.append("cancelled")

    async def main() -> BaseException | None:
        ended = asyncio.Event()
        return await run_until(ended, long(ended))

    assert isinstance(asyncio.run(main()), asyncio.CancelledError)
    assert told == ["cancelled"]
