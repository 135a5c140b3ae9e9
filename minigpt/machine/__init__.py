"""What this machine offers: which backend and number format suit it."""

import os
import platform
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from minigpt.errors import MiniGPTError, check_name

if TYPE_CHECKING:
    from backends.base import Backend


def share_processors() -> None:
    """Tell torch's OpenMP threads to sleep soon when they wait, before torch is imported.

    By default they spin for milliseconds: beside two busy programs a step of 0.8 M parameters then took 3,100 ms in
    place of 500 (two cores). Alone, 10,000 turns cost 2 %, as operations follow each other within them; 1,000 cost
    30 %, and took longer beside others as well. A user's own settings are left alone.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def choose_backend(name: str = "auto", device: str = "auto") -> tuple["Backend", str]:
    """The backend and the reason for it. "auto" is MLX on Apple Silicon, torch elsewhere.

    Raises UsageError for an unknown name and MiniGPTError when it is not installed.
    """
    from backends import BACKENDS, get_backend, installed
    from backends.base import BackendUnavailable

    check_name("backend", name, ("auto", *BACKENDS))
    reason = "asked for"
    if name == "auto":
        name, reason = choose(is_apple(), [known for known in BACKENDS if installed(known)])
    share_processors()
    try:
        return get_backend(name, device), reason
    except BackendUnavailable as error:
        raise MiniGPTError(str(error)) from None


def is_apple() -> bool:
    """Whether this is an Apple chip, and Python is built for it."""
    return sys.platform == "darwin" and platform.machine() == "arm64"


def choose(apple: bool, installed: Sequence[str]) -> tuple[str, str]:
    """(backend, reason) of "auto": MLX on an Apple chip, torch elsewhere, the other one where that is missing."""
    name, reason = ("mlx", "Apple Silicon") if apple else ("torch", "no Apple GPU here")
    if name in installed:
        return name, reason
    return {"mlx": "torch", "torch": "mlx"}[name], f"{name} is not installed"


def choose_dtype(backend: "Backend", wanted: str, width: int = 512) -> str:
    """The dtype of training a model `width` wide: "auto" is bfloat16 where that is faster, else float32.

    `formats.dtype_note` has a sentence about it for the user.
    """
    from minigpt.machine.formats import chosen_dtype

    return chosen_dtype(backend, width) if wanted == "auto" else wanted
