"""What the backends must know of the processor."""

import os
import platform
from functools import cache
from pathlib import Path


@cache
def made_by_amd() -> bool:
    """Whether this is an x86 processor of AMD's, on which Intel's MKL has slow paths."""
    return "AuthenticAMD" in _described()


def _described() -> str:
    """What the system says of its processor, with the maker's name."""
    try:
        return Path("/proc/cpuinfo").read_text("utf-8", "replace")[:4096]
    except OSError:
        return f"{platform.processor()} {os.environ.get('PROCESSOR_IDENTIFIER', '')}"
