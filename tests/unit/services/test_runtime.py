"""What a long-lived process settles first, seen in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

#: Threads that allocate at the same time, and the number of glibc's heaps after it.
HEAPS = """
import ctypes, os, sys, threading
import numpy as np
from dolphin.services.runtime import share_one_heap
if sys.argv[1] == "one":
    share_one_heap()
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
LIMIT = """
import numpy as np
from dolphin.services.runtime import limit_memory
limit_memory(400)
try:
    np.ones(100 << 20)
except MemoryError:
    print("refused")
"""


def printed(code: str, *words: str, **environ: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True, text=True, check=True, timeout=120, env=os.environ | environ,
    )  # fmt: skip
    return done.stdout.strip()


@pytest.mark.skipif(
    not hasattr(os, "confstr") or "CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="glibc only"
)
def test_threads_share_one_heap() -> None:
    assert printed(HEAPS, "one") == "1"
    assert int(printed(HEAPS, "many")) > 1, "without it there are more: else nothing is shown above"


def test_memory_beyond_the_limit_is_refused() -> None:
    assert printed(LIMIT) == "refused"


def test_what_the_user_set_stays() -> None:
    code = """
import os
from dolphin.services.runtime import settle_libraries
settle_libraries()
print(os.environ["OMP_NUM_THREADS"], os.environ["ARROW_DEFAULT_MEMORY_POOL"])
"""
    assert printed(code, OMP_NUM_THREADS="3", ARROW_DEFAULT_MEMORY_POOL="mimalloc") == "3 mimalloc"
