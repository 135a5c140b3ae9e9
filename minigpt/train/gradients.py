"""The gradients of a step's batch: part by part where the whole does not fit, side by side where that is faster."""

from collections.abc import Callable

from backends.base import Array, Backend
from backends.tree import Tree, leaves, map_leaves, rebuild
from minigpt.data.batches import Batch, split


def accumulated(
    backend: Backend, gradient: Callable, weights: Tree, batch: Batch, parts: int, rest: Callable = lambda: None
) -> tuple[Array, dict[str, Array], Tree]:
    """(loss, metrics, gradients) of a batch computed in equal parts.

    The batch's weights sum to 1 over all parts, so the plain sums are exactly those of the whole: a mean of
    the parts' means would be wrong when the parts have different numbers of tokens. The backend's lanes share the rows
    of a part and compute at the same time. `rest` is called behind each part of several.
    """
    total, lanes = None, backend.lanes()
    for part in split(batch, parts):
        for lane, piece in zip(lanes, split(part, min(len(lanes), len(part["ids"]))), strict=False):
            with lane:
                (value, metrics), grads = gradient(weights, {key: backend.array(x) for key, x in piece.items()})
            if total is None:
                total = [value, metrics, leaves(grads)]
            else:
                total[0] = total[0] + value
                total[1] = map_leaves(lambda a, b: a + b, total[1], metrics)
                total[2] = backend.add_lists(total[2], leaves(grads))
        if parts > 1:
            backend.sync(total)
            rest()
    value, metrics, sums = total
    return value, metrics, rebuild(weights, sums)
