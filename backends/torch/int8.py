"""Products with matrices in 8 bits on CPUs: a quarter of the bytes to read, multiplied as whole numbers.

Each row of a matrix has one scale, and so has each row of the input: both are rounded to -127 … 127, sums are exact.
A row is rounded by itself, so that a text in a batch is treated as it is alone. (llama.cpp's q8_0 rounds inputs as
well, in groups of 32.) Groups within a row of the matrix, as files have them, would cost several products each:
measured, they lose against floats.
"""

import math
import warnings
from functools import cache
from typing import Any

import numpy as np
import torch

SMALLEST = 1e-30  # in place of 0 for the largest number of a row


@cache
def available() -> bool:
    """Whether torch has the product here and computes it rightly: older processors clip sums to 16 bits."""
    try:
        ones = torch.ones(8, 64)
        return bool(torch.allclose(products(ones, [packed(ones)])[0], torch.full((8, 8), 64.0)))
    except (AttributeError, RuntimeError):
        return False


def packed(weight: torch.Tensor) -> Any:
    """A float32 matrix (out, in) as torch's kernels want it, an object of their own."""
    scales = weight.abs().amax(dim=1).clamp_min_(SMALLEST) / 127
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's plan to drop these tensors; `available` sees when it has
        codes = torch.quantize_per_channel(weight, scales, torch.zeros_like(scales).long(), 0, torch.qint8)
    return torch.ops.quantized.linear_prepack(codes, None)


def products(x: torch.Tensor, matrices: list[Any]) -> list[torch.Tensor]:
    """x (…, in) float32 times each packed matrix (out, in) transposed: (…, out). Has no gradient.

    The kernel knows one scale for the whole input, so it gets rows whose largest number is 127; it adds 128.
    """
    rows = x.reshape(-1, x.shape[-1])
    scales = torch.linalg.vector_norm(rows, math.inf, -1, keepdim=True).clamp_min_(SMALLEST).mul_(1 / 127)  # (N, 1)
    scaled, shape = rows / scales, x.shape[:-1]
    return [_kernel()(scaled, 1.0, 128, matrix).mul_(scales).reshape(*shape, -1) for matrix in matrices]


@cache
def _kernel() -> Any:
    """Looked up once: by its short name torch goes through its overloads at every call."""
    return torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default


class Products:
    """`backends.quantized.Int8` with these kernels."""

    def matrix(self, weight: np.ndarray) -> Any:
        return packed(torch.tensor(weight, dtype=torch.float32))

    def linears(self, x: torch.Tensor, matrices: list[Any], biases: list[torch.Tensor | None]) -> list[torch.Tensor]:
        ys = [y.to(x.dtype) for y in products(x.float(), matrices)]
        return [y if bias is None else y + bias.to(x.dtype) for y, bias in zip(ys, biases, strict=True)]
