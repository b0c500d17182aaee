"""The contract of the grid: what every implementation must keep, see `dolphin.grid.port`."""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict

import pytest

from dolphin.domain.scan import Scan
from dolphin.grid.near_view import NearView
from dolphin.grid.payloads import AcbBoost, PayloadRejected, SafetyPayload
from dolphin.grid.port import (
    EMPTY_LOG_TAIL,
    ConnectionState,
    EntryKind,
    GridClosed,
    GridError,
    GridUnreachable,
    LockError,
    LockTimeout,
)
from dolphin.grid.topics import ACB_BOOST, ASSET_OB, SAFETY, SAFETY_POSTURE
from dolphin.grid.typed import TypedGrid, publish_scan

PATIENCE_S = 20.0


def make_scan(number: int) -> Scan:
    windows = {
        f"w{w}_{part}": value
        for w in (50, 150, 300, 750)
        for part, value in (
            ("lambda_max", 9.1 + w),
            ("velocity", -0.1 / w),
            ("rotation", 0.3),
            ("instability", 0.01),
        )
    }
    return Scan(
        scan_number=number,
        timestamp_ns=1_700_000_000_000_000_000 + number * 5_000_000_000,
        **windows,
        vel_div=-0.1 / 50 + 0.1 / 750,
        regime_signal=0.0,
        instability_composite=0.01,
        assets=("BTCUSDT", "ETHUSDT"),
        asset_prices=(84230.5, None),
        asset_loadings=(0.8, 0.6),
    )


# --- maps ---------------------------------------------------------------------------------------------------


def test_what_was_put_is_got_by_every_client(cluster, grid):
    m = grid.map("M")
    m.put("k", b'{"x":1}')
    assert m.get("k") == b'{"x":1}'
    assert cluster.client().map("M").get("k") == b'{"x":1}'
    assert m.get("absent") is None
    assert grid.map("OTHER").get("k") is None


def test_many_at_once(grid):
    m = grid.map("M")
    m.put_all({"b": b"2", "a": b"1", "c": b"3"})
    assert m.get_all(("c", "absent", "a")) == {"c": b"3", "a": b"1"}
    assert m.keys() == ("a", "b", "c")
    assert list(m.entries().items()) == [("a", b"1"), ("b", b"2"), ("c", b"3")]


def test_delete_says_whether_there_was_something(grid):
    m = grid.map("M")
    m.put("k", b"1")
    assert m.delete("k") is True
    assert m.delete("k") is False
    assert m.get("k") is None
    assert m.keys() == ()


def test_compare_and_put_writes_only_over_what_is_expected(cluster, grid, recorder):
    m = grid.map("M")
    m.listen(recorder, "k")
    assert m.compare_and_put("k", None, b"1")
    assert not m.compare_and_put("k", None, b"2")
    assert not m.compare_and_put("k", b"0", b"2")
    assert cluster.client().map("M").compare_and_put("k", b"1", b"2")
    assert not m.compare_and_put("absent", b"0", b"2")
    assert m.entries() == {"k": b"2"}
    assert [(e.kind, e.value) for e in recorder.until_count(2)] == [
        (EntryKind.ADDED, b"1"),
        (EntryKind.UPDATED, b"2"),
    ]
    with pytest.raises(TypeError):
        m.compare_and_put("k", b"2", "text")


def test_compare_and_put_under_contention(cluster, in_threads):
    """A counter kept by it alone loses no increment."""
    maps = [cluster.client().map("M") for _ in range(4)]
    maps[0].put("n", b"0")

    def count(m):
        for _ in range(50):
            while True:
                held = m.get("n")
                if m.compare_and_put("n", held, b"%d" % (int(held) + 1)):
                    break

    in_threads(*(lambda m=m: count(m) for m in maps))
    assert maps[0].get("n") == b"200"


@pytest.mark.parametrize("value", ["text", {"x": 1}, None, bytearray(b"1"), 1.5])
def test_a_value_that_is_not_bytes_is_refused(grid, value):
    with pytest.raises(TypeError, match="expected bytes"):
        grid.map("M").put("k", value)
    assert grid.map("M").get("k") is None


def test_a_map_is_the_same_object_every_time(grid):
    assert grid.map("M") is grid.map("M")
    assert grid.map("M").name == "M"


# --- listeners ----------------------------------------------------------------------------------------------


