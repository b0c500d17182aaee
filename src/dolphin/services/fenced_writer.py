"""One writer at a time: a fenced lock of the grid together with the durable state that it guards.

Entry points: `FencedState`, `FencedWriter`.

Two processes of one service may run on the same files; only the holder of the lock evaluates, saves and
writes. The fence of its term stands in the state, on disk before anything is published under it.

1. A term begins with the state that is on disk then, and with a fence above every one that was stored.
2. A holder that was paused finds out before it harms: the grid is asked for the lock every `CHECK_NS`, a
   state on disk with a higher fence is not overwritten, and whoever reads the grid refuses a smaller fence.
3. A grid that is away neither gives a lock nor takes one: the holder goes on with its state until it hears
   otherwise.
"""

from __future__ import annotations

import contextlib
from typing import Final, Generic, TypeVar

import msgspec

from dolphin.domain.clock import NS_PER_S
from dolphin.grid.port import FencedLock, GridError, LockError, LockTimeout
from dolphin.services.durable import DurableState
from dolphin.services.service import Context

CHECK_NS: Final = 2 * NS_PER_S


class FencedState(msgspec.Struct, frozen=True, kw_only=True):
    """Base of a state that one writer keeps: the fence under which it was saved."""

    fence: int = 0


S = TypeVar("S", bound=FencedState)


class FencedWriter(Generic[S]):
    """The right to write of one service in this process.

    lock_name names the grid's lock, kind the state's type with defaults for everything.
    """

    def __init__(self, context: Context, lock_name: str, kind: type[S]) -> None:
        self._context = context
        self._lock_name = lock_name
        self._kind = kind
        path = context.home.state(lock_name.removesuffix("_writer"))
        self._file = DurableState(path, kind)
        self._fence_on_disk = DurableState(path, FencedState)
        self._lock: FencedLock | None = None
        self._checked_ns: int | None = None
        self._floor = 0
        self.state: S = kind()
        self.why = "waits for the lock"

    @property
    def fence(self) -> int:
        """The fence of this term, 0 while another writes."""
        return self.state.fence if self._lock is not None else 0

    @property
    def leading(self) -> bool:
        """Whether this process writes."""
        return self._lock is not None

    def restore(self) -> None:
        """Take the state from disk. Raises DataError when it is damaged, StoreError."""
        self.state = self._file.load() or self._kind()

    def lead(self) -> bool:
        """Whether this process may write now; takes the lock if it is free.

        Raises GridError where the grid is away and no term has begun, DataError and StoreError.
        """
        return self._still_holds() or self._take()

    def doubt(self) -> None:
        """Ask the grid for the lock at the next chance: the connection was away."""
        self._checked_ns = None

    def _take(self) -> bool:
        self.restore()
        lock = self._context.grid.grid.lock(self._lock_name)
        try:
            fence = lock.acquire(0.0, floor=max(self.state.fence, self._floor))
        except LockTimeout:
            self.why = f"another process holds {self._lock_name}"
            return False
        except LockError:
            # An earlier try had no answer, but took it.
            self._release(lock)
            return False
        try:
            # The writer before may have saved until a moment ago.
            self.restore()
            if self.state.fence >= fence:
                self._floor = self.state.fence
                self._release(lock)
                return False
            self.state = msgspec.structs.replace(self.state, fence=fence)
            self._file.save(self.state)
        except BaseException:
            self._release(lock)
            raise
        self._lock = lock
        self._checked_ns = self._context.clock.now_ns()
        self.why = ""
        return True

    def _still_holds(self) -> bool:
        lock, now_ns = self._lock, self._context.clock.now_ns()
        if lock is None:
            return False
        if self._checked_ns is not None and 0 <= now_ns - self._checked_ns < CHECK_NS:
            return True
        try:
            held = lock.held()
        except GridError:
            return True
        self._checked_ns = now_ns
        if not held:
            self.lost(f"the grid no longer has {self._lock_name} as held here")
        return held

    def save(self, state: S) -> bool:
        """Keep the state under this term's fence; False, and the term is over, when a newer writer has saved.

        On True it is durable. Raises StoreError.
        """
        fence = self.fence
        on_disk = self._fence_on_disk.load()
        if on_disk is not None and on_disk.fence > fence:
            self.lost(f"fence {on_disk.fence} has saved its state")
            return False
        state = msgspec.structs.replace(state, fence=fence)
        self._file.save(state)
        self.state = state
        return True

    def refused(self, newer_fence: int) -> None:
        """The grid refused a write for it has one under newer_fence: the term is over, the next is above."""
        self._floor = max(self._floor, newer_fence)
        lock = self._lock
        self.lost(f"the grid has a write under fence {newer_fence}")
        if lock is not None:
            self._release(lock)

    def renew(self) -> bool:
        """Begin a new term under a higher fence; True when it is this process's again.

        For a write that is refused although nobody else wrote: the clock was set back, and under one fence a
        later time wins.
        """
        lock, self._lock = self._lock, None
        if lock is not None:
            self._release(lock)
        return self._take()

    def lost(self, why: str) -> None:
        """End the term; says so once."""
        fence, self._lock, self.why = self.fence, None, why
        self._context.counts["terms_lost"] += 1
        self._context.tell("fence", f"{self._context.name} stops writing under fence {fence}: {why}")

    def let_go(self) -> None:
        """Give the lock back, if it is held here; the grid may be away."""
        lock, self._lock = self._lock, None
        self.why = "stopped"
        if lock is not None:
            self._release(lock)

    def _release(self, lock: FencedLock) -> None:
        with contextlib.suppress(GridError):
            lock.release()
