"""Trees: nested dicts and lists whose leaves are arrays. A model, its gradients and its optimizer state are trees.

A leaf's name is its path joined with dots: `{"model": {"layers": [{"w": x}]}}` has the one leaf
`model.layers.0.w`, which is also its name in a Hugging Face checkpoint.
"""

from collections.abc import Callable, Iterator
from typing import Any

Array = Any  # an array of NumPy, MLX or torch
Tree = Any


def items(tree: Tree, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (name, leaf) pairs in the tree's own order."""
    if isinstance(tree, dict):
        children = tree.items()
    elif isinstance(tree, (list, tuple)):
        children = enumerate(tree)
    else:
        yield prefix, tree
        return
    for key, child in children:
        yield from items(child, f"{prefix}.{key}" if prefix else str(key))


def leaves(tree: Tree) -> list[Any]:
    """The leaves in the tree's own order."""
    found: list[Any] = []
    _gather(tree, found)
    return found


def names(tree: Tree) -> list[str]:
    """The leaf names in the tree's own order."""
    return [name for name, _ in items(tree)]


def map_leaves(fn: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """Apply `fn` to each leaf (and the leaves at the same place in `others`); the shape of the tree stays."""
    if isinstance(tree, dict):
        return {key: map_leaves(fn, child, *(other[key] for other in others)) for key, child in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [map_leaves(fn, child, *(other[i] for other in others)) for i, child in enumerate(tree)]
    return fn(tree, *others)


def rebuild(tree: Tree, new_leaves: list[Any]) -> Tree:
    """A tree of the same shape as `tree` with `new_leaves` in its places."""
    remaining = iter(new_leaves)
    built = _filled(tree, remaining)
    assert next(remaining, None) is None, f"{len(new_leaves)} leaves for a tree of {len(leaves(tree))}"
    return built


def arranged(tree: Tree, flat: dict[str, Any]) -> Tree:
    """A tree of the same shape and order as `tree` with the leaves of `flat` (name -> leaf) in its places.

    Raises KeyError naming the leaves that only one of the two has.
    """
    if different := sorted(set(names(tree)) ^ set(flat)):
        raise KeyError(", ".join(different[:5]))
    return rebuild(tree, [flat[name] for name in names(tree)])


def count(weights: Tree) -> int:
    """Entries of all leaves of a tree (the parameter count of a model)."""
    total = 0
    for leaf in leaves(weights):
        size = 1
        for extent in leaf.shape:
            size *= extent
        total += size
    return total


def unflatten(flat: dict[str, Any]) -> Tree:
    """The tree whose leaf names are the keys of `flat`; a dict with keys 0…n-1 becomes a list."""
    root: dict = {}
    for name, leaf in flat.items():
        *parents, last = name.split(".")
        node = root
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = leaf
    return _lists(root)


def _gather(tree: Tree, found: list[Any]) -> None:
    if isinstance(tree, (dict, list, tuple)):
        for child in tree.values() if isinstance(tree, dict) else tree:
            _gather(child, found)
    else:
        found.append(tree)


def _filled(tree: Tree, remaining: Iterator[Any]) -> Tree:
    if isinstance(tree, dict):
        return {key: _filled(child, remaining) for key, child in tree.items()}
    return [_filled(child, remaining) for child in tree] if isinstance(tree, (list, tuple)) else next(remaining)


def _lists(node: Tree) -> Tree:
    if not isinstance(node, dict):
        return node
    children = {key: _lists(child) for key, child in node.items()}
    if children and set(children) == {str(i) for i in range(len(children))}:
        return [children[str(i)] for i in range(len(children))]
    return children