def test_a_key_listener_hears_its_key_only(grid, recorder):
    m = grid.map("M")
    m.listen(recorder, "k")
    m.put("other", b"0")
    m.put("k", b"1")
    m.put("k", b"2")
    m.delete("other")
    m.delete("k")
    events = recorder.until_count(3)
    assert [(e.kind, e.value) for e in events] == [
        (EntryKind.ADDED, b"1"),
        (EntryKind.UPDATED, b"2"),
        (EntryKind.REMOVED, None),
    ]
    assert {(e.map_name, e.key, e.current) for e in events} == {("M", "k", False)}


def test_a_map_listener_hears_every_key(grid, recorder):
    m = grid.map("M")
    m.listen(recorder)
    m.put_all({"a": b"1", "b": b"2"})
    grid.map("OTHER").put("a", b"9")
    m.put("a", b"3")
    events = recorder.until_count(3)
    # Order is promised for one key only.
    assert sorted((e.key, e.value) for e in events) == [("a", b"1"), ("a", b"3"), ("b", b"2")]
    assert [e.value for e in events if e.key == "a"] == [b"1", b"3"]


def test_a_listener_hears_other_clients(cluster, grid, recorder):
    grid.map("M").listen(recorder, "k")
    cluster.client().map("M").put("k", b"1")
    assert recorder.until_count(1)[0].value == b"1"


def test_what_exists_is_delivered_first_on_request(grid, recorder, new_recorder):
    m = grid.map("M")
    m.put_all({"a": b"1", "b": b"2"})
    whole, later = new_recorder(), new_recorder()
    m.listen(recorder, "a", initial=True)
    m.listen(whole, initial=True)
    m.listen(later)
    m.put("a", b"3")
    assert [(e.value, e.current) for e in recorder.until_count(2)] == [(b"1", True), (b"3", False)]
    assert sorted((e.key, e.value) for e in whole.until_count(3)) == [("a", b"1"), ("a", b"3"), ("b", b"2")]
    assert [e.value for e in later.until_count(1)] == [b"3"]


def test_versions_of_a_key_rise(grid, recorder):
    m = grid.map("M")
    m.listen(recorder, "k")
    for i in range(5):
        m.put("k", b"%d" % i)
    m.delete("k")
    m.put("k", b"again")
    versions = [e.version for e in recorder.until_count(7)]
    assert versions == sorted(set(versions))


def test_order_per_key_under_concurrent_writers(cluster, grid, new_recorder, in_threads):
    """Two listeners see the changes of a key in one order, and the last one is what the map holds."""
    n_writers, n_puts = 4, 150
    one, other = new_recorder(), new_recorder()
    grid.map("M").listen(one)
    cluster.client().map("M").listen(other)
    clients = [cluster.client() for _ in range(n_writers)]

    def writer(w):
        m = clients[w].map("M")
        for i in range(n_puts):
            m.put("shared", b"%d:%d" % (w, i))
            m.put(f"own{w}", b"%d" % i)

    in_threads(*(lambda w=w: writer(w) for w in range(n_writers)))
    total = 2 * n_writers * n_puts
    orders = []
    for recorder in (one, other):
        by_key = defaultdict(list)
        for event in recorder.until_count(total):
            by_key[event.key].append(event.value)
        for w in range(n_writers):
            assert by_key[f"own{w}"] == [b"%d" % i for i in range(n_puts)]
            mine = [v for v in by_key["shared"] if v.startswith(b"%d:" % w)]
            assert mine == [b"%d:%d" % (w, i) for i in range(n_puts)]
        assert by_key["shared"][-1] == grid.map("M").get("shared")
        orders.append(by_key["shared"])
    assert orders[0] == orders[1]


def test_a_listener_that_raises_is_recorded_and_stops_nobody(grid, recorder):
    m = grid.map("M")

    def broken(event):
        raise RuntimeError(f"cannot take {event.value!r}")

    m.listen(broken, "k")
    m.listen(recorder, "k")
    m.put("k", b"1")
    m.put("k", b"2")
    assert [e.value for e in recorder.until_count(2)] == [b"1", b"2"]
    assert grid.n_failures == 2
    assert [(f.map_name, f.key, f.error) for f in grid.failures] == [
        ("M", "k", "RuntimeError: cannot take b'1'"),
        ("M", "k", "RuntimeError: cannot take b'2'"),
    ]


