"""A feed's own thread: it begins with a loop, ends when told, and takes calls from other threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

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
    thread._stop_s = 0.0  # nothing is there yet that could end
    thread.stop()
    assert not life.began.is_set()
    gate.set()
    assert life.ended.wait(STOP_S)


def test_a_loop_that_comes_late_leaves_the_next_one_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, run = threading.Event(), asyncio.run
    first = threading.Event()

    def late(main: Any) -> None:
        if not first.is_set():
            first.set()
            gate.wait(STOP_S)
        run(main)

    monkeypatch.setattr("dolphin.feeds.loop_thread.asyncio.run", late)
    monkeypatch.setattr("dolphin.feeds.loop_thread.START_S", 0.0)
    running: list[str] = []
    ended = threading.Barrier(3)

    async def main(over: asyncio.Event) -> None:
        running.append("began")
        await over.wait()
        running.append("ended")
        await asyncio.to_thread(ended.wait, STOP_S)

    thread = LoopThread("test", main, 0.0)
    thread.start()
    assert first.wait(STOP_S)
    thread.stop()
    thread.start()
    gate.set()
    thread.stop()
    ended.wait(STOP_S)
    assert sorted(running) == ["began", "began", "ended", "ended"]


def test_a_loop_that_cannot_be_made_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: told.append(str(args.exc_value)))

    def broken(main: Any) -> None:
        main.close()
        raise OSError("too many open files")

    monkeypatch.setattr("dolphin.feeds.loop_thread.asyncio.run", broken)
    monkeypatch.setattr("dolphin.feeds.loop_thread.START_S", 600.0)
    thread = LoopThread("test", Life().main, STOP_S)
    thread.start()
    thread.stop()
    assert told == ["too many open files"]


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
        """Nothing to wait for."""

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

    assert asyncio.run(main()) is None
    assert told == ["cancelled"]
