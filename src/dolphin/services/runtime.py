"""What a process that runs for weeks settles first: its libraries' threads, its heap, its memory limit.

Entry points: `ENVIRONMENT`, `settle_libraries`, `share_one_heap`, `limit_memory`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
from typing import Final

#: One thread a library: a threaded BLAS is up to ten times slower on small matrices. Arrow's own allocator
#: reserves 1 GiB at once, which would count against the limit.
ENVIRONMENT: Final = {
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "MKL_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
_MIB: Final = 1024 * 1024
#: Of <malloc.h>.
_M_ARENA_MAX: Final = -8


def settle_libraries() -> None:
    """Set `ENVIRONMENT` where the user did not; before numpy or pyarrow are imported."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def share_one_heap() -> None:
    """Let all threads allocate from one heap; before they are started. Only glibc has more than one.

    glibc gives each thread a heap of its own, up to eight a core. What one thread makes and another lets go
    (a book, a row of features, a part to be written) leaves holes in all of them: a process of six threads
    grew by 15 MB an hour and was 45 MB larger than with one. The interpreter's lock leaves nothing to win by
    more.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def limit_memory(megabytes: int) -> None:
    """Let the kernel refuse private memory beyond this (MiB): an allocation then raises MemoryError."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = megabytes * _MIB
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))