def test_a_listener_may_put(grid, recorder, new_recorder):
    """Whatever it puts comes after the event in hand, for every listener, so that order per key holds."""
    m = grid.map("M")
    early = new_recorder()

    def echo(event):
        n = int(event.value)
        if n < 5:
            m.put("k", b"%d" % (n + 1))

    m.listen(early, "k")
    m.listen(echo, "k")
    m.listen(recorder, "k")
    m.put("k", b"0")
    expected = [b"0", b"1", b"2", b"3", b"4", b"5"]
    assert [e.value for e in recorder.until_count(6)] == expected
    assert [e.value for e in early.until_count(6)] == expected
    assert grid.n_failures == 0


def test_a_closed_subscription_hears_no_more(grid, recorder, new_recorder):
    m = grid.map("M")
    witness = new_recorder()
    subscription = m.listen(recorder, "k")
    m.listen(witness, "k")
    m.put("k", b"1")
    recorder.until_count(1)
    subscription.close()
    subscription.close()
    m.put("k", b"2")
    witness.until_count(2)
    assert [e.value for e in recorder.events] == [b"1"]


def test_a_listener_may_close_itself(grid, recorder):
    m = grid.map("M")
    seen = []

    def once(event):
        seen.append(event.value)
        subscription.close()

    subscription = m.listen(once, "k")
    m.listen(recorder, "k")
    m.put_all({"k": b"1"})
    m.put("k", b"2")
    recorder.until_count(2)
    assert seen == [b"1"]


def test_a_slow_listener_does_not_block_a_put(threaded_cluster, recorder):
    grid = threaded_cluster.client()
    m = grid.map("M")
    entered, leave = threading.Event(), threading.Event()

    def slow(event):
        entered.set()
        assert leave.wait(PATIENCE_S)

    m.listen(slow, "k")
    m.listen(recorder, "k")
    m.put("k", b"0")
    assert entered.wait(PATIENCE_S)
    for i in range(1, 50):
        m.put("k", b"%d" % i)
    # All 49 puts returned while the listener still holds the first event.
    assert m.get("k") == b"49"
    assert recorder.events == []
    assert grid.backlog > 0
    leave.set()
    assert [e.value for e in recorder.until_count(50)] == [b"%d" % i for i in range(50)]


def test_closing_delivers_what_was_accepted(cluster, recorder):
    grid = cluster.client()
    m = grid.map("M")
    m.listen(recorder)
    for i in range(200):
        m.put("k", b"%d" % i)
    grid.close()
    grid.close()
    assert [e.value for e in recorder.events] == [b"%d" % i for i in range(200)]
    assert not grid.connected
    for refused in (lambda: m.put("k", b"x"), lambda: m.get("k"), lambda: grid.log("L").append(b"x")):
        with pytest.raises(GridClosed):
            refused()
    # The others go on.
    assert cluster.client().map("M").get("k") == b"199"


# --- log ----------------------------------------------------------------------------------------------------


def test_a_log_counts_from_zero(grid):
    log = grid.log("L_CAP_5", 5)
    assert (log.head(), log.tail(), log.capacity, log.name) == (0, EMPTY_LOG_TAIL, 5, "L_CAP_5")
    assert log.read(0, 10).items == ()
    assert [log.append(b"%d" % i) for i in range(3)] == [0, 1, 2]
    assert (log.head(), log.tail()) == (0, 2)
    read = log.read(1, 10)
    assert read.items == ((1, b"1"), (2, b"2"))
    assert (read.next_sequence, read.n_missed, read.rewound) == (3, 0, False)
    assert log.read(3, 10).items == ()
    assert log.read(3, 10).next_sequence == 3


def test_a_log_is_bounded_and_a_gap_is_visible(grid):
    log = grid.log("L_CAP_4", 4)
    for i in range(10):
        log.append(b"%d" % i)
    assert (log.head(), log.tail()) == (6, 9)
    read = log.read(2, 3)
    assert read.n_missed == 4
    assert read.items == ((6, b"6"), (7, b"7"), (8, b"8"))
    assert log.read(read.next_sequence, 3).items == ((9, b"9"),)


