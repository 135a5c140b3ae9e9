"""Runs a program as `python -m comparisons.gpu PROGRAM …`, and then tells what it took of the GPU and what that can do.

PROGRAM is a module or a .py file. The last line printed is a JSON object: the most memory that tensors held, and the
rate of a large bfloat16 product.
"""

import json
import runpy
import sys
import time
from pathlib import Path

from comparisons.duel import Figures, worker

from backends.base import Array, Backend

SIZE, TIMES = 8192, 20


def on_gpu(directory: Path, program: str, *arguments: str | Path) -> tuple[Figures, str]:
    """("peak MB", "TFLOP/s") and all that PROGRAM printed, in a process of its own."""
    figures, done = worker(directory, "gpu", program, *arguments)
    return figures, done.out


def product_rate(backend: Backend) -> float:
    """TFLOP/s of a large matrix of random bfloat16 numbers times itself."""
    import numpy as np

    draw = np.random.default_rng(1)
    x = backend.array(draw.standard_normal((SIZE, SIZE), np.float32), "bfloat16")

    def products(times: int) -> float:
        backend.sync()
        began = time.perf_counter()
        last: Array | None = None
        for _ in range(times):
            last = x @ x
        backend.sync(last)
        return time.perf_counter() - began

    products(3)
    return 2e-12 * TIMES * SIZE**3 / products(TIMES)


def _run(program: str) -> None:
    try:
        if program.endswith(".py"):
            runpy.run_path(program, run_name="__main__")
        else:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if ended.code:
            raise


if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    _run(sys.argv[0])

    from backends import get_backend

    gpu = get_backend("torch", "gpu")
    peak = gpu.runtime.memory()["peak"] / 2**20
    print(json.dumps({"peak MB": peak, "TFLOP/s": product_rate(gpu)}))
