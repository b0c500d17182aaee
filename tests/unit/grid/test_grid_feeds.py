"""The rule by which a remote grid's events are believed, without a grid."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from dolphin.grid.dispatch import Failures
from dolphin.grid.feeds import Feed, Listener
from dolphin.grid.port import EntryKind


def make(key=None):
    queue = []
    feed = Feed("M", key, queue.append, itertools.count(1))
    listener = Listener(lambda event: None, Failures(), feed.drop)
    feed.add(listener, initial=False)
    return feed, queue


def told(queue):
    return [(event.key, event.kind, event.value, event.current) for _, event in queue]


def read(feed, values, keys=None):
    feed.begin_reading()
    feed.read(values, keys)


def test_a_chain_of_changes_is_told_as_it_comes():
    feed, queue = make()
    assert feed.live("k", b"1", None)
    assert feed.live("k", b"2", b"1")
    assert feed.live("k", None, b"2")
    assert told(queue) == [
        ("k", EntryKind.ADDED, b"1", False),
        ("k", EntryKind.UPDATED, b"2", False),
        ("k", EntryKind.REMOVED, None, False),
    ]
    assert [event.version for _, event in queue] == [1, 2, 3]


def test_a_change_that_does_not_continue_is_doubted():
    feed, queue = make()
    feed.live("k", b"1", None)
    assert not feed.live("k", b"3", b"2")
    assert not feed.live("k", b"1", None)
    assert len(queue) == 1
    read(feed, {"k": b"3"}, ("k",))
    # The lost change shows in the value; what comes late is not told again.
    assert not feed.live("k", b"2", b"1")
    assert not feed.live("k", b"3", b"2")
    assert feed.live("k", b"4", b"3")
    assert [event.value for _, event in queue] == [b"1", b"3", b"4"]


def test_a_reading_tells_values_first_and_then_what_is_gone():
    feed, queue = make()
    read(feed, {"gone": b"1", "b": b"1", "same": b"1"})
    queue.clear()
    read(feed, {"same": b"1", "b": b"2", "a": b"1"})
    assert told(queue) == [
        ("a", EntryKind.ADDED, b"1", True),
        ("b", EntryKind.UPDATED, b"2", True),
        ("gone", EntryKind.REMOVED, None, True),
    ]


def test_a_reading_of_one_key_says_nothing_about_the_others():
    feed, queue = make()
    read(feed, {"a": b"1", "b": b"1"})
    queue.clear()
    read(feed, {}, ("a",))
    assert told(queue) == [("a", EntryKind.REMOVED, None, True)]


def test_what_came_during_a_reading_is_newer_than_the_reading():
    feed, queue = make()
    feed.live("k", b"1", None)
    feed.begin_reading()
    feed.live("k", b"2", b"1")
    feed.live("other", b"1", None)
    assert not feed.differing({"k": b"1"}, None)
    feed.read({"k": b"1"}, None)
    assert [event.value for _, event in queue] == [b"1", b"2", b"1"]
    # And only during it.
    assert feed.differing({"k": b"3", "other": b"1"}, None)


def test_who_joins_hears_what_was_told_last_only_on_request():
    feed, queue = make()
    feed.live("k", b"1", None)
    queue.clear()
    late, silent = (Listener(lambda event: None, Failures(), feed.drop) for _ in range(2))
    feed.add(late, initial=True)
    feed.add(silent, initial=False)
    assert [(who is late, event.value, event.current) for who, event in queue] == [(True, b"1", True)]
    late.close()
    late.close()
    queue.clear()
    feed.live("k", b"2", b"1")
    assert [who is late for who, _ in queue] == [False, False]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_values_never_go_back_and_the_last_one_is_told(data):
    """A grid that loses, repeats and delays events of one key; every doubt is followed by a reading."""
    n = data.draw(st.integers(1, 12))
    changes = [(b"%d" % i, b"%d" % (i - 1) if i else None) for i in range(n)]
    feed, queue = make("k")
    sent, accepted = 0, 0
    pending = []
    while sent < n or pending:
        action = data.draw(st.sampled_from(["write", "deliver", "lose", "repeat", "reconnect"]))
        if action == "write" and sent < n:
            pending.append(changes[sent])
            sent += 1
        elif action == "lose" and pending:
            pending.pop(0)
        elif action in ("deliver", "repeat") and pending:
            change = pending[0] if action == "repeat" else pending.pop(0)
            if not feed.live("k", *change):
                read(feed, {"k": b"%d" % (sent - 1)}, ("k",))
        elif action == "reconnect":
            # The answer is of now; the events that are on their way come later.
            read(feed, {"k": b"%d" % (sent - 1)} if sent else {}, ("k",))
        accepted += 1
        if accepted > 200:
            break
    read(feed, {"k": b"%d" % (sent - 1)} if sent else {}, ("k",))
    numbers = [int(event.value) for _, event in queue]
    assert numbers == sorted(set(numbers))
    assert numbers[-1:] == ([sent - 1] if sent else [])