def test_a_reader_catches_up_in_steps(cluster, grid):
    writer = cluster.client().log("L_CAP_100", 100)
    for i in range(75):
        writer.append(b"%d" % i)
    at, seen = 0, []
    while items := (read := grid.log("L_CAP_100", 100).read(at, 20)).items:
        seen += [value for _, value in items]
        at = read.next_sequence
    assert seen == [b"%d" % i for i in range(75)]


def test_a_reader_ahead_of_the_log_is_told_that_it_began_anew(grid):
    log = grid.log("L_CAP_4", 4)
    log.append(b"0")
    read = log.read(1000, 5)
    assert (read.items, read.rewound, read.next_sequence) == ((), True, 0)


def test_a_log_keeps_its_capacity(grid):
    assert grid.log("D").capacity == 1000
    grid.log("L_CAP_7", 7)
    assert grid.log("L_CAP_7").capacity == 7
    with pytest.raises(GridError, match="capacity 7, asked for 8"):
        grid.log("L_CAP_7", 8)


@pytest.mark.parametrize(("start", "limit"), [(-1, 1), (0, 0)])
def test_a_log_refuses_senseless_reads(grid, start, limit):
    with pytest.raises(GridError):
        grid.log("L").read(start, limit)


def test_concurrent_appends_lose_nothing(cluster, in_threads):
    logs = [cluster.client().log("L", 1000) for _ in range(4)]
    got = [[] for _ in logs]

    def append(w):
        for i in range(100):
            got[w].append(logs[w].append(b"%d:%d" % (w, i)))

    in_threads(*(lambda w=w: append(w) for w in range(4)))
    assert sorted(itertools.chain(*got)) == list(range(400))
    assert all(sequences == sorted(sequences) for sequences in got)
    assert len({value for _, value in logs[0].read(0, 1000).items}) == 400


# --- reference ----------------------------------------------------------------------------------------------


def test_a_reference_compares_bytes(cluster, grid):
    ref = grid.atomic_reference("R")
    assert ref.get() is None
    assert ref.compare_and_set(None, b"1")
    assert not ref.compare_and_set(None, b"2")
    assert not ref.compare_and_set(b"0", b"2")
    assert ref.compare_and_set(b"1", b"2")
    assert cluster.client().atomic_reference("R").get() == b"2"
    ref.set(None)
    assert ref.get() is None


def test_compare_and_set_under_contention(cluster, in_threads):
    """A counter kept by compare-and-set alone loses no increment."""
    cluster.client().atomic_reference("R").set(b"0")
    references = [cluster.client().atomic_reference("R") for _ in range(4)]

    def count(ref):
        for _ in range(100):
            while True:
                held = ref.get()
                if ref.compare_and_set(held, b"%d" % (int(held) + 1)):
                    break

    in_threads(*(lambda ref=ref: count(ref) for ref in references))
    assert references[0].get() == b"400"


# --- fenced lock --------------------------------------------------------------------------------------------


def test_tokens_rise_across_clients(cluster, grid):
    tokens = []
    for client in (grid, cluster.client(), grid):
        with client.lock("acb_writer") as fence:
            tokens.append(fence)
            assert client.lock("acb_writer").locked()
    assert tokens[0] > 0
    assert tokens == sorted(set(tokens))
    assert not grid.lock("acb_writer").locked()


def test_a_held_lock_is_not_given_twice(cluster, grid):
    other = cluster.client().lock("L")
    lock = grid.lock("L")
    lock.acquire()
    with pytest.raises(LockTimeout):
        other.acquire(timeout_s=0)
    with pytest.raises(LockError, match="not re-entrant"):
        lock.acquire()
    with pytest.raises(LockError, match="does not hold it"):
        other.release()
    lock.release()
    with pytest.raises(LockError):
        lock.release()
    assert other.acquire(timeout_s=0) > 0
    other.release()


def test_a_holder_knows_that_it_holds(cluster, grid, in_threads):
    lock, other = grid.lock("L"), cluster.client().lock("L")
    assert not lock.held()
    lock.acquire()
    assert lock.held()
    assert not other.held()

    def look():
        assert not grid.lock("L").held()

    in_threads(look)
    lock.release()
    assert not lock.held()


def test_a_token_is_above_the_floor(cluster, grid):
    lock = grid.lock("L")
    first = lock.acquire()
    lock.release()
    second = lock.acquire(floor=first + 1000)
    assert second > first + 1000
    lock.release()
    # From now on for everybody.
    with cluster.client().lock("L") as third:
        assert third > second
    with pytest.raises(GridError, match="floor"):
        lock.acquire(floor=-1)


