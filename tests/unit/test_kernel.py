"""The decorator: one source, three modes, one digest; plain all the way down; caches that cannot be stale."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from dolphin import kernel as module
from dolphin.kernel import MODE, kernel, plain, primitive

ROOT = Path(__file__).parents[2]

DIGEST = """
import hashlib, sys
sys.path.insert(0, "tests/reference")
from engine_market import Spec, make_engine, make_market, run
from dolphin.domain.params import NAMED_SETS
from dolphin.kernel import MODE
from dolphin.engine import step
digest = hashlib.sha256()
for name in sorted(NAMED_SETS):
    params = NAMED_SETS[name]
    spec = Spec(n_bars=170, direction=params.direction, books="sometimes", events=True, dirty=True)
    for d in run(make_engine(params, spec.n_assets), make_market(4, spec)):
        digest.update(d.canonical())
print(MODE, hasattr(step.step, "py_func"), digest.hexdigest())
"""


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "DOLPHIN_KERNELS"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_mode_gives_the_same_digest() -> None:
    """`checked` would stop at an index outside an array; compiled code would read past it without a word."""
    told = {}
    for mode in module.MODES:
        done = python(DIGEST, DOLPHIN_KERNELS=mode)
        assert done.returncode == 0, done.stderr
        told[mode] = done.stdout.split()
    assert [told[m][:2] for m in module.MODES] == [
        ["compiled", "True"],
        ["checked", "True"],
        ["plain", "False"],
    ]
    assert len({words[2] for words in told.values()}) == 1, told


def test_compiled_is_the_default_and_another_word_is_refused() -> None:
    assert python("from dolphin.kernel import MODE; print(MODE)").stdout == "compiled\n"
    done = python("import dolphin.kernel", DOLPHIN_KERNELS="fast")
    assert done.returncode == 1
    assert done.stderr == "DOLPHIN_KERNELS is 'fast', expected one of compiled, checked, plain\n"


OUT_OF_BOUNDS = """
import numpy as np
from dolphin.kernel import kernel
@kernel
def past(values, i):
    return values[i]
past(np.zeros(3), 3)
"""


@pytest.mark.parametrize("mode", ["checked", "plain"])
def test_an_index_outside_is_an_error_where_bounds_are_checked(mode: str) -> None:
    done = python(OUT_OF_BOUNDS, DOLPHIN_KERNELS=mode)
    assert done.returncode == 1
    assert "IndexError" in done.stderr


@kernel
def inner(x: float) -> float:
    return x * x


@kernel
def middle(x: float) -> float:
    return inner(x) + 1.0


@kernel
def outer(x: float) -> float:
    return middle(x) * inner(x)


def test_the_plain_form_is_plain_all_the_way_down() -> None:
    readable = plain(outer)
    assert isinstance(readable, types.FunctionType)
    assert readable(3.0) == outer(3.0) == 90.0
    below = readable.__globals__["middle"]
    assert isinstance(below, types.FunctionType)
    assert isinstance(below.__globals__["inner"], types.FunctionType)
    if MODE != "plain":
        assert readable is not outer
        assert readable.__globals__ is not globals()
        assert below is plain(middle)
        assert readable.__globals__["inner"] is below.__globals__["inner"] is plain(inner)


def test_the_plain_form_is_made_once() -> None:
    assert plain(outer) is plain(outer)


def test_what_is_no_kernel_comes_back_unchanged() -> None:
    assert plain(len) is len


def test_a_primitive_has_a_plain_body() -> None:
    def body(x: int) -> int:
        return x + 1

    def codegen(typingctx: object, x: object) -> None:
        return None

    made = primitive(body)(codegen)
    assert plain(made) is body if MODE == "plain" else plain(made)(2) == 3


def test_the_source_digest_follows_every_kernel_s_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any package with a kernel counts, with all its files, and so do the words of `domain`."""
    fake = tmp_path / "kernel.py"
    fake.write_text("x = 1\n")
    for package in ("market", "domain", "commands"):
        (tmp_path / package).mkdir()
    market = tmp_path / "market"
    monkeypatch.setattr(module, "__file__", str(fake))
    seen = [module._source_digest()]
    (market / "helper.py").write_text("a = 1\n")
    assert module._source_digest() == seen[-1]  # no kernel in the package yet
    for path, text in (
        (market / "a.py", "@kernel\ndef a() -> int: return 1\n"),
        (market / "a.py", "@kernel\ndef a() -> int: return 2\n"),
        (market / "helper.py", "a = 2\n"),
        (tmp_path / "domain" / "codes.py", "WORD = 1\n"),
        (fake, "x = 2\n"),
    ):
        path.write_text(text)
        seen.append(module._source_digest())
    (market / "a.py").rename(market / "b.py")
    seen.append(module._source_digest())
    assert len(set(seen)) == len(seen)
    assert all(len(digest) == 16 for digest in seen)
    (tmp_path / "commands" / "other.py").write_text("print()\n")
    assert module._source_digest() == seen[-1]


