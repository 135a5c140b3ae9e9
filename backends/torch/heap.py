"""What glibc's malloc does with freed memory: whether the system gets it back at once, or the next step finds it there.

Memory that goes back and comes again is zeroed by the system page by page, in each step anew. Nothing is changed where
another malloc is in use.
"""

import contextlib
import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of malloc.h
SMALL = 1 << 18  # bytes
LEAST = 512 << 20  # bytes of room from which on freed memory is kept
MOST = 2**31 - 1  # what an int holds
USUAL = 32 << 20, 64 << 20  # what glibc's own thresholds grow to
_keeps = False


def return_blocks() -> None:
    """Return large blocks to the system when they are freed, so that they leave no holes between lasting ones."""
    _set(MMAP_THRESHOLD, SMALL)


def keep(room: int) -> None:
    """Keep up to `room` bytes of freed memory for the next step, where that is enough to be worth it."""
    global _keeps
    if room >= LEAST or _keeps:
        block, rest = (min(room, MOST), min(room, MOST)) if room >= LEAST else USUAL
        _set(MMAP_THRESHOLD, block)
        _set(TRIM_THRESHOLD, rest)
        _keeps = room >= LEAST


def _set(parameter: int, value: int) -> None:
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another system
        ctypes.CDLL(None).mallopt(parameter, value)