def test_another_thread_can_not_release(grid, in_threads):
    lock = grid.lock("L")
    lock.acquire()

    def intrude():
        with pytest.raises(LockError):
            lock.release()

    in_threads(intrude)
    assert lock.locked()
    lock.release()


def test_the_lock_excludes_and_its_tokens_order_the_holders(cluster, in_threads):
    locks = [cluster.client().lock("L") for _ in range(4)]
    inside, tokens = [], []

    def work(lock):
        for _ in range(25):
            with lock as fence:
                inside.append(1)
                assert len(inside) == 1
                tokens.append(fence)
                inside.pop()

    in_threads(*(lambda lock=lock: work(lock) for lock in locks))
    assert len(tokens) == 100
    assert tokens == sorted(set(tokens))


def test_a_waiter_gets_the_lock_when_it_is_free(cluster, grid, in_threads):
    lock, other = grid.lock("L"), cluster.client().lock("L")
    held = threading.Event()
    tokens = {}

    def holder():
        tokens["first"] = lock.acquire()
        held.set()
        lock.release()

    def waiter():
        assert held.wait(PATIENCE_S)
        tokens["second"] = other.acquire(timeout_s=PATIENCE_S)
        other.release()

    in_threads(holder, waiter)
    assert tokens["first"] < tokens["second"]


def test_a_closing_client_gives_its_locks_back(cluster, grid):
    dying = cluster.client()
    first = dying.lock("L").acquire()
    dying.close()
    with grid.lock("L") as second:
        assert second > first


def test_the_lock_is_released_when_its_work_fails(grid):
    lock = grid.lock("L")
    with pytest.raises(ValueError, match="work"), lock:
        raise ValueError("work")
    assert not lock.locked()


# --- connection ---------------------------------------------------------------------------------------------


def test_without_connection_nothing_answers(cluster, grid):
    m, log, ref = grid.map("M"), grid.log("L"), grid.atomic_reference("R")
    assert grid.nodes >= 1
    cluster.drop(grid)
    assert not grid.connected
    assert grid.nodes == 0
    for refused in (
        lambda: m.compare_and_put("k", None, b"1"),
        grid.lock("LOCK").held,
        lambda: grid.lock("LOCK").acquire(0),
        lambda: m.put("k", b"1"),
        lambda: m.put_all({"k": b"1"}),
        lambda: m.get("k"),
        lambda: m.delete("k"),
        m.keys,
        m.entries,
        lambda: log.append(b"1"),
        lambda: log.read(0, 1),
        ref.get,
        lambda: ref.set(b"1"),
        lambda: ref.compare_and_set(None, b"1"),
    ):
        with pytest.raises(GridUnreachable):
            refused()
    cluster.restore(grid)
    assert grid.connected
    m.put("k", b"1")
    assert m.get("k") == b"1"


def test_connection_events(cluster, grid, recorder):
    grid.on_connection(recorder)
    cluster.drop(grid)
    cluster.restore(grid)
    cluster.drop(grid)
    cluster.restore(grid)
    recorder.until_count(4)
    grid.close()
    assert not any(e.reborn for e in recorder.until_count(5))
    assert [(e.state, e.reconnects) for e in recorder.events] == [
        (ConnectionState.DISCONNECTED, 0),
        (ConnectionState.CONNECTED, 1),
        (ConnectionState.DISCONNECTED, 1),
        (ConnectionState.CONNECTED, 2),
        (ConnectionState.CLOSED, 2),
    ]


def test_a_closed_connection_listener_hears_no_more(cluster, grid, recorder, new_recorder):
    witness = new_recorder()
    subscription = grid.on_connection(recorder)
    grid.on_connection(witness)
    subscription.close()
    cluster.drop(grid)
    witness.until_count(1)
    assert recorder.events == []


def test_a_connection_listener_that_raises_is_recorded(cluster, grid, recorder):
    def broken(event):
        raise RuntimeError("no")

    grid.on_connection(broken)
    grid.on_connection(recorder)
    cluster.drop(grid)
    recorder.until_count(1)
    assert [(f.map_name, f.key) for f in grid.failures] == [("", "")]


