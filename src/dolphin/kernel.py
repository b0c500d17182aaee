"""The one place that chooses compiler flags.

`@kernel` turns a plain Python function into a kernel with two forms from the same source: the compiled one
and the plain one. Both give the same bits, because

1. no fast-math and no contraction: `a*b + c` is two roundings, sums run in the order written;
2. no parallel reductions;
3. kernels exclude division by zero (the `checked` mode raises on one, as plain Python does);
4. kernels use only + - * / sqrt, comparisons, frexp and ldexp; logarithms and exponentials are our own
   (`dolphin.numerics`).

The environment variable `DOLPHIN_KERNELS` chooses what `@kernel` returns: `compiled` (default), `checked`
(compiled with bounds checks) or `plain` (no compiler at all). `plain(f)` gives the plain form of a kernel in
any mode, with every kernel it calls replaced by its plain form too.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])

MODES = ("compiled", "checked", "plain")
MODE = os.environ.get("DOLPHIN_KERNELS", "compiled")
if MODE not in MODES:
    raise SystemExit(f"DOLPHIN_KERNELS is {MODE!r}, expected one of {', '.join(MODES)}")

_PLAIN_TWINS: dict[int, Callable[..., Any]] = {}
_KEEP: list[Any] = []  # ids in _PLAIN_TWINS stay valid only while their objects live
_REBUILT: dict[int, Callable[..., Any]] = {}


#: Folders that stay in the cache, and the age, in seconds since their last use, below which
#: none is removed: another process may still compile into it.
_FOLDERS_KEPT = 3
_UNUSED_S = 86_400.0


def _source_digest() -> str:
    """Digest of every source file that compiled code can come from: the packages that hold a kernel, and
    `domain`, whose constants kernels take in.

    numba checks only the file of the kernel it loads from its cache, not the files of the kernels that one
    calls: a changed callee would go unnoticed. A cache folder per digest cannot be stale.
    """
    root = Path(__file__).parent
    packages: dict[str, list[tuple[str, bytes]]] = {}
    for path in sorted(root.glob("*/**/*.py")):
        name = path.relative_to(root)
        packages.setdefault(name.parts[0], []).append((name.as_posix(), path.read_bytes()))
    digest = hashlib.sha256()
    for package, files in packages.items():
        if package == "domain" or any(b"@kernel" in source for _, source in files):
            for relative, source in files:
                digest.update(f"{relative} {len(source)} ".encode())
                digest.update(source)
    digest.update(Path(__file__).read_bytes())
    return digest.hexdigest()[:16]


def _remove_old(folder: Path) -> None:
    """Remove the caches of older sources beside `folder`: all but the newest three, and none used of late.

    Whatever does not look like such a cache stays; what cannot be removed stays too.
    """
    try:
        now = time.time()
        used = {
            path: path.stat().st_mtime
            for path in folder.parent.iterdir()
            if re.fullmatch("[0-9a-f]{16}", path.name) and path.is_dir() and not path.is_symlink()
        }
    except OSError:
        return
    used.pop(folder, None)
    for path in sorted(used, key=lambda path: -used[path])[_FOLDERS_KEPT - 1 :]:
        if now - used[path] > _UNUSED_S:
            shutil.rmtree(path, ignore_errors=True)


def _cache_root() -> Path:
    base = os.environ.get("DOLPHIN_KERNEL_CACHE") or os.environ.get("XDG_CACHE_HOME")
    return Path(base) if base else Path.home() / ".cache"


def _prepare_cache() -> bool:
    """Point numba at the cache of this source digest; False without a writable folder: nothing is cached."""
    import numba

    folder = _cache_root() / "dolphin" / "kernels" / _source_digest()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)  # last used now
    except OSError:
        return False
    if not os.access(folder, os.W_OK):
        return False
    _remove_old(folder)
    settings: Any = numba.config
    settings.CACHE_DIR = str(folder)
    return True


_CACHE = _prepare_cache() if MODE == "compiled" else False


def kernel(function: F) -> F:
    """Compile `function` for the hot path, or leave it plain: see the module's docstring."""
    if MODE == "plain":
        return function
    import numba

    compiled = numba.njit(
        cache=_CACHE,
        nogil=True,
        fastmath=False,
        error_model="python" if MODE == "checked" else "numpy",
        boundscheck=MODE == "checked",
    )(function)
    _KEEP.append(compiled)
    _PLAIN_TWINS[id(compiled)] = function
    return cast(F, compiled)


def primitive(plain_body: F) -> Callable[[Callable[..., Any]], F]:
    """Register a compiler intrinsic together with its plain body (128-bit integers only).

    Use as `mac = primitive(mac_plain)(mac_codegen)`, where `mac_codegen` follows numba's intrinsic protocol
    (typing context first). A test compares the two bodies.
    """

    def build(codegen: Callable[..., Any]) -> F:
        if MODE == "plain":
            return plain_body
        from numba.extending import intrinsic

        compiled = intrinsic(codegen)
        _KEEP.append(compiled)
        _PLAIN_TWINS[id(compiled)] = plain_body
        return cast(F, compiled)

    return build


def plain(function: F) -> F:
    """The plain Python form of a kernel, all the way down; what is no kernel comes back unchanged."""
    source = _PLAIN_TWINS.get(id(function))
    if source is None:
        return function
    done = _REBUILT.get(id(function))
    if done is not None:
        return done  # type: ignore[return-value]
    names = dict(source.__globals__)
    twin = types.FunctionType(
        source.__code__, names, source.__name__, source.__defaults__, source.__closure__
    )
    _REBUILT[id(function)] = twin
    for name, value in list(names.items()):
        if id(value) in _PLAIN_TWINS:
            names[name] = plain(value)
    return twin  # type: ignore[return-value]
