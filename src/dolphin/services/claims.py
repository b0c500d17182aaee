"""Who may run a service here: one process a service, one process manager a home.

Entry points: `hold` (one process of a name), `manager_of`, `check_manager`, `unit_claims`, `take_claim`.

Two managers once restarted each other's services for days. So:

1. A service's process holds a lock on `state/NAME.lock` for its life; a second one of the same name is
   refused and told the pid of the first.
2. The process manager holds a lock on `supervisor/claim` for its life (an open file that only it has), so
   that the claim ends with it, however it ends.
3. A service that another manager started (another supervisord, a systemd unit) refuses to run. So does one
   that is started by hand while a supervisord manages this home.
4. `dolphin up` refuses while a systemd unit's file names one of our services for this home.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from dolphin.domain.errors import DolphinError, StoreError
from dolphin.services.home import Home
from dolphin.services.table import BY_COMMAND, BY_NAME, table_in

#: Programs that start and restart others; one of them as a service's parent is a claim.
MANAGERS: Final = frozenset(
    {"systemd", "runsv", "s6-supervise", "circusd", "monit", "god", "pm2", "upstart", "launchd"}
)


class ClaimError(DolphinError):
    """Somebody else runs this already."""


def unit_folders() -> tuple[Path, ...]:
    """Where an administrator and a person keep their units."""
    return (Path("/etc/systemd/system"), Path.home() / ".config" / "systemd" / "user")


class Held:
    """A lock on a file, for as long as this object or the process lives."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor

    def tell(self, **content: Any) -> None:
        """Say in the file who holds it."""
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, json.dumps(content).encode() + b"\n", 0)

    def let_go(self) -> None:
        """Give it back. Idempotent."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def try_hold(path: Path) -> Held | None:
    """The lock on `path`, or None when another holds it. Raises StoreError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StoreError(f"{path}: cannot be opened ({error.strerror}); make the folder writable") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return Held(path, descriptor)


def holder(path: Path) -> dict[str, Any]:
    """What the last holder said of itself; empty when nothing readable stands there."""
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(path.read_text())
        if isinstance(content, dict):
            return content
    return {}


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock on `path`."""
    if not path.exists():
        return False
    held = try_hold(path)
    if held is None:
        return True
    held.let_go()
    return False


def hold(home: Home, instance: str) -> Held:
    """The right to be the process `instance` of this home. Raises ClaimError naming the pid that has it."""
    path = home.root / "state" / f"{instance}.lock"
    held = try_hold(path)
    if held is None:
        pid = holder(path).get("pid", "unknown")
        raise ClaimError(
            f"{instance} runs in {home.root} already (pid {pid}); one process a service: stop that one first"
        )
    held.tell(pid=os.getpid(), service=instance)
    return held


# --- managers -----------------------------------------------------------------------------------------------


def claim_file(home: Home) -> Path:
    """The file that the home's process manager holds a lock on."""
    return home.supervisor / "claim"


def take_claim(home: Home) -> Held:
    """The right to be the home's process manager. Raises ClaimError naming who has it."""
    held = try_hold(claim_file(home))
    if held is None:
        other = holder(claim_file(home))
        who = f"{other.get('manager', 'a process manager')} (pid {other.get('pid', 'unknown')})"
        raise ClaimError(
            f"{home.root} is claimed by {who}, which does not answer on {other.get('socket', 'its socket')};"
            " stop it first"
        )
    return held


def _parent() -> tuple[int, str, list[str]]:
    """(pid, short name, command line) of this process's parent."""
    pid = os.getppid()
    name, words = "", list[str]()
    with contextlib.suppress(OSError):
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        words = [word for word in Path(f"/proc/{pid}/cmdline").read_text().split("\0") if word]
    return pid, name, words


def manager_of(environ: Mapping[str, str]) -> tuple[str, str]:
    """(kind, who) of the manager that started this process; ("", "") for a person's shell.

    kind is "supervisord" (who: its server's address) or the name of another manager (who: that and its pid).
    """
    pid, name, words = _parent()
    if "SUPERVISOR_ENABLED" in environ and (
        name == "supervisord" or any("supervisord" in word for word in words[:4])
    ):
        return "supervisord", environ.get("SUPERVISOR_SERVER_URL", f"pid {pid}")
    if name in MANAGERS:
        return name, f"{name} (pid {pid})"
    return "", ""


def check_manager(home: Home, instance: str, socket: Path, environ: Mapping[str, str]) -> None:
    """Refuse a service whose manager is not this home's supervisord. Raises ClaimError naming the other."""
    kind, who = manager_of(environ)
    ours = f"unix://{socket}"
    if kind == "supervisord":
        if who != ours:
            raise ClaimError(
                f"{instance} was started by another process manager, the supervisord at {who}; only the one"
                f" at {ours} may: take the service out of the other's configuration"
            )
        return
    if kind:
        raise ClaimError(
            f"{instance} was started by another process manager, {who}; only supervisord may run services:"
            f" disable that unit and use `dolphin up {instance} --home {home.root}`"
        )
    if is_held(claim_file(home)):
        other = holder(claim_file(home))
        manager = f"{home.root} is managed by supervisord (pid {other.get('pid', 'unknown')})"
        if instance in BY_NAME and instance not in {spec.name for spec in table_in(home)}:
            word = BY_NAME[instance].command
            raise ClaimError(
                f"{manager}, which was not asked for {instance}; `dolphin down --home {home.root}`, then"
                f" `dolphin up --with {word} --home {home.root}`"
            )
        raise ClaimError(f"{manager}; `dolphin up {instance} --home {home.root}` starts {instance}")


_EXEC: Final = re.compile(r"^\s*Exec(?:Start|StartPre|StartPost|Reload)\s*=\s*[-@:+!]*(.*)$")


def unit_claims(home: Home, folders: Iterable[Path]) -> list[str]:
    """One line for each systemd unit that runs one of our services for this home, or for no home in
    particular.
    """
    found = []
    for folder in folders:
        for unit in sorted(folder.glob("*.service")):
            with contextlib.suppress(OSError):
                text = unit.read_text(errors="replace").replace("\\\n", " ")
                for line in text.splitlines():
                    service = _service_of(line, home)
                    if service:
                        found.append(f"{unit} claims the service {service}")
                        break
    return found


def _service_of(line: str, home: Home) -> str:
    started = _EXEC.match(line)
    if started is None:
        return ""
    try:
        words = shlex.split(started[1])
    except ValueError:
        words = started[1].split()
    place = next(
        (n for n, word in enumerate(words) if Path(word).name == "dolphin" or word in ("dolphin.cli",)), None
    )
    command = (
        next((word for word in words[place + 1 :] if not word.startswith("-")), "")
        if (place is not None)
        else ""
    )
    # `universe pick` only reads what the service has written.
    if command not in BY_COMMAND or "pick" in words:
        return ""
    for n, word in enumerate(words):
        given = words[n + 1] if word == "--home" and n + 1 < len(words) else word.partition("--home=")[2]
        if given and Path(given).resolve() != home.root.resolve():
            return ""
    return BY_COMMAND[command].name


def name_of(word: str) -> str:
    """A service's name from its name or its command. Empty when it is neither."""
    if word in BY_NAME:
        return word
    return BY_COMMAND[word].name if word in BY_COMMAND else ""