def test_reconcile_gives_the_last_value_of_each_listened_key(cluster, grid, recorder, new_recorder):
    """What changed meanwhile arrives once, with its present value; what did not change, not again."""
    writer = cluster.client().map("M")
    m = grid.map("M")
    one_key = new_recorder()
    m.listen(recorder)
    m.listen(one_key, "changed")
    m.put_all({"changed": b"1", "same": b"1", "gone": b"1", "replaced": b"1"})
    recorder.until_count(4)
    one_key.until_count(1)
    cluster.drop(grid)
    writer.put("changed", b"2")
    writer.put("changed", b"3")
    writer.put("new", b"1")
    writer.put("brief", b"1")
    writer.delete("brief")
    writer.delete("gone")
    writer.delete("replaced")
    writer.put("replaced", b"2")
    assert len(recorder.events) == 4
    cluster.restore(grid)
    events = recorder.until_count(8)[4:]
    assert sorted((e.key, e.kind, e.value) for e in events if e.kind is not EntryKind.REMOVED) == [
        ("changed", EntryKind.UPDATED, b"3"),
        ("new", EntryKind.ADDED, b"1"),
        ("replaced", EntryKind.UPDATED, b"2"),
    ]
    assert [(e.key, e.value) for e in events if e.kind is EntryKind.REMOVED] == [("gone", None)]
    assert all(e.current for e in events)
    assert [e.value for e in one_key.until_count(2)] == [b"1", b"3"]
    # Live again; order is promised for one key only.
    writer.put("changed", b"4")
    writer.delete("new")
    assert {(e.key, e.value) for e in recorder.until_count(10)[8:]} == {("changed", b"4"), ("new", None)}


def test_reconcile_covers_keys_that_were_never_delivered(cluster, grid, recorder):
    """The listener was there before the key, and the key came while the connection was away."""
    grid.map("M").listen(recorder, "k")
    cluster.drop(grid)
    cluster.client().map("M").put("k", b"1")
    cluster.restore(grid)
    (event,) = recorder.until_count(1)
    assert (event.value, event.kind, event.current) == (b"1", EntryKind.ADDED, True)


def test_a_value_older_than_the_listener_is_no_news_after_a_reconnect(cluster, grid, recorder):
    m = grid.map("M")
    m.put_all({"old": b"1", "gone": b"1"})
    m.listen(recorder)
    cluster.drop(grid)
    cluster.client().map("M").delete("gone")
    cluster.restore(grid)
    (event,) = recorder.until_count(1)
    assert (event.key, event.kind) == ("gone", EntryKind.REMOVED)


def test_the_connection_is_reported_after_the_values(cluster, grid, recorder):
    grid.map("M").listen(recorder)
    grid.on_connection(recorder)
    cluster.drop(grid)
    cluster.client().map("M").put("k", b"1")
    cluster.restore(grid)
    events = recorder.until_count(3)
    assert events[0].state is ConnectionState.DISCONNECTED
    assert events[1].value == b"1"
    assert events[2].state is ConnectionState.CONNECTED


def test_a_closed_subscription_is_not_reconciled(cluster, grid, recorder, new_recorder):
    witness = new_recorder()
    grid.map("M").listen(recorder).close()
    grid.map("M").listen(witness)
    cluster.drop(grid)
    cluster.client().map("M").put("k", b"1")
    cluster.restore(grid)
    witness.until_count(1)
    assert recorder.events == []


def test_no_last_value_is_lost_to_reconnects_under_load(cluster, grid, recorder, in_threads):
    """A writer does not stop while the reader loses its connection again and again."""
    n = 300
    writer = cluster.client().map("M")
    grid.map("M").listen(recorder, "k")

    def write():
        for i in range(n):
            writer.put("k", b"%d" % i)

    def shake():
        for _ in range(30):
            cluster.drop(grid)
            cluster.restore(grid)

    in_threads(write, shake)
    events = recorder.until(lambda seen: bool(seen) and seen[-1].value == b"%d" % (n - 1))
    numbers = [int(e.value) for e in events]
    assert numbers == sorted(set(numbers))


# --- a memory that is lost ----------------------------------------------------------------------------------


