"""What the processes of a training do together: each computes its rows, and all decide from the same numbers."""

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from backends.base import Array, Backend
from backends.tree import Tree, items, leaves, map_leaves, rebuild
from minigpt.data.batches import Batch, filled, split
from minigpt.errors import MiniGPTError, UsageError
from minigpt.sections import StageConfig
from minigpt.store.stage import AVERAGE, StageStore
from minigpt.train.health import Verdict
from minigpt.train.optim import Optimizer, begun_average

T = TypeVar("T")
FULL = "full"  # the value of StageConfig.shard with which each process has a part of the weights
RANKS = "ranks"  # in a checkpoint with outer steps: the moments of each process (see minigpt.train.outer)


class Together:
    """The processes of `backend.group`; of a single one everything passes through unchanged.

    Gradients travel as `transfer`: bfloat16 is half the traffic, and keeps three digits of each.
    """

    def __init__(self, backend: Backend, transfer: str = "float32"):
        self.backend, self.group, self.transfer = backend, backend.group, transfer
        self._asked: list[tuple[Callable[[], Any], Sequence[Any]]] = []
        self._votes: Array | None = None  # of the last step: a sum over the processes

    def rows(self, batch: Batch) -> Batch:
        """This process's rows of a step's batch, an empty one at least; the loss weights of all sum to 1."""
        size = self.group.size
        return batch if size == 1 else split(filled(batch, size), size)[self.group.rank]

    def summed(self, loss: Array, metrics: dict[str, Array], grads: Tree) -> tuple[Array, dict[str, Array], Tree]:
        """Loss, metrics and gradients of the whole batch: one exchange, in which the processes' votes travel too."""
        if self.group.size == 1:
            return loss, metrics, grads
        given = [(ask(), choices) for ask, choices in self._asked]
        votes = [float(answer == one) for answer, choices in given for one in choices]
        own = self.backend.array(np.array([*votes, 0.0], np.float32))
        sent = [self.backend.cast(x, self.transfer) for x in leaves(grads)]
        loss, *found = self.group.sum([loss, *metrics.values(), own, *sent])
        count = len(metrics)
        self._votes = found[count]
        whole = [self.backend.cast(x, "float32") for x in found[count + 1 :]]
        return loss, dict(zip(metrics, found[:count], strict=True)), rebuild(grads, whole)

    def agreed(self, ask: Callable[[], T], choices: Sequence[T]) -> Callable[[], T | None]:
        """A question whose answer is the same in all processes: the first of `choices` that one of them gave.

        It is asked once a step, before the exchange, and answered after it; None where nobody gave any of them.
        Alone it is `ask` itself.
        """
        if self.group.size == 1:
            return ask
        first = sum(len(known) for _, known in self._asked)
        self._asked.append((ask, choices))

        def answer() -> T | None:
            found = self.backend.numpy(self._votes)[first : first + len(choices)]
            return next((one for one, votes in zip(choices, found, strict=True) if votes > 0), None)

        return answer

    def judged(self, verdict: Verdict) -> Verdict:
        """What all do with a step that this process judges so: the same, as all have the same numbers."""
        return verdict

    def optimizer(self, config: StageConfig, weights: Tree) -> Optimizer:
        """What updates the weights: in all processes alike."""
        return Optimizer(self.backend, config, weights)

    def saved(self, store: StageStore, weights: Tree, moments: Tree, state: dict[str, Any], keep: int) -> Path:
        """The checkpoint that the first process wrote."""
        return store.save(self.backend, weights, self.kept(moments), state, keep)

    def kept(self, moments: Tree) -> Tree:
        """What a checkpoint keeps of the optimizer: arrays of the backend or of NumPy."""
        return moments

    def loaded(self, load: Callable[[Any], tuple[Tree, Tree, dict]], weights: Tree, moments: Tree) -> tuple:
        """(weights, moments, state) that `load` returns on the first process, which alone reads and tidies the disk.

        It is called with what the optimizer's arrays must fit (see StageStore.resume); all come as NumPy arrays.
        """
        found: dict[str, Any] = {}

        def read() -> dict:
            arrays, optim, state = load(fitting(moments, weights))
            found["weights"], found["moments"] = arrays, moments
            if not callable(optim):
                found["weights"] = self._arrays(arrays)
                kept = self._arrays(optim.get(RANKS, {"0": optim})["0"])
                found["moments"] = {kind: kept[kind] if kind in kept else begun_average(found["weights"])
                                    for kind in moments}  # fmt: skip
            return state

        if self.group.size == 1:
            state = read()
            return found["weights"], found["moments"], state

        state = self.group.first(read)
        trees = found.get("weights", weights), found.get("moments", moments)
        return self.group.share(trees[0]), self.group.share(trees[1]), state

    def _arrays(self, tree: Tree) -> Tree:
        return map_leaves(self.backend.array, tree)

    def check_weights(self, weights: Tree, step: int) -> None:
        """Raises MiniGPTError when the processes' weights, which all updated alike, are not the same bits."""
        if self.group.size == 1:
            return
        found = self.group.gather(_checksum(self.backend, weights))
        for rank, one in enumerate(found):
            if one != found[0]:
                raise MiniGPTError(
                    f"After step {step:,} the weights of rank {rank} are not those of rank 0.",
                    "The machines compute differently: give all the same processors and versions.",
                )


def fitting(moments: Tree, weights: Tree) -> Callable[[dict[str, Any]], Tree]:
    """What the optimizer's arrays in a checkpoint must fit: `moments`, or those of each process and outer momentum.

    Averages of the weights are there if the checkpoint was made with them.
    """
    named = dict(items(weights))
    plain = {kind: tree for kind, tree in moments.items() if kind != AVERAGE}

    def wanted(flat: dict[str, Any]) -> Tree:
        ranks = {name.split(".")[1] for name in flat if name.startswith(f"{RANKS}.")}
        if ranks:
            return {RANKS: {rank: plain for rank in sorted(ranks, key=int)}, "outer": named}
        return plain | ({AVERAGE: named} if any(name.startswith(f"{AVERAGE}.") for name in flat) else {})

    return wanted


def check_rows(batch_size: int, stage: str, size: int) -> None:
    """Raises UsageError when a step has fewer rows than there are processes."""
    if batch_size < size:
        raise UsageError(
            f"{stage}.batch_size = {batch_size} rows cannot be shared out between {size} processes.",
            f"Give --processes {batch_size} at most, or a larger batch.",
        )


def check_weights_are_whole(config: StageConfig, stage: str, asked: bool, size: int) -> None:
    """Raises UsageError where given batches ask for weights that no process has whole, or each has its own of."""
    if asked and size > 1 and (config.outer_every or config.shard == FULL):
        setting = f"outer_every = {config.outer_every}" if config.outer_every else f"shard = '{FULL}'"
        raise UsageError(
            f"The given batches(step, weights) ask for weights, which the processes do not share with "
            f"{stage}.{setting}.",
            "Write batches(step) if they do not need them, or train without that setting.",
        )


def _checksum(backend: Backend, tree: Tree) -> int:
    total = 0
    for leaf in leaves(tree):
        total = zlib.crc32(np.ascontiguousarray(backend.numpy(leaf)), total)
    return total
