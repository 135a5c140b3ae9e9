"""Products of rows with float32 weights on a CPU, where nothing is learned: the kernel that takes least, as measured.

torch gives such a product to Intel's MKL. With 16 to 48 rows that is faster as W xᵀ. On AMD's processors MKL reads the
weight of a single row at a quarter of the memory's speed, at full speed as W xᵀ for two rows that stay in the nearest
cache (an EPYC of 2024: 0.1 ms in place of 0.3 for 1,408 × 512 numbers), and oneDNN is ahead for all others.
"""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F

from backends.processor import made_by_amd

TURNED, LARGE = range(16, 49), 2**18  # rows, and entries of a weight, that an Intel processor multiplies as W xᵀ
NEAR, SMALL = 3072, 2**14  # entries of all rows, and of a weight, from which an AMD processor does
Array = torch.Tensor


def products(x: Array, weights: list[Array], biases: list[Array | None]) -> list[Array]:
    """x (…, in) float32 times each weight (out, in) transposed, plus its bias (out,): (…, out). Has no gradient."""
    width = x.shape[-1]
    count, pairs = x.numel() // width, zip(weights, biases, strict=True)
    if not on_amd() and count not in TURNED:
        return [F.linear(x, w, b) for w, b in pairs]
    rows = x.reshape(-1, width)
    if not on_amd():
        return [_turned(x, rows.T, w, b) if w.numel() >= LARGE else F.linear(x, w, b) for w, b in pairs]
    if max(count, 2) * width > NEAR:
        return [_onednn()(x, w, b, "none", [], "") if w.numel() >= LARGE else F.linear(x, w, b) for w, b in pairs]
    columns = (torch.cat([rows, rows]) if count == 1 else rows).T
    return [_turned(x, columns, w, b) if w.numel() >= SMALL else F.linear(x, w, b) for w, b in pairs]


@cache
def on_amd() -> bool:
    """Whether MKL computes on a processor of AMD, and oneDNN is there to help."""
    libraries = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    return libraries and hasattr(torch.ops.mkldnn, "_linear_pointwise") and made_by_amd()


def _turned(x: Array, columns: Array, weight: Array, bias: Array | None) -> Array:
    """The product of `columns` (in, rows), which are those of x, or a single one twice. May lie turned in memory."""
    y = torch.mm(weight, columns)  # (out, rows)
    if x.numel() == x.shape[-1]:
        y = y[:, 0].view(*x.shape[:-1], -1)
    else:
        y = y.T if len(weight) > x.shape[-1] else y.T.contiguous()  # a wider layer's copy would cost the gain
        y = y.reshape(*x.shape[:-1], -1)
    return y if bias is None else y + bias


@cache
def _onednn() -> Any:
    return torch.ops.mkldnn._linear_pointwise.default  # looked up once: by its short name torch tries all overloads