def test_a_grid_that_came_back_empty(mortal_cluster, new_recorder):
    """Everything is gone, everybody is told, and what listens goes on listening."""
    cluster, grid = mortal_cluster, mortal_cluster.client()
    events, states = new_recorder(), new_recorder()
    m, log, ref, lock = grid.map("M"), grid.log("L"), grid.atomic_reference("R"), grid.lock("L")
    m.listen(events)
    grid.on_connection(states)
    m.put_all({"a": b"1", "b": b"2"})
    for i in range(3):
        log.append(b"%d" % i)
    ref.set(b"1")
    token = lock.acquire()
    events.until_count(2)
    cluster.lose_memory()
    lost = events.until_count(4)[2:]
    assert [(e.key, e.kind, e.value, e.current) for e in lost] == [
        ("a", EntryKind.REMOVED, None, True),
        ("b", EntryKind.REMOVED, None, True),
    ]
    assert [(e.state, e.reborn) for e in states.until_count(2)] == [
        (ConnectionState.DISCONNECTED, False),
        (ConnectionState.CONNECTED, True),
    ]
    assert (m.entries(), ref.get(), log.tail()) == ({}, None, EMPTY_LOG_TAIL)
    assert log.read(3, 10).rewound
    assert not lock.held()
    with pytest.raises(LockError, match="does not hold it"):
        lock.release()
    assert lock.acquire(floor=token) > token
    assert log.append(b"again") == 0
    m.put("a", b"3")
    assert [(e.key, e.kind, e.value) for e in events.until_count(5)[4:]] == [("a", EntryKind.ADDED, b"3")]
    # A plain reconnect afterwards is only that.
    cluster.drop(grid)
    cluster.restore(grid)
    assert [e.reborn for e in states.until_count(4)] == [False, True, False, False]
    assert m.get("a") == b"3"


# --- payloads -----------------------------------------------------------------------------------------------

SAFE = SafetyPayload(
    posture="STALKER", rm=0.8, sensors={"cat1": 1.0}, updated_at="2026-01-02T03:04:05.000000000Z"
)


def test_payloads_cross_and_aliases_are_written(cluster, grid):
    door, far = TypedGrid(grid), TypedGrid(cluster.client())
    door.put(SAFETY, SAFE)
    door.put(SAFETY_POSTURE, "TURTLE")
    assert far.get(SAFETY) == SAFE
    assert far.get(SAFETY_POSTURE) == "TURTLE"
    assert far.get(ASSET_OB, symbol="BTCUSDT") is None


def test_a_newer_payload_stays(cluster, grid):
    door, far = TypedGrid(grid), TypedGrid(cluster.client())
    early, late = (
        SafetyPayload(posture=p, rm=0.8, updated_at=f"2026-01-02T03:04:{s}Z")
        for p, s in (("APEX", "05"), ("TURTLE", "06"))
    )
    assert door.put_newer(SAFETY, early)
    assert far.put_newer(SAFETY, late)
    assert not door.put_newer(SAFETY, early)
    # Repeating is allowed and changes nothing.
    assert far.put_newer(SAFETY, late)
    assert door.get(SAFETY) == late


def test_a_smaller_fence_is_refused_whatever_the_clock_says(grid):
    door = TypedGrid(grid)

    def boost(fence, second):
        return AcbBoost(
            boost=1.0, beta=0.5, signals=0.0, day="2026-01-02", fence=fence,
            updated_at=f"2026-01-02T03:04:{second:02d}Z",
        )  # fmt: skip

    assert door.put_newer(ACB_BOOST, boost(2, 10))
    assert not door.put_newer(ACB_BOOST, boost(1, 20))
    assert not door.put_newer(ACB_BOOST, boost(2, 9))
    assert door.put_newer(ACB_BOOST, boost(2, 11))
    assert door.put_newer(ACB_BOOST, boost(3, 1))
    assert door.get(ACB_BOOST).fence == 3


def test_put_newer_lets_the_newest_win_under_contention(cluster, in_threads):
    doors = [TypedGrid(cluster.client()) for _ in range(3)]

    def write(w):
        for i in range(20):
            at = f"2026-01-02T03:{i:02d}:{w:02d}Z"
            doors[w].put_newer(SAFETY, SafetyPayload(posture="APEX", rm=0.9, updated_at=at))

    in_threads(*(lambda w=w: write(w) for w in range(3)))
    assert doors[0].get(SAFETY).updated_at == "2026-01-02T03:19:02Z"


