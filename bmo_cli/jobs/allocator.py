"""Settings of glibc's allocator that keep freed memory for the next iteration.

By default glibc returns a large tensor to the system when it is freed, and the next iteration pays
for a page fault on every page of it. With these settings the process keeps at most the memory that
was once in use. All threads share one arena: with an arena a thread, the kept memory would double.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8  # names of mallopt(3)
_MIB = 2**20


def keep_freed_memory() -> None:
    """Set glibc's allocator for tensors of some MiB. No effect with another C library."""
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, 32 * _MIB)  # the largest value that glibc accepts
        mallopt(_ARENA_MAX, 1)
        mallopt(_TRIM_THRESHOLD, 1024 * _MIB)
        mallopt(_TOP_PAD, 64 * _MIB)
