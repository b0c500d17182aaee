"""Alerts on their way to people: the journal of alerts, then webhooks and telephones through apprise.

Entry point: `Notifier`, one a process. The host logs every alert before it comes here.

Invariants
----------
1. `alert` never raises and never waits for a target: sending has a thread of its own and a bounded queue.
2. What the gate holds back is counted and told later; what a full queue drops is counted.
3. A target's address is a secret: no log, error, alert or `repr` holds it. A target is named by its number.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import stat
import threading
from collections import Counter, deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from dolphin.domain.clock import iso_from_ns
from dolphin.domain.errors import ConfigError
from dolphin.services.alert_gate import AlertGate
from dolphin.services.alert_journal import AlertLine, append_alert
from dolphin.services.clock import Clock, SystemClock
from dolphin.services.home import Home
from dolphin.services.service import Alert

URLS: Final = "DOLPHIN_ALERT_URLS"
FILE: Final = "DOLPHIN_ALERT_FILE"
QUEUE_MAX: Final = 200
TRIES: Final = 3
#: Real seconds before another try, and between two looks for what was held back.
RETRY_S: Final = 2.0
LOOK_S: Final = 1.0
_BAD: Final = frozenset({"invariant", "oracle", "red", "grid", "manager", "kill_switch"})
_GOOD: Final = frozenset({"trade", "leader"})

#: These loggers write addresses of targets, with their secrets.
_TALKATIVE: Final = (
    "apprise", "urllib3", "urllib3.connectionpool", "urllib3.util.retry", "requests", "http.client",
)  # fmt: skip

_log = logging.getLogger("dolphin.alerts")


class Notifier:
    """Where the alerts of one process go.

    Parameters
    ----------
    home : its `run_logs/alerts.jsonl` is the journal of alerts.
    environ : DOLPHIN_ALERT_URLS holds targets, DOLPHIN_ALERT_FILE names a file (mode 0600) of one a line.
    clock : times the windows of what is held back; the machine's by default, for they are people's.
    retry_s : real seconds before another try at a target.
    """

    def __init__(
        self,
        home: Home,
        environ: Mapping[str, str] = os.environ,
        clock: Clock | None = None,
        *,
        retry_s: float = RETRY_S,
    ) -> None:
        self.counts: Counter[str] = Counter()
        #: Why alerts do not reach people as they were asked to, one line each.
        self.problems: list[str] = []
        self._home = home
        self._clock = SystemClock() if clock is None else clock
        self._retry_s = retry_s
        self._gate = AlertGate()
        self._turn = threading.Condition()
        self._queue: deque[Alert] = deque()
        self._busy = False
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._addresses: tuple[str, ...] = ()
        self._targets: list[tuple[int, Any]] | None = None
        try:
            self._addresses = addresses_of(environ)
        except ConfigError as error:
            self._problem(str(error))

    def __repr__(self) -> str:
        return f"Notifier({len(self._addresses)} targets)"

    def alert(self, alert: Alert) -> None:
        """Keep an alert and send it, unless it is held back."""
        try:
            with self._turn:
                admitted = self._gate.admit(alert.kind, alert.text, self._clock.now_ns())
                self._start()
            if admitted:
                self._pass_on(alert)
            else:
                self.counts["held_back"] += 1
        except Exception as error:
            self.counts["failed"] += 1
            _log.error(f"an alert was lost here: {type(error).__name__}")

    def tell_held(self, *, everything: bool = False) -> None:
        """Tell how many were held back in windows that are over; the worker asks this every second."""
        with self._turn:
            now_ns = self._clock.now_ns()
            due = self._gate.due(now_ns, everything=everything)
        for held in due:
            self._pass_on(Alert(held.kind, held.told(), "notifier", now_ns))

    def idle(self, timeout_s: float) -> bool:
        """Wait until everything was sent, at most `timeout_s` of real time; whether that is so."""
        with self._turn:
            return self._turn.wait_for(lambda: not self._queue and not self._busy, timeout_s)

    def close(self, timeout_s: float = 3.0) -> None:
        """Tell what was held back, send what waits, at most for `timeout_s`, and stop. Idempotent."""
        if self._closing.is_set():
            return
        with contextlib.suppress(Exception):
            self.tell_held(everything=True)
        self.idle(timeout_s)
        self._closing.set()
        with self._turn:
            self._turn.notify_all()

    # passing on

    def _pass_on(self, alert: Alert) -> None:
        line = AlertLine(
            time=iso_from_ns(alert.timestamp_ns),
            at_ns=alert.timestamp_ns,
            kind=alert.kind,
            service=alert.service,
            text=alert.text,
        )
        try:
            append_alert(self._home, line)
        except OSError:
            self.counts["not_kept"] += 1
        if not self._addresses or self._closing.is_set():
            return
        with self._turn:
            if len(self._queue) >= QUEUE_MAX:
                # The newest says best how things are.
                self._queue.popleft()
                self.counts["dropped"] += 1
            self._queue.append(alert)
            self._turn.notify_all()

    def _start(self) -> None:
        """The thread begins with the first alert."""
        if self._thread is None and not self._closing.is_set():
            self._thread = threading.Thread(target=self._work, name="alerts", daemon=True)
            self._thread.start()

    # the worker's thread

    def _work(self) -> None:
        while not self._closing.is_set():
            with self._turn:
                self._turn.wait_for(lambda: bool(self._queue) or self._closing.is_set(), LOOK_S)
                alert = self._queue.popleft() if self._queue else None
                self._busy = alert is not None
            try:
                if alert is not None:
                    self._send(alert)
                self.tell_held()
            except Exception as error:
                self.counts["failed"] += 1
                _log.error(f"an alert was not sent: {type(error).__name__}")
            finally:
                with self._turn:
                    self._busy = False
                    self._turn.notify_all()

    def _send(self, alert: Alert) -> None:
        waiting = self._open_targets()
        for attempt in range(TRIES):
            if attempt and self._closing.wait(self._retry_s):
                break
            waiting = [(n, target) for n, target in waiting if not _took(target, alert)]
            if not waiting:
                break
        for number, _ in waiting:
            self.counts["failed"] += 1
            _log.error(f"alert target {number} did not take an alert", extra={"kind": alert.kind})
        if self._targets and not waiting:
            self.counts["sent"] += 1

    def _open_targets(self) -> list[tuple[int, Any]]:
        if self._targets is None:
            _silence_vendors()
            self._targets = []
            try:
                import apprise
            except ImportError:
                self._problem(
                    "alerts are not sent: this needs the services extra; `make services` installs it"
                )
                return []
            for number, address in enumerate(self._addresses, 1):
                # One object a target, so that one that fails is tried again alone.
                target = apprise.Apprise()
                if target.add(address):
                    self._targets.append((number, target))
                else:
                    self._problem(
                        f"alert target {number} is no address that apprise knows; see its list of services"
                    )
        return self._targets

    def _problem(self, text: str) -> None:
        self.problems.append(text)
        _log.error(text)
        now_ns = self._clock.now_ns()
        line = AlertLine(time=iso_from_ns(now_ns), at_ns=now_ns, kind="alerts", service="notifier", text=text)
        with contextlib.suppress(OSError):
            append_alert(self._home, line)


def _took(target: Any, alert: Alert) -> bool:
    kind = "failure" if alert.kind in _BAD else "info" if alert.kind in _GOOD else "warning"
    moment = iso_from_ns(alert.timestamp_ns)[:19]
    try:
        return bool(
            target.notify(
                title=f"DOLPHIN {alert.kind}",
                body=f"{alert.service}: {alert.text} ({moment}Z)",
                notify_type=kind,
            )
        )
    except Exception:  # its text may hold the address
        return False


def addresses_of(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The targets that the environment names. Raises ConfigError for a file that others can read."""
    found = re.split(r"[\s,;]+(?=[A-Za-z][\w+.-]*://)|\s+", environ.get(URLS, "").strip())
    named = environ.get(FILE, "")
    if named:
        lines = _private(Path(named)).splitlines()
        found += [line.strip() for line in lines if not line.lstrip().startswith("#")]
    return tuple(address for address in found if address)


def _private(path: Path) -> str:
    """Content of a file that only its owner can read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, encoding="utf-8") as file:
            mode = os.fstat(descriptor)
            if not stat.S_ISREG(mode.st_mode) or mode.st_mode & 0o077 or mode.st_uid not in (0, os.getuid()):
                raise ConfigError(
                    f"{path}: not read, for it holds secrets that others could read; `chmod 600 {path}`"
                )
            return file.read()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); {FILE} names it") from error
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is no text; expected one target a line") from None


def _silence_vendors() -> None:
    """What they log holds addresses, and they log from threads of their own: nothing of it gets anywhere."""
    for name in _TALKATIVE:
        logger = logging.getLogger(name)
        if _nothing not in logger.filters:
            logger.addFilter(_nothing)


def _nothing(record: logging.LogRecord) -> bool:
    return False
