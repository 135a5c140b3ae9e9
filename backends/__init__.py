"""The array frameworks behind one small interface: `get_backend("mlx" | "torch")`, and "numpy", the reference."""

import importlib
import importlib.util

from backends.base import Backend, BackendUnavailable

BACKENDS = ("mlx", "torch")  # what a user may choose to train and answer with
REFERENCE = "numpy"  # float64 with central differences: for comparisons

__all__ = ["BACKENDS", "REFERENCE", "Backend", "BackendUnavailable", "get_backend", "installed"]


def get_backend(name: str, device: str = "auto") -> Backend:
    """The backend called `name` on `device` ("auto", "cpu" or "gpu").

    Raises BackendUnavailable when the framework is not installed or has no such device.
    """
    if name not in (*BACKENDS, REFERENCE):
        raise BackendUnavailable(f"There is no backend {name!r}; choose one of {', '.join(BACKENDS)}.")
    try:
        module = importlib.import_module(f"backends.{name}.backend")
    except ImportError as error:
        raise BackendUnavailable(
            f"The {name} backend cannot be imported ({error}). Install it with: pip install 'minigpt[{name}]'"
        ) from error
    return module.create(device)


def installed(name: str) -> bool:
    """Whether the framework's package can be found, without importing it."""
    return importlib.util.find_spec(name) is not None
