"""What a layer's leaves do to its input: one function, whatever kind of leaves a tree has at that place."""

from backends.base import Array, Backend
from backends.tree import Tree


def linear(backend: Backend, w: Tree, x: Array) -> Array:
    """x (…, in) through the layer with the leaves `weight` (out, in) and, where there is one, `bias` (out,)."""
    return backend.linear(x, w["weight"], w.get("bias"))
