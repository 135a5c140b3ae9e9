"""The array frameworks behind one small interface: `get_backend("mlx" | "torch")`."""

import importlib
import importlib.util

from backends.base import Backend, BackendUnavailable

BACKENDS = ("mlx", "torch")

__all__ = ["BACKENDS", "Backend", "BackendUnavailable", "get_backend", "installed"]


def get_backend(name: str, device: str = "auto") -> Backend:
    """The backend called `name` on `device` ("auto", "cpu" or "gpu").

    Raises BackendUnavailable when the framework is not installed or has no such device.
    """
    if name not in BACKENDS:
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
    return importlib.util.find_spec({"mlx": "mlx", "torch": "torch"}[name]) is not None
