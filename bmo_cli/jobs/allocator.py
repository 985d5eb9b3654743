"""Memory that was freed is kept for the next iteration instead of going back to the system.

By default glibc returns a large activation as soon as it is freed, and the next iteration pays for
every page of it again, the more so with several jobs. No more is kept than was once in use, and
threads take theirs from one place: what each kept for itself would double it.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8  # names of mallopt(3)
_MIB = 2**20


def keep_freed_memory() -> None:
    """Set glibc's allocator for tensors of some MiB; without effect with another C library."""
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, 32 * _MIB)  # the largest that glibc takes
        mallopt(_ARENA_MAX, 1)
        mallopt(_TRIM_THRESHOLD, 1024 * _MIB)
        mallopt(_TOP_PAD, 64 * _MIB)
