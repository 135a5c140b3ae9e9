"""Which number formats are fast here: what the processor has units for, and what some milliseconds of products show."""

import re
import sys
import time
from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import numpy as np

from backends.base import Backend
from minigpt.machine import tools

Units = Literal["matrix", "vector", "none", "unknown"]
ROWS = 512  # tokens of the product that stands for a training step's
FEED_FORWARD = 2.75  # its output's width, as a multiple of the model's
REPEATS, LONG = 5, 0.3  # of each product at most, and seconds; in turns, so that another program disturbs both
READ = 64 << 20  # bytes of float32 matrices that a row is multiplied with, at most: more than most caches hold
SURE = 1.5  # a step is more than its products: bfloat16 has to win by so much in them
NARROW = 128  # width below which a product is mostly the call


@cache
def bfloat16_units(system: str = sys.platform, read: tools.Read = tools.read, run: tools.Run = tools.run) -> Units:
    """What this processor computes bfloat16 with: matrix units (AMX, Arm's BFMMLA), vector instructions, or nothing."""
    if system == "darwin":
        told = run(("sysctl", "-n", "hw.optional.arm.FEAT_BF16")).strip()
        return {"1": "vector", "0": "none"}.get(told, "unknown")
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", read("/proc/cpuinfo"), re.MULTILINE)
    if found is None:
        return "unknown"
    flags = set(found[1].split())
    if flags & {"amx_bf16", "bf16"}:
        return "matrix"
    return "vector" if "avx512_bf16" in flags else "none"


@cache
def bfloat16_speed(backend: Backend, width: int) -> float:
    """How many times as fast as in float32 a layer's product is in bfloat16 (below 1: slower); measured once."""
    draw = np.random.default_rng(0)
    shapes = (ROWS, width), (int(FEED_FORWARD * width), width)
    arrays = [backend.array(draw.standard_normal(shape).astype(np.float32)) for shape in shapes]
    narrow = [backend.cast(array, "bfloat16") for array in arrays]
    exact, rounded = _shortest(backend, lambda: backend.linear(*arrays), lambda: backend.linear(*narrow))
    return exact / rounded


@cache
def int8_speed(backend: Backend, shapes: tuple[tuple[int, int], ...]) -> float:
    """How many times as fast as floats one row's products with matrices (out, in) are in 8 bits; measured once.

    0 where the backend has no such product. `shapes` are all of a model's, so that as in a real answer what a cache
    cannot hold is read from memory.
    """
    if backend.quantized.int8 is None:
        return 0.0
    floats, codes, row, size = [], [], {}, 0
    for out, width in shapes:
        weight = np.full((out, width), 0.01, np.float32)
        matrix = backend.quantized.int8.matrix(weight)
        row.setdefault(width, backend.array(np.ones((1, 1, width), np.float32)))
        floats.append((row[width], backend.array(weight)))
        codes.append((row[width], matrix))
        size += weight.nbytes
        if size >= READ:
            break
    if not codes:
        return 0.0
    exact, rounded = _shortest(
        backend,
        lambda: [backend.linears(x, [weight], [None])[0] for x, weight in floats],
        lambda: [backend.quantized.int8.linears(x, [matrix], [None])[0] for x, matrix in codes],
    )
    return exact / rounded


def chosen_dtype(backend: Backend, width: int) -> str:
    """What "auto" means: bfloat16 on GPUs that compute it natively and on CPUs with matrix units that prove faster."""
    if backend.device == "gpu":
        return "bfloat16" if backend.runtime.fast_bfloat16() else "float32"
    if bfloat16_units() != "matrix" or width < NARROW:
        return "float32"
    return "bfloat16" if bfloat16_speed(backend, width) >= SURE else "float32"


def dtype_note(backend: Backend, wanted: str, width: int) -> str:
    """A sentence on a format that is slow here, or that was chosen for its speed; "" when there is nothing to say."""
    if wanted == "bfloat16" and not backend.runtime.fast_bfloat16():
        speed = bfloat16_speed(backend, width)
        lack = _lack(backend, bfloat16_units())
        advice = '"auto" takes what is faster'
        return f"bfloat16 is slow here{lack}: products take {1 / speed:.1f}× as long as in float32 (measured); " \
               f"dtype = {advice}." if speed < 1 else ""  # fmt: skip
    if wanted == "auto" and backend.device == "cpu" and chosen_dtype(backend, width) == "bfloat16":
        speed = bfloat16_speed(backend, width)
        return f'Computing in bfloat16, whose products are {speed:.1f}× as fast here (measured); dtype = "float32" ' \
               "is more exact."  # fmt: skip
    return ""


def _lack(backend: Backend, units: Units) -> str:
    if backend.device == "gpu":
        return " (this GPU emulates it)"
    return " (this processor has no units for it)" if units == "none" else ""


def _shortest(backend: Backend, *works: Callable[[], Any]) -> list[float]:
    """The shortest seconds of each, measured in turns after one call each that warms up."""
    times: list[list[float]] = [[] for _ in works]
    ends = time.perf_counter() + LONG
    for repeat in range(REPEATS + 1):
        for work, taken in zip(works, times, strict=True):
            began = time.perf_counter()
            backend.sync(work())
            taken.append(time.perf_counter() - began)
        if repeat and time.perf_counter() > ends:
            break
    return [min(taken[1:]) for taken in times]
