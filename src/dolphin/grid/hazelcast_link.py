"""The vendor's client behind one edge: how it is made, how it is asked, and what its errors mean.

Entry points: `Link`, `translate`. Nothing of the vendor leaves this module and `dolphin.grid.hazelcast`; its
private corners are used here only (`test_the_private_corners_are_there` fails when a new version moves them).

Invariants
----------
1. Every question has our own deadline: the vendor's `Future.result` has none.
2. A call that was not answered is GridUnreachable: nobody knows whether it was done.
3. One connection a client (no smart routing): a connection that is lost is known to be lost, and with it
   what was on its way. With one connection a member the client stays "connected" while a member's events
   are gone.
4. The vendor tries to reconnect for ever, in the background, and calls fail at once meanwhile. It waits
   without a limit for the answer to its greeting, so `drop_silent` sets one.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from dolphin.domain.errors import UsageError
from dolphin.grid.port import GridError, GridUnreachable

try:
    with warnings.catch_warnings():
        # The client uses asyncore, which Python 3.11 announces the end of; on 3.12 it brings its own.
        warnings.simplefilter("ignore", DeprecationWarning)
        from hazelcast import errors
        from hazelcast.client import HazelcastClient
        from hazelcast.config import ReconnectMode
except ImportError as _error:
    raise UsageError(
        "a Hazelcast grid needs the services extra; `make services` installs it, and `dolphin run` needs none"
    ) from _error

# Reconnecting is told by our own logger; the vendor writes a traceback for each attempt.
logging.getLogger("hazelcast").setLevel(logging.CRITICAL)

#: Answers that leave nothing open: the grid understood and refused.
_REFUSALS = (
    errors.IllegalArgumentError,
    errors.HazelcastSerializationError,
    errors.ClassCastError,
    errors.ConfigMismatchError,
    errors.InvalidConfigurationError,
    errors.UnsupportedOperationError,
    errors.SecurityError,
    errors.AccessControlError,
    AssertionError,
    TypeError,
    ValueError,
)
#: Answers to a lock's holder that it is the holder no longer.
LOST_LOCK = (errors.LockOwnershipLostError, errors.IllegalMonitorStateError, errors.SessionExpiredError)
#: A proxy of a group that is gone: it has to be fetched anew, and the call was not done.
LOST_GROUP = (errors.CPGroupDestroyedError,)


def translate(error: BaseException, what: str) -> GridError:
    """The vendor's error as ours; what it leaves open is GridUnreachable."""
    if isinstance(error, GridError):
        return error
    told = f"{what}: {type(error).__name__}: {error}".splitlines()[0]
    if isinstance(error, _REFUSALS):
        return GridError(f"the grid refused {told}")
    return GridUnreachable(f"the grid did not answer {told}; the last near view stays in force")


