"""What a framework tells of itself and can be told: memory, limits, versions. Here that of a CPU without any of it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backends.base import Backend


class Runtime:
    """The framework as a program on a machine."""

    def __init__(self, backend: "Backend"):
        self.backend = backend

    def memory(self) -> dict[str, int]:
        """Bytes: {"active": …, "peak": …} as far as the framework counts them (zeros where it does not)."""
        return {"active": 0, "peak": 0}

    def set_limits(self, memory: int | None = None, cache: int | None = None, threads: int | None = None) -> None:
        """Bound the framework's memory and cache (bytes) and its CPU threads where it can be told to; None: freely."""

    def clear_cache(self) -> None:
        """Give memory that is not in use back."""

    def shares_memory(self) -> bool:
        """Whether arrays live in the machine's main memory (CPUs and Apple's GPUs), not in a GPU's own."""
        return True

    def fast_bfloat16(self) -> bool:
        """Whether a GPU computes bfloat16 natively (Apple's M1 and M2 emulate it). CPUs stay exact unless asked."""
        return False

    def repeat_exactly(self, wanted: bool) -> None:
        """Whether the same computation must give the same bits every time, where that is not so by itself."""

    def versions(self) -> dict[str, str]:
        """Names and versions of what computes here, for reports; a backend adds its own name and version."""
        return {"device": self.backend.device}
