"""`dolphin doctor`: is this machine fit to run DOLPHIN."""

from __future__ import annotations

import argparse
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dolphin.commands.shared import add_json, print_json, tell

_EPILOG = """example:
  dolphin doctor --out runs

Each line is ok, warn or fail, with what to do. Exit 0 when nothing fails. The
clock is compared with the file system's, not with a time server: this command
talks to nobody outside this machine.
"""

DISK_FREE_MIN_GB = 2.0
CLOCK_SKEW_MAX_S = 2.0
PORTS = (("grid port", 5701), ("scheduler port", 4200))


@dataclass(frozen=True, slots=True)
class Check:
    """One finding; status is ok, warn or fail."""

    name: str
    status: str
    text: str


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EPILOG
    parser.add_argument("--out", default="runs", metavar="DIR", help="folder that runs go to (default runs)")
    add_json(parser)


def execute(args: argparse.Namespace) -> int:
    """Run the checks; 0 when none fails."""
    out = Path(args.out)
    checks = [
        check for group in (_versions, _kernels, lambda: _folder(out), _ports, _programs) for check in group()
    ]
    if args.json:
        print_json({"ok": all(c.status != "fail" for c in checks), "checks": [asdict(c) for c in checks]})
    else:
        for check in checks:
            tell(f"{check.status:4}  {check.name:18} {check.text}")
    return 1 if any(check.status == "fail" for check in checks) else 0


def _versions() -> Iterator[Check]:
    from importlib import metadata

    version = ".".join(map(str, sys.version_info[:3]))
    yield Check(
        "python", "ok" if sys.version_info >= (3, 11) else "fail", f"{version}; 3.11 or newer is needed"
    )
    import re

    for requirement in metadata.requires("dolphin-trader") or []:
        match = re.match(r"([A-Za-z0-9._-]+)==([^; ]+)(?:.*extra == .(\w+).)?", requirement)
        if not match:
            continue
        name, wanted, extra = match.groups()
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            if extra:
                yield Check(name, "warn", f"not installed; `make {extra}` installs it where it is wanted")
            else:
                yield Check(name, "fail", f"not installed; run `make run` or install {name}=={wanted}")
            continue
        status = "ok" if found == wanted else "warn"
        yield Check(name, status, found if found == wanted else f"{found} is installed, tested with {wanted}")


def _kernels() -> Iterator[Check]:
    import numba

    from dolphin import kernel
    from dolphin.kernel import plain
    from dolphin.numerics.portable import log1p

    same = all(log1p(x / 7.0) == plain(log1p)(x / 7.0) for x in range(1, 200))
    if kernel.MODE == "plain":
        yield Check("kernels", "ok", "plain Python, slow; unset DOLPHIN_KERNELS for the compiled ones")
    elif same:
        yield Check("kernels", "ok", f"{kernel.MODE}: every digit equals plain Python's")
    else:
        text = f"{kernel.MODE}: digits differ from plain Python's; reinstall numba with `make clean run`"
        yield Check("kernels", "fail", text)
    settings: Any = numba.config
    if settings.USING_SVML:
        yield Check("vector math", "fail", "numba uses one, so that bits differ by machine; uninstall icc_rt")
    else:
        yield Check("vector math", "ok", "none in use: the same bits on every machine")


def _folder(out: Path) -> Iterator[Check]:
    from dolphin.domain.errors import StoreError
    from dolphin.journal.store import require_writable

    existed = out.exists()
    try:
        require_writable(out)
    except StoreError as error:
        yield Check("folder", "fail", str(error))
        return
    yield Check("folder", "ok", f"{out.resolve()} can be written")
    probe = out / ".clock"
    before = time.time()
    probe.write_bytes(b"")
    skew = abs(probe.stat().st_mtime - before)
    probe.unlink()
    yield Check("clock", "ok" if skew < CLOCK_SKEW_MAX_S else "fail", f"{skew:.3f} s from the file system's")
    free = shutil.disk_usage(out).free / 1e9
    status = "ok" if free > DISK_FREE_MIN_GB else "warn"
    yield Check("disk", status, f"{free:.1f} GB free; a day of 5 s scans takes about 0.2 GB")
    if not existed:
        out.rmdir()


def _ports() -> Iterator[Check]:
    for name, port in PORTS:
        with socket.socket() as probe:
            probe.settimeout(0.2)
            open_ = probe.connect_ex(("127.0.0.1", port)) == 0
        text = (
            "something listens on 127.0.0.1" if open_ else "nothing listens; `dolphin run` does not need it"
        )
        yield Check(name, "ok", f"{port}: {text}")


def _programs() -> Iterator[Check]:
    finders: dict[str, Callable[[], str | None]] = {"java": lambda: shutil.which("java")}
    for name, find in finders.items():
        path = find()
        yield Check(name, "ok", path or "not found; only an external Hazelcast grid needs it")
