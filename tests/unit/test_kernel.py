"""The decorator: one source, three modes, one digest; plain all the way down; caches that cannot be stale."""

from __future__ import annotations

import os
import subprocess
import sys
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
    fake = tmp_path / "kernel.py"
    fake.write_text("x = 1\n")
    alpha = tmp_path / "alpha"
    alpha.mkdir()
    monkeypatch.setattr(module, "__file__", str(fake))
    seen = {module._source_digest()}
    (alpha / "a.py").write_text("a = 1\n")
    seen.add(module._source_digest())
    (alpha / "a.py").write_text("a = 2\n")
    seen.add(module._source_digest())
    (alpha / "a.py").rename(alpha / "b.py")
    seen.add(module._source_digest())
    fake.write_text("x = 2\n")
    seen.add(module._source_digest())
    assert len(seen) == 5
    assert all(len(digest) == 16 for digest in seen)
    (tmp_path / "other.py").write_text("not a kernel's folder")
    assert module._source_digest() in seen


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
