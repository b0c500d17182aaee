"""What a long-lived process settles first, seen in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

#: A process as a command begins it: settled, then pyarrow, then threads that allocate at the same time.
#: Printed: glibc's heaps.
HEAPS = """
import ctypes, os, sys, threading
from dolphin.services.runtime import settle
if sys.argv[1] == "settled":
    settle()
import numpy as np
import pyarrow
here = threading.Barrier(4)
def work():
    here.wait()
    for _ in range(200):
        kept = [np.empty(1_000) for _ in range(20)]
    here.wait()
threads = [threading.Thread(target=work) for _ in range(4)]
[t.start() for t in threads]
[t.join() for t in threads]
libc = ctypes.CDLL(None)
libc.tmpfile.restype = ctypes.c_void_p
stream = ctypes.c_void_p(libc.tmpfile())
libc.malloc_info(0, stream)
libc.fflush(stream)
print(os.pread(libc.fileno(stream), 1 << 20, 0).decode().count("<heap nr="))
"""
#: Whether pyarrow is there when the command given settles its process.
COMMAND = """
import sys
import dolphin.services.runtime
def settled():
    print("pyarrow" in sys.modules)
    raise SystemExit
dolphin.services.runtime.settle = settled
from dolphin.cli import main
main(sys.argv[1:])
"""
LIMIT = """
import numpy as np
from dolphin.services.runtime import limit_memory
limit_memory(400)
try:
    np.ones(100 << 20)
except MemoryError:
    print("refused")
"""


CLEAN = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}


def printed(code: str, *words: str, **environ: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True, text=True, check=True, timeout=120, env=CLEAN | environ,
    )  # fmt: skip
    return done.stdout.strip()


GLIBC = hasattr(os, "confstr") and "CS_GNU_LIBC_VERSION" in os.confstr_names


@pytest.mark.skipif(not GLIBC, reason="only glibc gives each thread a heap")
def test_threads_share_one_heap() -> None:
    assert printed(HEAPS, "settled") == "1"
    assert int(printed(HEAPS, "not")) > 1, "without it there are more: else nothing is shown above"
    assert int(printed(HEAPS, "settled", MALLOC_ARENA_MAX="4")) > 1, "what the user set stays"


@pytest.mark.parametrize(
    "words", [("record", "--out", "x"), ("run", "--feed", "binance"), ("books",), ("scanner",), ("trade",)]
)
def test_a_command_that_runs_for_weeks_settles_first(words: tuple[str, ...]) -> None:
    assert printed(COMMAND, *words) == "False"


def test_memory_beyond_the_limit_is_refused() -> None:
    assert printed(LIMIT) == "refused"


def test_what_the_user_set_stays() -> None:
    code = """
import os
from dolphin.services.runtime import settle
settle()
print(os.environ["OMP_NUM_THREADS"], os.environ["ARROW_DEFAULT_MEMORY_POOL"])
"""
    assert printed(code, OMP_NUM_THREADS="3", ARROW_DEFAULT_MEMORY_POOL="mimalloc") == "3 mimalloc"
