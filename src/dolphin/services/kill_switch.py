"""The operator's kill switch: one local file, which works with the grid dead and survives restarts.

Entry points: `KillSwitch`, `SwitchState`.

HALT forbids new entries, an open position is managed as ever. FLATTEN also closes it on the next scan. What a
reader cannot make sense of counts as HALT: a damaged switch is never an open door. The file is looked at by
its change time before every bar, which costs a system call and no read.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from dolphin.domain.clock import iso_from_ns
from dolphin.domain.errors import StoreError
from dolphin.services.durable import write_durably

Word: TypeAlias = Literal["HALT", "FLATTEN"]


class SwitchState(msgspec.Struct, frozen=True, kw_only=True):
    """What the switch says, who set it and why. at_ns is nanoseconds UTC on the system's clock."""

    state: Word
    by: str
    reason: str
    at_ns: int

    def told(self) -> str:
        """One line for people."""
        return f"{self.state} by {self.by} since {iso_from_ns(self.at_ns)[:19]}Z: {self.reason}"


class KillSwitch:
    """The switch of one system. Any process may engage it; the operator lifts it."""

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
            return _unreadable(f"cannot be read ({error.strerror})")
        mark = (found.st_mtime_ns, found.st_ino, found.st_size)
        if mark != self._seen:
            self._state = self._load()
            self._seen = mark
        return self._state

    def _load(self) -> SwitchState:
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=SwitchState)
        except OSError as error:
            return _unreadable(f"cannot be read ({error.strerror})")
        except (msgspec.DecodeError, ValueError) as error:
            return _unreadable(f"is damaged ({error})")

    def engage(self, state: Word, *, by: str, reason: str, now_ns: int) -> SwitchState:
        """Engage the switch; durable on return. A FLATTEN is not weakened to a HALT. Raises StoreError."""
        before = self.read()
        if before is not None and before.state == "FLATTEN" and state == "HALT":
            return before
        made = SwitchState(state=state, by=by, reason=reason, at_ns=now_ns)
        write_durably(self.path, msgspec.json.encode(made) + b"\n")
        return made

    def lift(self) -> SwitchState | None:
        """Lift the switch; what it said, None when it was not engaged. Raises StoreError."""
        before = self.read()
        try:
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()
            if before is not None:
                folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
        except OSError as error:
            raise StoreError(
                f"{self.path}: cannot be removed ({error.strerror}); check permissions"
            ) from error
        return before


def _unreadable(why: str) -> SwitchState:
    return SwitchState(state="HALT", by="the switch itself", reason=f"its file {why}", at_ns=0)
