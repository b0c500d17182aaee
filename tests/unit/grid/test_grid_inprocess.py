"""What only the in-process grid promises: deterministic delivery, and that no event is stranded."""

from __future__ import annotations

import threading

import pytest

from dolphin.grid.inprocess import InProcessGrid
from dolphin.grid.payloads import PayloadRejected
from dolphin.grid.port import Grid, GridClosed, GridError, GridUnreachable, LockTimeout
from dolphin.grid.topics import SAFETY, encode
from dolphin.grid.typed import TypedGrid


def accepts(grid: Grid) -> Grid:
    return grid


def test_it_is_a_grid():
    assert accepts(InProcessGrid()).connected


def test_inline_delivers_before_the_put_returns():
    grid = InProcessGrid()
    seen = []
    grid.map("M").listen(lambda event: seen.append((threading.get_ident(), event.value)), "k")
    grid.map("M").put("k", b"1")
    assert seen == [(threading.get_ident(), b"1")]
    assert grid.backlog == 0


def test_inline_strands_nothing():
    """An event queued while the baton is handed back: too late for one thread, too early for the other."""
    grid = InProcessGrid()
    m = grid.map("M")
    seen = []
    m.listen(lambda event: seen.append(event.value))
    dispatcher = grid._dispatcher
    baton = dispatcher._baton

    class LateBaton:
        late = True

        def acquire(self, blocking=True):
            return baton.acquire(blocking)

        def release(self):
            if self.late:
                self.late = False
                other = threading.Thread(target=m.put, args=("k", b"late"))
                other.start()
                other.join(20)
                assert not other.is_alive()
            baton.release()

    dispatcher._baton = LateBaton()
    m.put("k", b"first")
    assert seen == [b"first", b"late"]


def test_inline_closing_waits_for_the_thread_that_delivers():
    grid = InProcessGrid()
    m = grid.map("M")
    entered, leave, closed = threading.Event(), threading.Event(), threading.Event()
    seen = []

    def slow(event):
        entered.set()
        assert leave.wait(20)
        seen.append(event.value)

    m.listen(slow)
    putter = threading.Thread(target=m.put, args=("k", b"1"))
    putter.start()
    assert entered.wait(20)

    def close():
        grid.close()
        closed.set()

    closer = threading.Thread(target=close)
    closer.start()
    assert not closed.is_set()
    leave.set()
    assert closed.wait(20)
    assert seen == [b"1"]
    putter.join(20)
    closer.join(20)


@pytest.mark.parametrize("dispatcher", ["inline", "thread"])
def test_a_listener_may_close_the_grid(dispatcher):
    grid = InProcessGrid(dispatcher)
    done = threading.Event()

    def last(event):
        grid.close()
        done.set()

    grid.map("M").listen(last)
    grid.map("M").put("k", b"1")
    assert done.wait(20)
    with pytest.raises(GridClosed):
        grid.map("M").put("k", b"2")


def test_listeners_finish_their_writes_while_a_threaded_grid_closes():
    grid = InProcessGrid("thread")
    entered, leave = threading.Event(), threading.Event()

    def slow(event):
        entered.set()
        assert leave.wait(20)
        grid.map("OUT").put(event.key, event.value)

    grid.map("IN").listen(slow)
    grid.map("IN").put("a", b"1")
    grid.map("IN").put("b", b"2")
    assert entered.wait(20)
    closer = threading.Thread(target=grid.close)
    closer.start()
    leave.set()
    closer.join(20)
    assert not closer.is_alive()
    assert grid.n_failures == 0
    assert grid.peer("inline").map("OUT").entries() == {"a": b"1", "b": b"2"}


def test_an_interrupt_in_a_listener_leaves_the_dispatcher_usable():
    grid = InProcessGrid()
    m = grid.map("M")
    seen = []

    def interrupted(event):
        seen.append(event.value)
        if event.value == b"1":
            raise KeyboardInterrupt

    m.listen(interrupted)
    with pytest.raises(KeyboardInterrupt):
        m.put("k", b"1")
    m.put("k", b"2")
    assert seen == [b"1", b"2"]


