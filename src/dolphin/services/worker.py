"""Work that may wait for somebody else, kept off the thread that decides.

Entry points: `Worker` (what a service asks for), `DaemonWorker` (one thread), `InlineWorker` (simulations).

A job looks after its own errors; one that raises all the same is logged, and the next one runs.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol, TypeAlias

Job: TypeAlias = Callable[[], None]

_log = logging.getLogger("dolphin.worker")


class Worker(Protocol):
    """Runs jobs one after the other, in their order."""

    def submit(self, job: Job) -> bool:
        """Take a job; False when there are too many already. Never waits for one."""
        ...

    def idle(self, timeout_s: float) -> bool:
        """Wait until nothing is left to do, at most `timeout_s` (>= 0) of real time; whether that is so."""
        ...


class InlineWorker:
    """Runs each job at once, in the thread that submits it."""

    def submit(self, job: Job) -> bool:
        """See `Worker.submit`."""
        _run(job)
        return True

    def idle(self, timeout_s: float) -> bool:
        """See `Worker.idle`: there is never anything left."""
        return True


class DaemonWorker:
    """One daemon thread, made with the first job; at most `jobs_max` jobs wait."""

    def __init__(self, name: str, jobs_max: int = 16) -> None:
        self.name = name
        self._jobs_max = jobs_max
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._busy = False
        self._thread: threading.Thread | None = None

    def submit(self, job: Job) -> bool:
        """See `Worker.submit`."""
        with self._changed:
            if len(self._jobs) >= self._jobs_max:
                return False
            self._jobs.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=self.name, daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return True

    def idle(self, timeout_s: float) -> bool:
        """See `Worker.idle`."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._jobs and not self._busy, timeout_s)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._jobs))
                job = self._jobs.popleft()
                self._busy = True
            try:
                _run(job)
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()


def _run(job: Job) -> None:
    try:
        job()
    except Exception:
        _log.exception("a job of %s failed", threading.current_thread().name)
