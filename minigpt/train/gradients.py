"""The gradients of a step's batch: micro-batch by micro-batch where the whole does not fit the memory."""

from collections.abc import Callable

from backends.base import Array, Backend
from backends.tree import Tree, leaves, map_leaves, rebuild
from minigpt.data.batches import Batch, split


def accumulated(
    backend: Backend, gradient: Callable, weights: Tree, batch: Batch, micro_batches: int,
    rest: Callable = lambda: None,
) -> tuple[Array, dict[str, Array], Tree]:  # fmt: skip
    """(loss, metrics, gradients) of a batch computed in equal micro-batches.

    The batch's weights sum to 1 over all of them, so the sums are exactly those of the whole: a mean of their means
    would be wrong when they have different numbers of tokens. `rest` is called after each of several.
    """
    total = None

    def computed(rows: Batch) -> tuple:
        return gradient(weights, {key: backend.array(x) for key, x in rows.items()})

    micro_batches = min(micro_batches, len(batch["ids"]))  # one process of many may have few rows
    for micro_batch in split(batch, micro_batches):
        pieces = split(micro_batch, min(backend.lanes, len(micro_batch["ids"])))
        for (loss, metrics), grads in backend.side_by_side(computed, pieces):
            total = [loss, metrics, leaves(grads)] if total is None else _sums(backend, total, loss, metrics, grads)
        if micro_batches > 1:
            backend.sync(total)
            rest()
    loss, metrics, sums = total
    return loss, metrics, rebuild(weights, sums)


def _sums(backend: Backend, total: list, loss: Array, metrics: dict[str, Array], grads: Tree) -> list:
    return [
        total[0] + loss,
        map_leaves(lambda a, b: a + b, total[1], metrics),
        backend.updates.add(total[2], leaves(grads)),
    ]