class Link:
    """One client of the vendor's, from its making to its end.

    `on_state` is called with CONNECTED, DISCONNECTED or SHUTDOWN, on a thread of the vendor's that must not
    be held up; `on_members` when a member came or went.
    """

    def __init__(
        self,
        members: Sequence[str],
        cluster_name: str,
        *,
        deadline_s: float,
        heartbeat_s: float,
        heartbeat_timeout_s: float,
        backoff_s: float,
        on_state: Callable[[Link, str], None],
        on_members: Callable[[], None],
    ) -> None:
        self.deadline_s = deadline_s
        self.deadline_misses = 0
        self._stale_probe: float | None = None
        self.reactor_lag_s = 0.0
        self.client = HazelcastClient(
            cluster_name=cluster_name,
            cluster_members=list(members),
            smart_routing=False,
            connection_timeout=2.0,
            # For ever: a finite one ends the client for good, and a grid may be away for a night. It blocks
            # nobody, since the client starts and reconnects in the background.
            cluster_connect_timeout=-1,
            async_start=True,
            reconnect_mode=ReconnectMode.ASYNC,
            retry_initial_backoff=backoff_s,
            retry_max_backoff=2.0,
            retry_multiplier=1.5,
            retry_jitter=0.2,
            heartbeat_interval=heartbeat_s,
            heartbeat_timeout=heartbeat_timeout_s,
            # Less than our deadline, so that what we gave up is not tried again behind our back.
            invocation_timeout=deadline_s / 2,
            redo_operation=False,
            fail_on_indeterminate_operation_state=True,
            statistics_enabled=False,
            lifecycle_listeners=[lambda state: on_state(self, state)],
            membership_listeners=[(lambda member: on_members(), lambda member: on_members())],
        )

    def ask(self, what: str, make: Callable[[], Any], deadline_s: float | None = None) -> Any:
        """The answer to the call that `make` starts. Raises GridError; LOST_LOCK and LOST_GROUP as they are.

        `deadline_s` where another than the link's own holds.
        """
        limit_s = self.deadline_s if deadline_s is None else deadline_s
        try:
            future = make()
            if not future.done():
                answered = threading.Event()
                future.add_done_callback(lambda _: answered.set())
                if not answered.wait(limit_s):
                    self._missed(what, limit_s)
            return future.result()
        except (*LOST_LOCK, *LOST_GROUP):
            raise
        except Exception as error:
            raise translate(error, what) from error

    def bounded(self, what: str, work: Callable[[], Any]) -> Any:
        """The result of `work`, which blocks inside the vendor's client. Raises GridError."""
        done = threading.Event()
        result: list[Any] = []
        failed: list[BaseException] = []

        def run() -> None:
            try:
                result.append(work())
            except BaseException as error:
                failed.append(error)
            done.set()

        threading.Thread(target=run, name="dolphin-grid-call", daemon=True).start()
        if not done.wait(self.deadline_s):
            self._missed(what, self.deadline_s)
        if failed:
            raise translate(failed[0], what) from failed[0]
        return result[0]

    def _missed(self, what: str, limit_s: float) -> None:
        self.deadline_misses += 1
        raise GridUnreachable(f"the grid did not answer {what} within {limit_s:g} s; it may have done it")

    @property
    def nodes(self) -> int:
        """Members that the client knows of; it may not have noticed yet that it is cut off."""
        return len(self.client.cluster_service.get_members())

    @property
    def alive(self) -> bool:
        """False once the vendor's client has ended, which it does by itself when a cluster refuses it."""
        return bool(self.client.lifecycle_service.is_running())

    def await_registrations(self, wanted: Sequence[str], wait: Callable[[float], bool]) -> None:
        """Return when the listeners `wanted` are registered on the present connection.

        `wait(seconds)` returns True to give up. Raises GridUnreachable when they are not in time.
        """
        give_up = time.monotonic() + self.deadline_s
        while True:
            known = self.client._listener_service._active_registrations
            connections = list(self.client._connection_manager.active_connections.values())
            if connections and all(
                connection in known[each].connection_registrations
                for each in wanted
                for connection in connections
                if each in known
            ):
                return
            if time.monotonic() > give_up or wait(0.005):
                raise GridUnreachable("the grid did not take the listeners back in time")

    def drop_silent(self) -> None:
        """Close connections whose greeting was not answered in time: the vendor waits for it for ever.

        Its heartbeats look after greeted connections only. It tries again by itself after a closing.
        """
        invocations: Any = self.client._invocation_service
        reactor: Any = self.client._reactor
        greeted = list(self.client._connection_manager.active_connections.values())
        for invocation in list(invocations._pending.values()):
            connection = invocation.sent_connection
            if connection is None or not connection.live or connection in greeted:
                continue
            # `timeout` is a moment of the vendor's, half a deadline after the greeting was sent.
            if time.time() > invocation.timeout + self.deadline_s / 2:
                close = partial(connection.close_connection, "the greeting was not answered", None)
                reactor.add_timer(0, close)

    def probe_reactor(self) -> None:
        """Measure how late the vendor's one thread runs: everything of its hangs on it."""
        now = time.monotonic()
        if self._stale_probe is not None:
            self.reactor_lag_s = now - self._stale_probe
            return
        self._stale_probe = now

        def answered() -> None:
            self._stale_probe = None
            self.reactor_lag_s = time.monotonic() - now

        reactor: Any = self.client._reactor
        reactor.add_timer(0, answered)

    def close(self) -> None:
        """End the client; its locks are given back when the grid hears of it. Never raises."""
        with contextlib.suppress(GridError):
            self.bounded("the goodbye", self.client.shutdown)
