"""A fast BLAS for MLX's Linux wheel, which ships a reference one, 30 times slower than torch's library.

The symbols are found when the library is loaded globally before `mlx.core` is. Macs use Accelerate.
"""

import ctypes
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def _load() -> ctypes.CDLL | None:
    if sys.platform != "linux" or "mlx.core" in sys.modules:
        return None
    torch = importlib.util.find_spec("torch")
    library = Path(torch.origin).parent / "lib" / "libtorch_cpu.so" if torch and torch.origin else None
    return ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL) if library is not None and library.exists() else None


BLAS = _load()


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Each product within is computed by one thread: that of its lane. Two would wait for each other's cores."""
    count = getattr(BLAS, "MKL_Get_Max_Threads", None)
    choose = getattr(BLAS, "mkl_serv_set_num_threads", None)  # the public name is not in torch's library
    if count is None or choose is None:
        yield
        return
    before = count()
    choose(1)
    try:
        yield
    finally:
        choose(before)
