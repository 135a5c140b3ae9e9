"""What this machine offers: which backend and number format suit it."""

import platform
import sys

from backends import Backend, BackendUnavailable, get_backend, installed
from minigpt.errors import MiniGPTError, UsageError


def choose_backend(name: str = "auto", device: str = "auto") -> tuple[Backend, str]:
    """The backend and the reason for it. "auto" is MLX on Apple Silicon, torch elsewhere.

    Raises UsageError for an unknown name and MiniGPTError when it is not installed.
    """
    if name not in ("auto", "mlx", "torch"):
        raise UsageError(f"There is no backend {name!r}.", "Choose auto, mlx or torch.")
    reason = "asked for"
    if name == "auto":
        apple = sys.platform == "darwin" and platform.machine() == "arm64"
        name, reason = ("mlx", "Apple Silicon") if apple else ("torch", "no Apple GPU here")
        if not installed(name):
            other = "torch" if name == "mlx" else "mlx"
            name, reason = other, f"{name} is not installed"
    try:
        return get_backend(name, device), reason
    except BackendUnavailable as error:
        raise MiniGPTError(str(error)) from None


def choose_dtype(backend: Backend, wanted: str) -> str:
    """The compute dtype: "auto" is bfloat16 where the device computes it natively, else float32."""
    if wanted != "auto":
        return wanted
    return "bfloat16" if backend.fast_bfloat16() else "float32"
