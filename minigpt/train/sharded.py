"""Moments shared out: each process keeps and updates those of its own leaves, and gives the others the result.

ZeRO's first stage (Rajbhandari et al. 2020), by whole leaves as torch's ZeroRedundancyOptimizer has it, so that Muon's
matrices stay whole: of 8 bytes of AdamW's moments for a parameter, N processes keep 8/N each.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from backends.base import Array, Backend
from backends.tree import Tree, items, leaves, rebuild
from minigpt.sections import StageConfig
from minigpt.train.optim import Optimizer
from minigpt.train.together import RANKS, Together, fitting


def owners(sizes: Sequence[int], processes: int) -> list[int]:
    """The process of each leaf: from the largest to the smallest, each to the one with the least so far."""
    found, held = [0] * len(sizes), [0] * processes
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        found[i] = min(range(processes), key=lambda rank: (held[rank], rank))
        held[found[i]] += sizes[i]
    return found


class ShardedOptimizer(Optimizer):
    """Updates the leaves that are this process's own, and takes the others from theirs."""

    def __init__(self, backend: Backend, config: StageConfig, weights: Tree):
        super().__init__(backend, config, weights)
        self.shapes = {name: tuple(w.shape) for name, w in items(weights)}
        self.owners = owners([int(np.prod(shape)) for shape in self.shapes.values()], backend.group.size)
        self.whole = {"first": self.names, "second": [self.names[i] for i in self.adamw]}
        own = {i for i, rank in enumerate(self.owners) if rank == backend.group.rank}
        self.decays = [decay for i, decay in zip(self.adamw, self.decays, strict=True) if i in own]
        self.muon, self.adamw = ([i for i in indices if i in own] for indices in (self.muon, self.adamw))

    def update(self, weights: Tree, grads: list[Array], state: Tree, step: int) -> tuple[Tree, Tree]:
        weights, state = super().update(weights, grads, state, step)
        return rebuild(weights, self.backend.group.spread(leaves(weights), self.owners)), state


class ShardedMoments(Together):
    """Processes of which each has the moments of its own leaves. Checkpoints have all of them, as ever."""

    def optimizer(self, config: StageConfig, weights: Tree) -> Optimizer:
        self._optimizer = ShardedOptimizer(self.backend, config, weights)
        return self._optimizer

    def kept(self, moments: Tree) -> Tree:
        """All moments as NumPy arrays on the first process, which writes them; they are sent one by one."""
        return self._through(lambda kind, name: moments[kind].get(name), self._to_first)

    def loaded(self, load: Callable[[Any], tuple[Tree, Tree, dict]], weights: Tree, moments: Tree) -> tuple:
        """As in `Together`; the first process reads all moments, and each gets its own."""
        found: dict[str, Any] = {}
        shapes = self._optimizer.shapes
        whole = {kind: {name: np.broadcast_to(np.float32(0), shapes[name]) for name in wanted}
                 for kind, wanted in self._optimizer.whole.items()}  # fmt: skip

        def read() -> dict:
            arrays, optim, state = load(fitting(whole, weights))
            found["weights"] = arrays if callable(optim) else self._arrays(arrays)
            found["moments"] = None if callable(optim) else optim.get(RANKS, {"0": optim})["0"]
            return {"state": state, "begins": callable(optim)}

        told = self.group.first(read)
        weights = self.group.share(found.get("weights", weights))
        if not told["begins"]:
            given = found.get("moments") or {}
            moments = self._through(
                lambda kind, name: self.backend.array(given[kind][name]) if given else None, self._to_owner
            )
        return weights, moments, told["state"]

    def _through(self, have: Callable[[str, str], Array | None], take: Callable) -> Tree:
        """{kind: {name: …}} of what `take(array, owner)` makes of each moment; None is left out."""
        owner = dict(zip(self._optimizer.names, self._optimizer.owners, strict=True))
        found: Tree = {}
        for kind, wanted in self._optimizer.whole.items():
            found[kind] = {}
            for name in wanted:
                mine = have(kind, name)
                array = self.backend.zeros(self._optimizer.shapes[name]) if mine is None else mine
                taken = take(array, owner[name])
                found[kind] |= {} if taken is None else {name: taken}
        return found

    def _to_first(self, array: Array, owner: int) -> np.ndarray | None:
        [array] = self.group.spread([array], [owner])
        return self.backend.numpy(array) if self.group.rank == 0 else None

    def _to_owner(self, array: Array, owner: int) -> Array | None:
        [array] = self.group.spread([array], [0])
        return array if self.group.rank == owner else None