def test_a_typed_reference(cluster, grid):
    door, far = TypedGrid(grid), TypedGrid(cluster.client())
    assert far.get_reference("DOLPHIN_SAFETY", SAFETY) is None
    door.put_reference("DOLPHIN_SAFETY", SAFETY, SAFE)
    assert far.get_reference("DOLPHIN_SAFETY", SAFETY) == SAFE
    grid.atomic_reference("DOLPHIN_SAFETY").set(b"{}")
    with pytest.raises(PayloadRejected, match="field posture: missing"):
        far.get_reference("DOLPHIN_SAFETY", SAFETY)
    assert far.rejections.total == 1


def test_a_payload_that_does_not_validate_reaches_nobody(grid, recorder):
    door = TypedGrid(grid)
    door.listen(SAFETY, lambda payload, event: recorder(payload))
    view = NearView(grid, SAFETY, door.rejections)
    raw = grid.map("DOLPHIN_SAFETY")
    raw.put("latest", b'{"posture":"APEX","Rm":7,"updated_at":"2026-01-02T03:04:05Z"}')
    raw.put("latest", b"\xff\xfe not json")
    raw.put("latest", b'{"posture":"CAUTION","Rm":0.8,"updated_at":"2026-01-02T03:04:05Z"}')
    (payload,) = recorder.until_count(1)
    assert payload.posture == "STALKER"
    # The callback and the view have counted each of the two.
    assert door.rejections.counts[("DOLPHIN_SAFETY", "latest", "Rm")] >= 1
    assert {r.rule for r in door.rejections.newest if r.field == "Rm"} == {"Expected `float` <= 1.0"}
    grid.close()
    assert door.rejections.total == 4
    assert view.read().payload.posture == "STALKER"
    assert view.n_updates == 1


def test_a_writer_learns_of_its_own_mistake(grid):
    door = TypedGrid(grid)
    with pytest.raises(PayloadRejected, match=r"DOLPHIN_SAFETY\['latest'\] rejected: field Rm"):
        door.put(SAFETY, SafetyPayload(posture="APEX", rm=1.5, updated_at=SAFE.updated_at))
    with pytest.raises(PayloadRejected, match="rm is not finite"):
        door.put(SAFETY, SafetyPayload(posture="APEX", rm=float("nan"), updated_at=SAFE.updated_at))
    assert grid.map("DOLPHIN_SAFETY").get("latest") is None


def test_a_scan_is_in_the_log_when_the_map_wakes_its_reader(cluster, grid, recorder):
    """The event only wakes; the log is read, so a reader that was away decides on every scan, in order."""
    reader = TypedGrid(cluster.client())
    state = {"next": 0}

    def wake(event):
        read = reader.read_scans(state["next"])
        state["next"] = read.next_sequence
        for _, payload in read.scans:
            recorder(payload.to_scan())

    reader.grid.map("DOLPHIN_FEATURES").listen(wake, "latest_eigen_scan")
    scans = [make_scan(i) for i in range(6)]
    publish_scan(grid, scans[0], bridge_ts=1.5)
    recorder.until_count(1)
    cluster.drop(reader.grid)
    for scan in scans[1:5]:
        publish_scan(grid, scan, bridge_ts=2.5)
    cluster.restore(reader.grid)
    recorder.until_count(5)
    publish_scan(grid, scans[5], bridge_ts=3.5)
    assert recorder.until_count(6) == scans


def test_a_near_view_keeps_its_values_without_connection(cluster, grid, recorder, new_recorder):
    grid.on_connection(recorder)
    reader_view = NearView(grid, SAFETY)
    grid.on_connection(recorder)
    far = TypedGrid(cluster.client())
    # The same key: the view shares its events with this listener and was there first.
    arrived = new_recorder()
    grid.map("DOLPHIN_SAFETY").listen(arrived, "latest")
    far.put(SAFETY, SAFE)
    arrived.until_count(1)
    cluster.drop(grid)
    recorder.until_count(2)
    assert reader_view.degraded
    assert reader_view.read().payload == SAFE
    far.put(SAFETY, SafetyPayload(posture="HIBERNATE", rm=0.1, updated_at="2026-01-02T03:04:15Z"))
    assert reader_view.read().payload == SAFE
    cluster.restore(grid)
    recorder.until_count(4)
    assert not reader_view.degraded
    assert reader_view.read().payload.posture == "HIBERNATE"
