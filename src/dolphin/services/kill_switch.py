"""The kill switch: one local file, which works with the grid dead and survives restarts.

Entry points: `KillSwitch`, `SwitchState`, `Engagement`.

Operator and oracle hold it on each under a name of its own: neither overwrites the other, and each is lifted
by name. HALT forbids new entries, a position is managed as ever. FLATTEN also closes it on the next scan.
What a reader cannot make sense of counts as HALT: a damaged switch is never an open door, and whoever engages
it leaves that on record, for the damaged file may have held another's word.

The file is looked at by its change time before every bar, which costs a system call and no read.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec

from dolphin.domain.clock import iso_from_ns
from dolphin.domain.errors import StoreError
from dolphin.services.durable import write_durably

Word: TypeAlias = Literal["HALT", "FLATTEN"]

#: Its name in a system's folder, and in that of a run on live prices.
SWITCH_FILE: Final = "kill_switch.json"
OPERATOR: Final = "operator"
ORACLE: Final = "oracle"
#: The name under which a file that nobody can read counts as engaged.
DAMAGED: Final = "damaged"
#: Real seconds that a change waits for another process's; beyond them a stopped one must not hold up a halt.
TURN_S: Final = 2.0
_LOOK_S: Final = 0.02


class Engagement(msgspec.Struct, frozen=True, kw_only=True):
    """What holds the switch on, who did it and why. at_ns is ns UTC on the system's clock, 0 when unknown."""

    state: Word
    by: str
    reason: str
    at_ns: int = 0

    def told(self) -> str:
        """One line for people."""
        since = f"{iso_from_ns(self.at_ns)[:19]}Z" if self.at_ns > 0 else "an unknown time"
        return f"{self.state} by {self.by} since {since}: {self.reason}"


class SwitchState(msgspec.Struct, frozen=True, kw_only=True):
    """What the switch says: every engagement by its name, at least one."""

    engaged: dict[str, Engagement]

    @property
    def state(self) -> Word:
        """The strongest word."""
        return "FLATTEN" if any(each.state == "FLATTEN" for each in self.engaged.values()) else "HALT"

    @property
    def by(self) -> str:
        """Whoever holds it on."""
        return ", ".join(each.by for each in self.engaged.values())

    @property
    def reason(self) -> str:
        """Every reason."""
        return "; ".join(each.reason for each in self.engaged.values())

    def told(self) -> str:
        """One line for people."""
        return "; ".join(each.told() for each in self.engaged.values())


class KillSwitch:
    """The switch of one system. Any process may engage it; a person lifts it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None
        self._state: SwitchState | None = None

    def read(self) -> SwitchState | None:
        """What the switch says now, None when it is not engaged; never raises."""
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            self._seen, self._state = None, None
            return None
        except OSError as error:
            return _unreadable(f"cannot be read ({error.strerror})", 0)
        mark = (found.st_mtime_ns, found.st_ino, found.st_size)
        if mark != self._seen:
            self._state = self._load(found.st_mtime_ns)
            self._seen = mark
        return self._state

    def _load(self, changed_ns: int) -> SwitchState:
        try:
            return _decoded(self.path.read_bytes())
        except OSError as error:
            return _unreadable(f"cannot be read ({error.strerror})", changed_ns)
        except (msgspec.DecodeError, ValueError) as error:
            return _unreadable(f"is damaged ({error})", changed_ns)

    def engage(self, state: Word, *, by: str, reason: str, now_ns: int, name: str = OPERATOR) -> Engagement:
        """Engage the switch under a name; durable on return, and every other name stays as it was.

        The name's own FLATTEN is not weakened to a HALT. Returns what stands under the name now. Raises
        StoreError.
        """
        with self._turn():
            before = self.read()
            engaged = {} if before is None else dict(before.engaged)
            stands = engaged.get(name)
            if stands is not None and stands.state == "FLATTEN" and state == "HALT":
                return stands
            engaged[name] = made = Engagement(state=state, by=by, reason=reason, at_ns=now_ns)
            self._write(engaged)
            return made

    def lift(self, *names: str) -> dict[str, Engagement]:
        """Lift what stands under these names, under all when none is given; what was lifted, by name.

        Durable on return. Raises StoreError.
        """
        with self._turn():
            before = self.read()
            if before is None:
                return {}
            lifted = {name: each for name, each in before.engaged.items() if not names or name in names}
            left = {name: each for name, each in before.engaged.items() if name not in lifted}
            if left and lifted:
                self._write(left)
            elif not left:
                self._remove()
            return lifted

    def _write(self, engaged: dict[str, Engagement]) -> None:
        write_durably(self.path, msgspec.json.encode(SwitchState(engaged=engaged)) + b"\n")

    def _remove(self) -> None:
        try:
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise StoreError(
                f"{self.path}: cannot be removed ({error.strerror}); check permissions"
            ) from error

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """One change at a time on this machine: a reader that writes what it read must not lose another's.

        The folder itself is locked, which needs no file and so no space. Who cannot have the lock goes on
        without it: an operator's halt waits for nobody for long.
        """
        try:
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            yield
            return
        try:
            give_up, pause = time.monotonic() + TURN_S, threading.Event()
            while not _locked(folder) and time.monotonic() < give_up:
                pause.wait(_LOOK_S)
            yield
        finally:
            os.close(folder)


def _locked(folder: int) -> bool:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _decoded(content: bytes) -> SwitchState:
    """The state in a switch's file; one of an earlier version holds a single engagement, without a name.

    Raises msgspec.DecodeError.
    """
    raw = msgspec.json.decode(content)
    if isinstance(raw, dict) and "engaged" not in raw:
        single = msgspec.convert(raw, Engagement)
        return SwitchState(engaged={ORACLE if single.by == ORACLE else OPERATOR: single})
    state = msgspec.convert(raw, SwitchState)
    if not state.engaged:
        raise msgspec.ValidationError("nobody holds it on, expected one engagement at least")
    return state


def _unreadable(why: str, changed_ns: int) -> SwitchState:
    """changed_ns is when the file was written last, for nothing better is known; 0 for unknown."""
    made = Engagement(state="HALT", by="the switch itself", reason=f"its file {why}", at_ns=changed_ns)
    return SwitchState(engaged={DAMAGED: made})
