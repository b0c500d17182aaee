"""The process manager's configuration, made from the table of services.

Entry points: `configuration`, `socket_path`, `write_configuration`.

1. supervisord restarts what the table says it restarts: a service without `autorestart` that ends, even while
   it starts, stays down.
2. Its socket is for this user only (0700), and its path fits the kernel's 107 letters: a deep home gets a
   short one in the folder for temporary files.
3. A `%` is doubled, because supervisord expands it; a home whose path its parser cannot hold is refused.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import stat
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from dolphin.domain.errors import StoreError, UsageError
from dolphin.services.durable import write_durably
from dolphin.services.home import Home
from dolphin.services.runtime import ENVIRONMENT
from dolphin.services.table import DATA, SERVICES, TRADING, ServiceSpec

SOCKET_NAME: Final = "supervisor.sock"
#: sockaddr_un has 108 bytes, the last one is 0; supervisord binds the path with its pid behind it first.
SOCKET_PATH_MAX: Final = 107 - len(".4194304")
STOP_WAIT_S: Final = 30
START_RETRIES: Final = 5
#: Groups in the order in which they start; they stop in the other.
PRIORITIES: Final = {DATA: 10, TRADING: 20}

_HEAD: Final = """\
; Made by `dolphin up` from the table of services (dolphin.services.table): change the table, not this file.

[supervisord]
logfile={logs}/supervisord.log
logfile_maxbytes=5MB
logfile_backups=2
loglevel=info
pidfile={folder}/supervisord.pid
childlogdir={logs}
umask=027
strip_ansi=true
environment={environment}

[unix_http_server]
file={socket}
chmod=0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl=unix://{socket}
"""

_GROUP: Final = """
[group:{name}]
programs={programs}
priority={priority}
"""

_PROGRAM: Final = """
[program:{name}]
command={command}
autostart={autostart}
autorestart={autorestart}
startsecs={start_seconds}
startretries={retries}
stopsignal=TERM
stopwaitsecs={stop_wait}
stopasgroup=true
killasgroup=true
redirect_stderr=true
stdout_logfile={logs}/{name}.out
stdout_logfile_maxbytes=1MB
stdout_logfile_backups=2
"""

_ENVIRONMENT: Final = ENVIRONMENT | {"PYTHONUNBUFFERED": "1"}


def launcher() -> tuple[str, ...]:
    """What starts a service's process: this very interpreter and code."""
    return (sys.executable, "-m", "dolphin")


def socket_path(home: Home) -> Path:
    """The manager's socket: in the home where the path is short enough, else in a private folder of the user.

    Nothing is made.
    """
    path = home.supervisor.absolute() / SOCKET_NAME
    if len(os.fsencode(path)) <= SOCKET_PATH_MAX:
        return path
    name = hashlib.sha256(os.fsencode(home.root.resolve())).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"dolphin-{os.getuid()}-{name}" / SOCKET_NAME


def prepare_socket(home: Home) -> Path:
    """The socket's path, with its folder made, private. Raises StoreError."""
    path = socket_path(home)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if path.parent != home.supervisor.absolute():
            found = path.parent.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
                raise StoreError(
                    f"{path.parent}: is not a folder that only you can enter; remove it, or choose a home"
                    " with a shorter path"
                )
    except OSError as error:
        raise StoreError(f"{path.parent}: cannot be made ({error.strerror}); check permissions") from error
    if len(os.fsencode(path)) > SOCKET_PATH_MAX:
        raise UsageError(
            f"{path}: a socket's path has at most {SOCKET_PATH_MAX} bytes; choose a home with a shorter path,"
            " or a shorter TMPDIR"
        )
    return path


def _doubled(text: str) -> str:
    return text.replace("%", "%%")


def check_path(root: Path) -> None:
    """Refuse a home that supervisord's parser would read as something else. Raises UsageError."""
    text = str(root)
    if any(letter in text for letter in "\n\r\"'\\") or " ;" in text or " #" in text or text != text.strip():
        raise UsageError(
            f"{text!r}: supervisord cannot hold this path (a quote, a backslash, a line's end, ` ;` or ` #`"
            " in it); choose another home"
        )


def configuration(
    home: Home,
    services: Sequence[ServiceSpec] = SERVICES,
    *,
    launch: Sequence[str] = (),
    socket: Path | None = None,
) -> str:
    """The text of supervisord.conf.

    home : its root is written as it stands, so it should be absolute. launch : the words before a service's
    command, this interpreter by default. socket : instead of `socket_path(home)`.
    Raises UsageError for a home that cannot be written.
    """
    check_path(home.root)
    words = tuple(launch) or launcher()
    logs = _doubled(str(home.logs))
    parts = [
        _HEAD.format(
            logs=logs,
            folder=_doubled(str(home.supervisor)),
            socket=_doubled(str(socket or socket_path(home))),
            environment=",".join(f'{name}="{value}"' for name, value in sorted(_ENVIRONMENT.items())),
        )
    ]
    for group, priority in PRIORITIES.items():
        names = [spec.name for spec in services if spec.group == group]
        if names:
            parts.append(_GROUP.format(name=group, programs=",".join(names), priority=priority))
    for spec in services:
        command = shlex.join((*words, spec.command, "--home", str(home.root)))
        parts.append(
            _PROGRAM.format(
                name=spec.name,
                command=_doubled(command),
                autostart=str(spec.autostart).lower(),
                autorestart=str(spec.autorestart).lower(),
                start_seconds=spec.start_seconds,
                # supervisord tries again what ends within its start seconds, unless there is no try left.
                retries=START_RETRIES if spec.autorestart else 0,
                stop_wait=STOP_WAIT_S,
                # supervisord expands a program's log file twice.
                logs=_doubled(logs),
            )
        )
    return "".join(parts)


def write_configuration(
    home: Home, services: Sequence[ServiceSpec] = SERVICES, *, launch: Sequence[str] = ()
) -> Path:
    """Write it into the home, with its folders; returns its path. Raises StoreError, UsageError."""
    socket = prepare_socket(home)
    path = home.supervisor / "supervisord.conf"
    text = configuration(home, services, launch=launch, socket=socket)
    try:
        home.logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{home.logs}: cannot be made ({error.strerror}); check permissions") from error
    write_durably(path, text.encode())
    return path