def test_clients_of_one_memory_choose_their_own_dispatcher():
    with InProcessGrid("inline") as grid, grid.peer("thread") as far:
        threads = set()
        heard = threading.Event()

        def far_listener(event):
            threads.add(threading.current_thread().name)
            heard.set()

        far.map("M").listen(far_listener)
        grid.map("M").put("k", b"1")
        assert heard.wait(20)
        assert threads == {"dolphin-grid"}


def test_the_first_token_is_above_what_was_made_durable():
    assert InProcessGrid(fence_start=41).lock("L").acquire() == 42
    with pytest.raises(GridError):
        InProcessGrid(fence_start=-1)


def test_an_unknown_dispatcher_is_refused():
    with pytest.raises(GridError, match="'inline' or 'thread'"):
        InProcessGrid("asyncio")


def test_a_client_dropped_while_it_waits_does_not_take_the_lock():
    grid = InProcessGrid()
    away = grid.peer()
    lock = grid.lock("L")
    lock.acquire()
    errors = []
    waiting = threading.Event()

    def wait():
        waiting.set()
        try:
            away.lock("L").acquire(timeout_s=20)
        except (GridUnreachable, LockTimeout) as error:
            errors.append(type(error))

    thread = threading.Thread(target=wait)
    thread.start()
    assert waiting.wait(20)
    away.drop_connection()
    lock.release()
    thread.join(20)
    assert errors == [GridUnreachable]
    assert not lock.locked()


def test_dropping_and_restoring_twice_is_once():
    grid = InProcessGrid()
    states = []
    grid.on_connection(lambda event: states.append(event.state.value))
    grid.restore_connection()
    grid.drop_connection()
    grid.drop_connection()
    grid.restore_connection()
    grid.restore_connection()
    assert states == ["disconnected", "connected"]


def test_a_typed_reader_counts_what_it_refuses():
    grid = InProcessGrid()
    door = TypedGrid(grid)
    grid.map("DOLPHIN_SAFETY").put("latest", b"{}")
    with pytest.raises(PayloadRejected, match="field posture: missing"):
        door.get(SAFETY)
    with pytest.raises(PayloadRejected):
        door.accept("DOLPHIN_SAFETY", "lastest", b"{}")
    assert door.rejections.total == 2
    assert door.accept("DOLPHIN_SAFETY", "posture", encode("APEX")) == "APEX"


def test_a_session_that_was_lost_frees_the_locks_of_one_client():
    grid = InProcessGrid()
    other = grid.peer()
    first = grid.lock("L").acquire()
    grid.lose_session()
    assert not grid.lock("L").held()
    assert other.lock("L").acquire(0) > first
    assert other.lock("L").held()


@pytest.mark.parametrize("dispatcher", ["inline", "thread"])
def test_a_client_that_vanished_hears_nothing_and_holds_nothing(dispatcher):
    grid = InProcessGrid(dispatcher)
    far = grid.peer()
    heard = []
    grid.map("M").listen(heard.append)
    grid.on_connection(heard.append)
    grid.lock("L").acquire()
    grid.vanish()
    far.map("M").put("k", b"1")
    far.lose_memory()
    far.close()
    assert heard == []
    with pytest.raises(GridClosed):
        grid.map("M").get("k")


def test_a_client_that_was_away_hears_of_the_lost_memory_when_it_is_back():
    grid = InProcessGrid()
    away = grid.peer()
    states, entries = [], []
    away.map("M").listen(entries.append)
    away.on_connection(lambda event: states.append((event.state.value, event.reborn)))
    grid.map("M").put("k", b"1")
    away.drop_connection()
    grid.lose_memory()
    assert away.nodes == 0
    away.restore_connection()
    away.drop_connection()
    away.restore_connection()
    assert [reborn for state, reborn in states if state == "connected"] == [True, False]
    assert [event.value for event in entries] == [b"1", None]
