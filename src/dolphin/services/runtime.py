"""What a process that runs for weeks settles first: its libraries' threads, its heap, its memory limit.

Entry points: `ENVIRONMENT`, `settle`, `limit_memory`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
from typing import Final

#: One thread a library: a threaded BLAS is up to ten times slower on small matrices. Arrow's own allocator
#: reserves 1 GiB at once, which would count against the limit. glibc gives each thread a heap of its own, up
#: to eight a core: what one thread makes and another lets go (a book, a row of features, a part to be
#: written) leaves holes in all of them. The book service was 45 MB larger for it and grew by 15 MB an hour.
ENVIRONMENT: Final = {
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "MALLOC_ARENA_MAX": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
MIB: Final = 1024 * 1024
#: Of <malloc.h>.
_M_ARENA_MAX: Final = -8


def settle() -> None:
    """Set `ENVIRONMENT` where the user did not, for a process that was started without it.

    The first thing that a command does: pyarrow's import starts a thread, and a thread that has a heap keeps
    it. The C library has read its own variable by then and is told by a call; one that is not glibc has
    neither variable nor call, and is left as it is.
    """
    own = "MALLOC_ARENA_MAX" in os.environ
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if not own:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def limit_memory(megabytes: int) -> None:
    """Let the kernel refuse private memory beyond this (MiB): an allocation then raises MemoryError."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = megabytes * MIB
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))
