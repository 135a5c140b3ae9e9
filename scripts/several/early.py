"""Gradients that are summed while the backward pass still computes: torch's hooks, as its DDP uses them.

Each leaf's hook tells when its gradient is there. Leaves are put into buckets in the reverse of their order, as the
backward pass reaches them; a bucket's sum begins when all of it and all buckets before are ready, so that all
processes send the same things in the same order.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist

from backends import tree
from backends.tree import Tree

BUCKET = 1 << 18  # float32 entries of a bucket: 1 MB, the size of DDP's first one


class EarlySums:
    """`gradient(weights, batch)` whose gradients are those of all processes when it returns."""

    def __init__(self, loss: Callable):
        self.loss = loss

    def __call__(self, weights: Tree, batch: dict) -> tuple:
        inputs = [w.detach().requires_grad_() for w in tree.leaves(weights)]
        places = {i: number for number, bucket in enumerate(buckets(inputs)) for i in bucket}
        self.waiting, self.inputs, self.begun = buckets(inputs), inputs, []
        missing = [len(bucket) for bucket in self.waiting]

        def ready(place: int) -> None:
            missing[place] -= 1
            while len(self.begun) < len(missing) and missing[len(self.begun)] == 0:
                self._begin(len(self.begun))

        for i, w in enumerate(inputs):
            w.register_post_accumulate_grad_hook(lambda _, place=places[i]: ready(place))
        value, aux = self.loss(tree.rebuild(weights, inputs), batch)
        value.backward()
        for flat, work, bucket in self.begun:
            work.wait()
            for i, part in zip(bucket, flat.split([inputs[i].numel() for i in bucket]), strict=True):
                inputs[i].grad = part.view_as(inputs[i])
        return (value.detach(), aux), tree.rebuild(weights, [w.grad for w in inputs])

    def _begin(self, number: int) -> None:
        bucket = self.waiting[number]
        flat = torch.cat([self.inputs[i].grad.reshape(-1) for i in bucket])
        self.begun.append((flat, dist.all_reduce(flat, async_op=True), bucket))


def buckets(inputs: list[torch.Tensor]) -> list[list[int]]:
    """The places of the leaves, the last first, in buckets of at most BUCKET entries or a single leaf."""
    found: list[list[int]] = [[]]
    room = BUCKET
    for i in reversed(range(len(inputs))):
        if found[-1] and inputs[i].numel() > room:
            found.append([])
            room = BUCKET
        found[-1].append(i)
        room -= inputs[i].numel()
    return found
