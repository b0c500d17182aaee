"""The grid on Hazelcast: the official client behind the contract of `dolphin.grid.port`.

Entry point: `HazelcastGrid`, one a process.

Three threads of ours stand around the vendor's one. The vendor's reads the network and only enqueues. The
dispatcher runs the listeners. The keeper asks the grid what was missed: after every reconnect, when a member
left, when an event does not continue what was told, and every now and then for no reason.

Invariants
----------
1. `connected` is true, and CONNECTED is told, only when every listened key was read since the connection
   came back (invariant 5 of the contract).
2. A grid whose memory was lost is recognised by its marks (`DOLPHIN_GRID`), gets a new client of the vendor's
   with new sessions and proxies, and is told as `reborn`.
3. Nothing waits on the vendor's thread, and no call waits longer than its deadline.
4. What the vendor's client does by itself is made good: a client that ended is replaced.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Any

from dolphin.grid.dispatch import DispatcherKind, Failures, ThreadDispatcher
from dolphin.grid.feeds import Feed, Listener
from dolphin.grid.hazelcast_link import Link
from dolphin.grid.hazelcast_objects import RemoteLock, RemoteLog, RemoteMap, RemoteReference
from dolphin.grid.port import (
    ConnectionEvent,
    ConnectionListener,
    ConnectionState,
    EntryListener,
    GridClosed,
    GridError,
    GridUnreachable,
    ListenerFailure,
    Subscription,
)

MARKS_MAP = "DOLPHIN_GRID"
#: Marks lie in different partitions, so that a part of the memory that was lost shows too.
N_MARKS = 16
_MARKS = tuple(f"mark-{i:02d}" for i in range(N_MARKS))

#: Seconds between a read that differs and its telling, where live events are expected to come first.
_GRACE_S = 0.25
_RETRY_S = 0.2
_PROBE_EVERY_S = 1.0
#: Longest wait at `close` for events of what was put before.
_CLOSE_GRACE_S = 2.0

_log = logging.getLogger("dolphin.grid")


class _Watcher:
    """A connection listener."""

    def __init__(
        self, callback: ConnectionListener, failures: Failures, leave: Callable[[_Watcher], None]
    ) -> None:
        self.callback = callback
        self.failures = failures
        self.closed = False
        self._leave = leave

    def close(self) -> None:
        self.closed = True
        self._leave(self)


class HazelcastGrid:
    """A client of a Hazelcast cluster. Keeps the contract of `dolphin.grid.port.Grid`.

    Parameters
    ----------
    members : sequence of "host:port"
        Where to look for the cluster; one that answers is enough.
    cluster_name : str
        The cluster's name; another cluster at the same address is refused.
    dispatcher : "thread"
        Listeners run on one worker thread. Inline is not possible: events come from the network.
    deadline_s : float
        Longest wait for an answer, seconds, > 0.
    connect_timeout_s : float
        Longest wait for the first connection, seconds; GridUnreachable after it.
    sweep_s : float
        Seconds between two readings of every listened key for no reason: the net under all other nets.
    backoff_s : float
        Pause before the second attempt to reconnect, seconds; it grows up to 2 s.
    """

    def __init__(
        self,
        members: Sequence[str],
        cluster_name: str = "dolphin",
        dispatcher: DispatcherKind = "thread",
        *,
        deadline_s: float = 5.0,
        connect_timeout_s: float = 20.0,
        sweep_s: float = 15.0,
        backoff_s: float = 0.1,
        heartbeat_s: float = 2.0,
        heartbeat_timeout_s: float = 10.0,
    ) -> None:
        if dispatcher != "thread":
            raise GridError(f"dispatcher is {dispatcher!r}; events of a remote grid need 'thread'")
        self.members = tuple(members)
        self.cluster_name = cluster_name
        self.sweep_s = sweep_s
        #: Times that a question was not answered within its deadline, over all links.
        self._misses_before = 0
        self.n_reread = 0
        self._settings: dict[str, Any] = {
            "deadline_s": deadline_s, "backoff_s": backoff_s, "heartbeat_s": heartbeat_s,
            "heartbeat_timeout_s": heartbeat_timeout_s,
        }  # fmt: skip
        self._failures = Failures()
        self._dispatcher = ThreadDispatcher()
        self._versions = itertools.count(1)
        self._maps: dict[str, RemoteMap] = {}
        self._logs: dict[str, RemoteLog] = {}
        self._feeds: dict[tuple[str, str | None], Feed] = {}
        self._watchers: dict[_Watcher, None] = {}
        #: Holders of locks by (name, thread): (token, epoch of the sessions).
        self.holders: dict[tuple[str, int], tuple[int, int]] = {}
        #: Locks that a thread may hold without having been told so.
        self.doubtful: set[tuple[str, int]] = set()
        self._state = threading.Condition()
        # Under `_state`.
        self._connects = 0
        self._linked = False
        self._settled = -1
        self._up = False
        self._closing = False
        self._closed = False
        self._reconnects = 0
        self._reborn = False
        self._first = True
        self._epoch = 0
        self._shaken = False
        self._dirty: deque[tuple[Feed, str]] = deque()
        self._marks: dict[str, bytes] | None = None
        self._proxies: dict[tuple[Link, str, str], Any] = {}
        self.link = self._open()
        self._keeper = threading.Thread(target=self._keep, name="dolphin-grid-keeper", daemon=True)
        self._keeper.start()
        with self._state:
            if not self._state.wait_for(lambda: self._up, connect_timeout_s):
                reached = self._linked
        if not self._up:
            self.close()
            raise GridUnreachable(
                f"no member of cluster {cluster_name!r} answers at {', '.join(self.members)} within"
                f" {connect_timeout_s:g} s; `dolphin up` starts one"
                + (" (it took the connection, but not the questions)" if reached else "")
            )

    # --- what the contract hands out ---

    def map(self, name: str) -> RemoteMap:
        """See `Grid.map`."""
        found = self._maps.get(name)
        if found is None:
            found = self._maps.setdefault(name, RemoteMap(self, name))
        return found

    def log(self, name: str, capacity: int | None = None) -> RemoteLog:
        """See `Grid.log`. The member's configuration decides the capacity; the first opening asks for it."""
        if capacity is not None and capacity < 1:
            raise GridError(f"log {name}: capacity {capacity}, expected >= 1")
        found = self._logs.get(name)
        if found is None:
            found = self._logs.setdefault(name, RemoteLog(self, name))
        found.check_capacity(capacity)
        return found

    def atomic_reference(self, name: str) -> RemoteReference:
        """See `Grid.atomic_reference`."""
        return RemoteReference(self, name)

    def lock(self, name: str) -> RemoteLock:
        """See `Grid.lock`."""
        return RemoteLock(self, name)

    def on_connection(self, callback: ConnectionListener) -> Subscription:
        """See `Grid.on_connection`."""
        with self._state:
            watcher = _Watcher(callback, self._failures, lambda each: self._watchers.pop(each, None))
            self._watchers[watcher] = None
            return watcher

    @property
    def connected(self) -> bool:
        """See `Grid.connected`."""
        return self._up and not self._closing

    @property
    def nodes(self) -> int:
        """See `Grid.nodes`."""
        return self.link.nodes if self._linked and not self._closing else 0

    @property
    def failures(self) -> tuple[ListenerFailure, ...]:
        """See `Grid.failures`."""
        return self._failures.newest

    @property
    def n_failures(self) -> int:
        """See `Grid.n_failures`."""
        return self._failures.total

    @property
    def backlog(self) -> int:
        """See `Grid.backlog`."""
        return len(self._dispatcher)

    @property
    def reconnects(self) -> int:
        """How often this client has come back."""
        return self._reconnects

    @property
    def deadline_misses(self) -> int:
        """How often a question was not answered within its deadline."""
        return self._misses_before + self.link.deadline_misses

    @property
    def reactor_lag_s(self) -> float:
        """How late the vendor's one thread ran when it was last looked at, seconds."""
        return self.link.reactor_lag_s

    # --- for the objects ---

    def check_open(self) -> None:
        """Raise GridClosed for a caller that may not use the grid any more."""
        if self._closed or (self._closing and not self._dispatcher.delivers_here):
            raise GridClosed("this grid client is closed")

    def epoch_of_sessions(self) -> int:
        """Number of the cluster's life as this client knows it. Raises GridUnreachable while it does not."""
        self.check_open()
        with self._state:
            if not self._up:
                raise GridUnreachable("the grid is not reachable; who holds a lock is not known")
            return self._epoch

    def proxy(self, link: Link, kind: str, name: str) -> Any:
        """The vendor's object, fetched once a link. Raises GridError."""
        found = self._proxies.get((link, kind, name))
        if found is None:
            client = link.client
            if not self._linked:
                raise GridUnreachable(
                    "the grid is not reachable; the last near view stays in force until it is back"
                )
            makers: dict[str, Callable[[], Any]] = {
                "map": lambda: client.get_map(name),
                "log": lambda: client.get_ringbuffer(name),
                "reference": lambda: client.cp_subsystem.get_atomic_reference(name),
                "lock": lambda: client.cp_subsystem.get_lock(name),
            }
            found = link.bounded(f"for the {kind} {name}", makers[kind])
            found = self._proxies.setdefault((link, kind, name), found)
        return found

    def forget_proxy(self, link: Link, kind: str, name: str) -> None:
        """Fetch it anew the next time."""
        self._proxies.pop((link, kind, name), None)

    def listen(self, map_name: str, callback: EntryListener, key: str | None, initial: bool) -> Subscription:
        """See `GridMap.listen`."""
        self.check_open()
        while True:
            with self._state:
                feed = self._feeds.get((map_name, key))
                if feed is None:
                    feed = Feed(map_name, key, self._dispatcher.enqueue, self._versions)
                    self._feeds[map_name, key] = feed
            with feed.reading:
                if feed.dead:
                    continue
                listener = Listener(callback, self._failures, partial(self._leave, feed))
                try:
                    self._register(feed)
                    self._read(feed)
                except GridError:
                    if not feed.listeners:
                        self._bury(feed)
                    raise
                feed.add(listener, initial=initial)
                return listener

    def _leave(self, feed: Feed, listener: Listener) -> None:
        if feed.drop(listener) and feed.reading.acquire(blocking=False):
            # Busy: somebody reads or joins just now. The feed stays, and costs a little traffic.
            try:
                if not feed.listeners:
                    self._bury(feed)
            finally:
                feed.reading.release()

    def _bury(self, feed: Feed) -> None:
        """Take a feed without listeners out. `feed.reading` is held."""
        feed.dead = True
        with self._state:
            self._feeds.pop((feed.map_name, feed.key), None)
        proxy = self._proxies.get((self.link, "map", feed.map_name))
        if feed.registration is not None and proxy is not None and not self._closing:
            # Not waited for, since a listener may be closing itself.
            proxy.remove_entry_listener(feed.registration)

    # --- asking for what was missed; `feed.reading` is held ---

    def _register(self, feed: Feed) -> None:
        link = self.link
        if feed.registered_on == id(link):
            return
        proxy = self.proxy(link, "map", feed.map_name)

        def changed(event: Any) -> None:
            # On the vendor's thread: compare and enqueue, nothing else.
            if self.link is not link:
                return
            value = None if event.value is None else bytes(event.value)
            replaced = None if event.old_value is None else bytes(event.old_value)
            if not feed.live(event.key, value, replaced):
                self._doubt(feed, event.key)

        def emptied(event: Any) -> None:
            self._shake()

        feed.registration = link.ask(
            f"for the events of {feed.map_name}",
            lambda: proxy.add_entry_listener(
                include_value=True, key=feed.key, added_func=changed, updated_func=changed,
                removed_func=changed, clear_all_func=emptied, evict_all_func=emptied,
            ),
        )  # fmt: skip
        feed.registered_on = id(link)

    def _read(self, feed: Feed, keys: tuple[str, ...] | None = None, grace_s: float = 0.0) -> None:
        """Bring what was told in line with the grid. Raises GridError."""
        source = self.map(feed.map_name)
        feed.begin_reading()
        if keys is None and feed.key is not None:
            keys = (feed.key,)
        values = source.entries() if keys is None else source.get_all(keys)
        if grace_s and feed.differing(values, keys):
            # What the grid sends by itself comes first, so that no change in between is left out.
            self._pause(grace_s)
        feed.read(values, keys)

    def _doubt(self, feed: Feed, key: str) -> None:
        self.n_reread += 1
        with self._state:
            if (feed, key) not in self._dirty:
                self._dirty.append((feed, key))
                self._state.notify_all()

    def _shake(self) -> None:
        """Something may have been lost without a disconnect: read everything, and look at the marks."""
        with self._state:
            self._shaken = True
            self._state.notify_all()

    # --- the connection ---

    def _open(self) -> Link:
        return Link(
            self.members, self.cluster_name, on_state=self._on_state, on_members=self._shake, **self._settings
        )

    def _on_state(self, link: Link, state: str) -> None:
        with self._state:
            # The vendor may connect before the link that it belongs to is in its place. The first one is
            # taken without a place; a later one waits here, as `_replace_link` puts it there under `_state`.
            if getattr(self, "link", link) is not link:
                return
            if state == "CONNECTED":
                self._connects += 1
                self._linked = True
            elif state in ("DISCONNECTED", "SHUTDOWN"):
                self._linked = False
                self._down()
            self._state.notify_all()

    def _down(self) -> None:
        """Tell that the connection is lost, once. Under `_state`."""
        if self._up:
            self._up = False
            if not self._closing:
                self._tell(ConnectionState.DISCONNECTED)
                _log.warning("the grid %s is not reachable any more", self.cluster_name)

    def _tell(self, state: ConnectionState, reborn: bool = False) -> None:
        event = ConnectionEvent(state, self._reconnects, reborn)
        for watcher in self._watchers:
            self._dispatcher.enqueue((watcher, event))

    # --- the keeper ---

    def _keep(self) -> None:
        swept = probed = time.monotonic()
        while True:
            with self._state:
                self._state.wait_for(self._has_work, _RETRY_S)
                if self._closing:
                    return
                connects, linked = self._connects, self._linked
                settle = linked and self._settled != connects
                shaken, self._shaken = self._shaken and linked and not settle, False
                doubt = self._dirty.popleft() if self._dirty and linked and not settle else None
            now = time.monotonic()
            try:
                if not linked and not self.link.alive:
                    self._replace_link()
                elif settle:
                    self._settle(connects)
                    swept = now
                elif doubt is not None:
                    self._reread(*doubt)
                elif linked and (shaken or now - swept >= self.sweep_s):
                    swept = now
                    self._check_memory(connects)
                    self._read_all(_GRACE_S)
                if now - probed >= _PROBE_EVERY_S:
                    probed = now
                    self.link.probe_reactor()
                    if not linked:
                        self.link.drop_silent()
            except GridError as error:
                _log.info("the grid could not be read: %s", error)
                if shaken:
                    self._shake()
                elif doubt is not None:
                    with self._state:
                        self._dirty.append(doubt)
                self._pause(_RETRY_S)
            except Exception:
                # The keeper is what makes losses good; an error of ours must not end it unseen.
                _log.exception("the grid's keeper failed")
                self._pause(_RETRY_S)

    def _has_work(self) -> bool:
        settle = self._linked and self._settled != self._connects
        return self._closing or settle or bool(self._linked and (self._dirty or self._shaken))

    def _pause(self, seconds: float) -> bool:
        """Wait; True at once when the grid is being closed."""
        with self._state:
            return self._state.wait_for(lambda: self._closing, seconds)

    def _settle(self, connects: int) -> None:
        """The connection is there: is it the same grid, and what was missed? Then tell. Raises GridError."""
        if self._check_memory(connects):
            return
        feeds = self._all_feeds()
        for feed in feeds:
            with feed.reading:
                if not feed.dead:
                    self._register(feed)
        self.link.await_registrations(
            [feed.registration for feed in feeds if feed.registration and not feed.dead], self._pause
        )
        self._read_all(0.0)
        with self._state:
            if self._connects != connects or not self._linked or self._closing:
                return
            self._settled = connects
            self._up = True
            if not self._first:
                self._reconnects += 1
                self._tell(ConnectionState.CONNECTED, self._reborn)
                _log.warning("the grid %s is back%s", self.cluster_name, ", empty" if self._reborn else "")
            self._first = self._reborn = False
            self._state.notify_all()

    def _read_all(self, grace_s: float) -> None:
        for feed in self._all_feeds():
            with feed.reading:
                if not feed.dead and feed.registration is not None:
                    self._read(feed, grace_s=grace_s)

    def _reread(self, feed: Feed, key: str) -> None:
        with feed.reading:
            if not feed.dead:
                self._read(feed, (key,))

    def _all_feeds(self) -> list[Feed]:
        with self._state:
            return list(self._feeds.values())

    def _check_memory(self, connects: int) -> bool:
        """Whether the grid's memory was lost since the last look; then a new link is on its way."""
        marks = self.map(MARKS_MAP)
        found = marks.get_all(_MARKS)
        for name in _MARKS:
            if name not in found:
                mine = uuid.uuid4().hex.encode()
                if marks.compare_and_put(name, None, mine):
                    found[name] = mine
                else:
                    found[name] = marks.get(name) or b""
        before, self._marks = self._marks, found
        if before is None or before == found:
            return False
        with self._state:
            self._down()
            self._reborn = True
            self._epoch += 1
            self.holders.clear()
            self.doubtful.clear()
        self._replace_link()
        return True

    def _replace_link(self) -> None:
        """A new client of the vendor's: new sessions, new proxies, new registrations."""
        old = self.link
        with self._state:
            self._linked = False
            self._down()
        # Sessions are the client's: with a new one no lock of the old one is ours.
        with self._state:
            if not self._reborn:
                self._epoch += 1
                self.holders.clear()
                self.doubtful.clear()
            self._settled = -1
            self._misses_before += old.deadline_misses
            old.deadline_misses = 0
            self._proxies.clear()
            self.link = self._open()
        old.close()

    # --- the end ---

    def close(self) -> None:
        """See `Grid.close`. From a listener it does not wait for the queue."""
        if self._up and not self._closing:
            self._catch_up()
        if not self._begin_closing():
            return
        self._dispatcher.stop()
        if threading.current_thread() is not self._keeper:
            self._keeper.join(self._settings["deadline_s"])
        self.link.close()
        with self._state:
            self._closed = True
            self._up = self._linked = False
            self._watchers.clear()
            self._feeds.clear()
            self._proxies.clear()

    def _begin_closing(self) -> bool:
        """True for the one caller who closes."""
        with self._state:
            if self._closing:
                return False
            self._closing = True
            self._tell(ConnectionState.CLOSED)
            self._state.notify_all()
            return True

    def _catch_up(self) -> None:
        """Let the events come of what was put before; at the end tell the last values at least."""
        give_up = time.monotonic() + _CLOSE_GRACE_S
        for feed in self._all_feeds():
            with feed.reading:
                if feed.dead or feed.registration is None:
                    continue
                try:
                    while time.monotonic() < give_up:
                        keys = None if feed.key is None else (feed.key,)
                        source = self.map(feed.map_name)
                        if not feed.differing(
                            source.entries() if keys is None else source.get_all(keys), keys
                        ):
                            break
                        self._pause(0.005)
                    self._read(feed)
                except GridError:
                    return

    def __enter__(self) -> HazelcastGrid:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
