"""What a layer's leaves do to its input: one function, whatever kind of leaves a tree has at that place.

A matrix is one leaf, `weight` (out, in), or the three of a quantized one: `packed`, `scales` and `biases` (see
`backends.quantized`), or, for answers on some CPUs, `int8` (see `Int8` there). With `bias` (out,), where there is
one, this is a layer of a model without an adapter. An adapter adds (see `model.lora`) `lora_a` (r, in), `lora_b`
(out, r), `lora_scale` (), for DoRA `lora_magnitude` (out,), and, for a training step with dropout, `dropout_keys` (B,)
and `dropout_rate` (). A leaf `watch` is a function that is shown the input, for measurements (see `quantize.gptq`).
"""

import numpy as np

from backends.base import Array, Backend
from backends.tree import Tree

GOLDEN = -1640531527  # 0x9E3779B9: 2³² / golden ratio, as an int32
INVERSE = 340573321  # INVERSE · GOLDEN = 1 mod 2³²
QUANTIZED = ("packed", "scales", "biases")


def matrix_shapes(name: str, shape: tuple[int, int], bias: bool) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the leaves of a linear layer (out, in) called `name`."""
    return {f"{name}.weight": shape} | ({f"{name}.bias": shape[:1]} if bias else {})


def matrix_start(stream: np.random.Generator, leaf: str, shape: tuple[int, ...], deviation: float = 0.02) -> np.ndarray:
    """First values of a leaf of a linear layer: a bias is 0, a matrix normal with the given standard deviation."""
    if leaf.endswith("bias"):
        return np.zeros(shape, np.float32)
    return stream.standard_normal(shape, np.float32) * np.float32(deviation)


def linear(backend: Backend, w: Tree, x: Array) -> Array:
    """x (…, in) through the layer with the leaves `w`: (…, out)."""
    if "watch" in w:
        w["watch"](x)
    if "int8" in w:
        y = backend.quantized.int8.linears(x, [w["int8"]], [w.get("bias")])[0]  # (…, out)
    elif "packed" in w:
        y = backend.quantized.linear(x, w["packed"], w["scales"], w["biases"], w.get("bias"))  # (…, out)
    else:
        y = backend.linear(x, w["weight"], w.get("bias"))  # (…, out)
    return _adapted(backend, w, x, y) if "lora_a" in w else y


def linears(backend: Backend, layers: list[Tree], x: Array) -> list[Array]:
    """x (…, in) through each of several layers."""
    for leaf in ("weight", "int8"):
        if all({leaf} <= set(w) <= {leaf, "bias"} for w in layers):
            together = backend.linears if leaf == "weight" else backend.quantized.int8.linears
            return together(x, [w[leaf] for w in layers], [w.get("bias") for w in layers])
    return [linear(backend, w, x) for w in layers]


def embed(backend: Backend, w: Tree, ids: Array, width: int) -> Array:
    """The rows of a matrix (V, width) at integer ids (…,): (…, width)."""
    if "packed" not in w:
        return backend.take(w["weight"], ids)
    return matrix(backend, {name: backend.take(backend.stop_gradient(w[name]), ids) for name in QUANTIZED}, width)


def matrix(backend: Backend, w: Tree, width: int) -> Array:
    """The matrix (…, width) of a layer in floats, float32 for a quantized one."""
    if "packed" not in w:
        return w["weight"]
    packed, scales, biases = (backend.stop_gradient(w[name]) for name in QUANTIZED)
    bits = 32 * packed.shape[-1] // width
    return backend.quantized.dequantize(packed, backend.cast(scales, "float32"), backend.cast(biases, "float32"), bits)


def _adapted(backend: Backend, w: Tree, x: Array, y: Array) -> Array:
    """y + scale · B A x (Hu et al. 2021, eq. 3); with a magnitude its rows scaled as in DoRA."""
    dropped = dropout(backend, x, w["dropout_keys"], w["dropout_rate"]) if "dropout_keys" in w else x
    low = backend.linear(dropped, w["lora_a"]) * backend.cast(w["lora_scale"], backend.dtype(x))  # (…, r)
    y = y + backend.linear(low, w["lora_b"])  # (…, out)
    return _with_magnitude(backend, w, y) if "lora_magnitude" in w else y


def _with_magnitude(backend: Backend, w: Tree, y: Array) -> Array:
    """y · m / ‖W + scale · B A‖ per output, the norm without gradient (Liu et al. 2024, eq. 5 and section 4.3)."""
    whole = matrix(backend, w, w["lora_a"].shape[-1]) + w["lora_scale"] * (w["lora_b"] @ w["lora_a"])  # (out, in)
    norm = backend.stop_gradient(backend.sqrt((whole * whole).sum(axis=-1)))  # (out,)
    factor = backend.cast(w["lora_magnitude"] / norm, backend.dtype(y))
    if "bias" not in w:
        return y * factor
    bias = backend.cast(w["bias"], backend.dtype(y))
    return (y - bias) * factor + bias


def dropout(backend: Backend, x: Array, keys: Array, rate: Array) -> Array:
    """x (B, …) with a share `rate` of its values 0 and the others divided by 1 - rate (Srivastava et al. 2014).

    Which ones is a hash of the row's key (B,) int32 and the value's place in its row, the same on every backend,
    however a batch is divided and whatever is computed again. The hash of place · GOLDEN + key is computed as
    (place + key · INVERSE) · GOLDEN: torch.compile multiplies a bare place without wrapping around.
    """
    size = 1
    for extent in x.shape[1:]:
        size *= extent
    bits = _mix((backend.arange(0, size)[None, :] + keys[:, None] * INVERSE) * GOLDEN)  # (B, T · in) int32
    kept = bits >= backend.cast(rate * 2.0**32 - 2.0**31, "int32")  # int32 from -2^31 on
    factors = backend.cast(kept, backend.dtype(x)) * backend.cast(1.0 / (1.0 - rate), backend.dtype(x))
    return x * factors.reshape(x.shape)  # a third of the time of `where` and its gradient


def _mix(x: Array) -> Array:
    """int32 numbers whose high bits depend on all bits of x: Wellons' lowbias32 without its last shift.

    Products wrap and shifts are masked, so that all frameworks give the same numbers.
    """
    x = (x ^ ((x >> 16) & 0xFFFF)) * 0x7FEB352D
    return (x ^ ((x >> 15) & 0x1FFFF)) * -2073254261  # 0x846CA68B
