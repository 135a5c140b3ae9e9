"""Whether an installed backend works here, and how fast it is: in a process of its own, which may die or hang."""

import json
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from backends import get_backend
from backends.base import Backend
from minigpt.machine import share_processors, tools

TIMEOUT = 60.0  # seconds for importing a framework on a cold disk and measuring
# What the process runs: its last line is the answer.
CODE = "import json, sys; from minigpt.machine import check; sys.stdout.write('\\n' + json.dumps(check.report({!r})))"


@dataclass(frozen=True)
class BackendCheck:
    """`error` is empty when the backend works; then the rest is known."""

    name: str
    error: str = ""
    device: str = ""
    versions: dict[str, str] | None = None
    bfloat16: bool = False
    gflops: float = 0.0  # of float32 matrix products
    bandwidth: float = 0.0  # bytes read and written per second

    @property
    def works(self) -> bool:
        return not self.error


def check_backend(name: str, run: tools.Run | None = None) -> BackendCheck:
    """What a process of its own finds out about the backend; it is given a minute."""
    command = [sys.executable, "-c", CODE.format(name)]
    said = tools.run(command, TIMEOUT) if run is None else run(command)
    try:
        return BackendCheck(name, **json.loads(said.strip().splitlines()[-1]))
    except (IndexError, ValueError, TypeError):
        return BackendCheck(name, f"its check ended without an answer within {TIMEOUT:.0f} s, or died")


def report(name: str) -> dict[str, Any]:
    """The fields of a BackendCheck beside the name, measured in this process."""
    share_processors()
    try:
        backend = get_backend(name)
        if wrong := smoke(backend):
            return {"error": wrong}
        gflops, bandwidth = matmul_rate(backend), copy_rate(backend)
    except Exception as error:  # whatever it is, the others can still be checked
        return {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
    runtime = backend.runtime
    return {"device": backend.device, "versions": runtime.versions(), "bfloat16": runtime.fast_bfloat16(),
            "gflops": gflops, "bandwidth": bandwidth}  # fmt: skip


def smoke(backend: Backend) -> str:
    """One operation with its gradient against NumPy; what is wrong, or ""."""
    draw = np.random.default_rng(0)
    x, w = (draw.standard_normal(shape).astype(np.float32) for shape in ((8, 16), (4, 16)))
    gradient = backend.value_and_grad(lambda weights, rows: ((backend.linear(rows, weights["w"]) ** 2).sum(), {}))
    (value, _), grads = gradient({"w": backend.array(w)}, backend.array(x))
    y = x @ w.T
    if not np.allclose(float(value), (y**2).sum(), rtol=1e-3):
        return f"a matrix product is wrong: {float(value):g} instead of {(y**2).sum():g}"
    if not np.allclose(backend.numpy(grads["w"]), 2 * y.T @ x, rtol=1e-2, atol=1e-2):
        return "a gradient is wrong"
    return ""


def matmul_rate(backend: Backend, seconds: float = 0.7) -> float:
    """GFLOP/s of float32 matrix products, the best of those tried in `seconds`."""
    size = 1024 if backend.device == "cpu" else 4096
    x = backend.array(np.random.default_rng(0).standard_normal((size, size)).astype(np.float32))
    return 2 * size**3 / _best(backend, lambda: x @ x, seconds) / 1e9


def copy_rate(backend: Backend, seconds: float = 0.5) -> float:
    """Bytes per second of `x += y` on arrays that no cache holds: two numbers are read and one is written."""
    numbers = 1 << (24 if backend.device == "cpu" else 27)
    x, y = backend.zeros((numbers,)), backend.zeros((numbers,))
    return 12 * numbers / _best(backend, lambda: backend.updates.add([x], [y]), seconds)


def _best(backend: Backend, work: Any, seconds: float) -> float:
    """The shortest time of one call, after one that warms up."""
    backend.sync(work())
    times, ends = [], time.perf_counter() + seconds
    while not times or time.perf_counter() < ends:
        began = time.perf_counter()
        backend.sync(work())
        times.append(time.perf_counter() - began)
    return min(times)
