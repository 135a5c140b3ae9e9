"""What a layer's leaves do to its input: one function, whatever kind of leaves a tree has at that place.

A matrix is one leaf, `weight` (rows, in), or the three of a quantized one: `packed`, `scales` and `biases`
(see `Backend.quantize`).
"""

from backends.base import Array, Backend
from backends.tree import Tree


def linear(backend: Backend, w: Tree, x: Array) -> Array:
    """x (…, in) through the layer with a matrix (out, in) and, where there is one, `bias` (out,)."""
    if "packed" in w:
        return backend.quantized_linear(x, w["packed"], w["scales"], w["biases"], w.get("bias"))
    return backend.linear(x, w["weight"], w.get("bias"))


def embed(backend: Backend, w: Tree, ids: Array, width: int) -> Array:
    """The rows of a matrix (V, width) at integer ids (…,): (…, width)."""
    if "packed" not in w:
        return backend.take(w["weight"], ids)
    rows = [backend.take(backend.stop_gradient(w[name]), ids) for name in ("packed", "scales", "biases")]
    scales, biases = (backend.cast(leaf, "float32") for leaf in rows[1:])
    return backend.dequantize(rows[0], scales, biases, 32 * rows[0].shape[-1] // width)