def test_every_file_with_a_kernel_is_in_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    source = ROOT / "src" / "dolphin"
    read: set[str] = set()
    real = Path.read_bytes
    before = module._source_digest()
    holders = [path for path in source.rglob("*.py") if b"@kernel" in path.read_bytes()]
    assert {path.parent.name for path in holders} >= {"market", "scan", "engine", "risk", "alpha", "numerics"}
    for path in holders:

        def changed(self: Path, path: Path = path) -> bytes:
            read.add(str(self))
            return real(self) + (b"\n" if self == path else b"")

        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_bytes", changed)
            assert module._source_digest() != before, path
    assert read >= {str(path) for path in holders}


def test_old_caches_are_removed_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    names = [f"{k:016x}" for k in range(6)]
    for age, name in enumerate(names):
        (tmp_path / name / "below").mkdir(parents=True)
        (tmp_path / name / "below" / "code.nbc").write_text("x")
        os.utime(tmp_path / name, (now - age * 90_000, now - age * 90_000))
    (tmp_path / "notes").mkdir()
    (tmp_path / ("f" * 16)).write_text("a file")
    os.utime(tmp_path / "notes", (0, 0))
    (tmp_path / ("e" * 16)).symlink_to(tmp_path / "notes")
    others = {"notes", "f" * 16, "e" * 16}
    module._remove_old(tmp_path / names[0])
    assert {path.name for path in tmp_path.iterdir()} == {*names[:3], *others}
    for name in names:
        (tmp_path / name).mkdir(exist_ok=True)
        os.utime(tmp_path / name)
    module._remove_old(tmp_path / names[5])
    assert {path.name for path in tmp_path.iterdir()} == {*names, *others}  # all in use
    module._remove_old(tmp_path / "absent" / "0")

    def refuses(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "rmdir", refuses)
    for name in names:
        os.utime(tmp_path / name, (1, 1))
    module._remove_old(tmp_path / names[0])
    assert {path.name for path in tmp_path.iterdir()} == {*names, *others}


def test_the_cache_folder_is_chosen_and_may_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numba

    monkeypatch.setattr(numba.config, "CACHE_DIR", numba.config.CACHE_DIR)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("DOLPHIN_KERNEL_CACHE", str(tmp_path / "own"))
    assert module._prepare_cache()
    folder = tmp_path / "own" / "dolphin" / "kernels" / module._source_digest()
    assert folder.is_dir()
    assert Path(numba.config.CACHE_DIR) == folder
    monkeypatch.delenv("DOLPHIN_KERNEL_CACHE")
    assert module._cache_root() == tmp_path / "xdg"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert module._cache_root() == tmp_path / "home" / ".cache"


def test_without_a_writable_folder_nothing_is_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("DOLPHIN_KERNEL_CACHE", str(blocked))
    assert module._prepare_cache() is False
    monkeypatch.setenv("DOLPHIN_KERNEL_CACHE", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert module._prepare_cache() is False
