"""A ceiling for this process's resident memory that the kernel holds (Linux), and memory given back to it."""

import ctypes
import gc
import sys
from pathlib import Path

from backends.base import Backend
from minigpt.machine.linux import sizes_of
from minigpt.machine.tools import read

try:
    import resource
except ImportError:  # Windows
    resource = None

HELD = resource is not None and sys.platform == "linux"  # where the kernel holds the ceiling
FILES_TO_COME = 32 << 20  # bytes of libraries that are mapped but not read yet


def bound(size: int) -> int | None:
    """Let this process have at most `size` bytes resident: beyond, an allocation fails instead of succeeding.

    The kernel can limit private memory (RLIMIT_DATA); what is resident of files comes on top and is subtracted.
    Memory that is reserved but was never touched counts as well, so the ceiling is kept with something to spare.
    Returns the bytes that it may still take; None where the system cannot do this (macOS).
    """
    parts = resident_parts()
    if not HELD or not parts:
        return None
    allowed = max(0, size - parts["RssFile"] - parts["RssShmem"] - FILES_TO_COME)
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (allowed if hard < 0 else min(allowed, hard), hard))
    return allowed - parts["VmData"]


def reserve() -> int:
    """Bytes below a ceiling that cannot be used: memory that counts, since it was reserved, and is never touched."""
    parts = resident_parts()
    return parts["VmData"] - parts["RssAnon"] + FILES_TO_COME if HELD and parts else 0


def release() -> None:
    """Lift the bound."""
    if HELD:
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


def resident_parts(status: Path = Path("/proc/self/status")) -> dict[str, int]:
    """Bytes of this process by kind: VmData (reserved), RssAnon, RssFile, RssShmem; empty where it cannot be read."""
    found = sizes_of(read(status))
    names = ("VmData", "RssAnon", "RssFile", "RssShmem")
    return {name: found[name] for name in names} if set(names) <= found.keys() else {}


def give_back(backend: Backend) -> None:
    """Return to the system what nothing uses any more: Python's garbage, the framework's cache, freed memory."""
    gc.collect()
    backend.runtime.clear_cache()
    trim()


def trim() -> None:
    """Give freed memory back to the system (glibc keeps it for later)."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)
