"""Everything shared out: each process keeps its rows of all weights, gradients and moments (ZeRO's third stage).

The weights of a layer are gathered while it computes, and its gradients are added up in parts (Rajbhandari et al. 2020;
torch's FSDP2, Zhao et al. 2023). Every pass of the model is one of all processes then, at the same time.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from backends.base import Array, Backend
from backends.group import Group
from backends.tree import Tree, items
from minigpt.data.batches import Batch, filled, split
from minigpt.errors import UsageError
from minigpt.sections import ModelConfig, StageConfig
from minigpt.store.checkpoint import unwritten
from minigpt.store.stage import StageStore
from minigpt.train.optim import Optimizer
from minigpt.train.together import FULL, RANKS, Together, fitting

LAYERS = "model.layers"  # whose items are gathered one by one


class InPlace(Optimizer):
    """Updates the rows that this process has of the weights where they are."""

    def update(self, weights: Tree, grads: list[Array], state: Tree, step: int) -> tuple[Tree, Tree]:
        return weights, super().update(weights, grads, state, step)[1]


class FullySharded(Together):
    """Processes of which each has a part of everything. A checkpoint is the one of any training."""

    def __init__(self, backend: Backend, store: StageStore):
        super().__init__(backend)
        self.store = store

    def rows(self, batch: Batch) -> Batch:
        """This process's rows, as many in all processes, and at least one: who has fewer gets empty ones."""
        most = -(-len(batch["ids"]) // self.group.size)
        return filled(split(batch, self.group.size)[self.group.rank], most)

    def summed(self, loss: Array, metrics: dict[str, Array], grads: Tree) -> tuple[Array, dict[str, Array], Tree]:
        """The gradients, of this process's own rows, are sums already."""
        loss, metrics, _ = super().summed(loss, metrics, {})
        return loss, metrics, grads

    def optimizer(self, config: StageConfig, weights: Tree) -> Optimizer:
        return InPlace(self.backend, config, weights)

    def check_weights(self, weights: Tree, step: int) -> None:
        """Nothing to compare: no two processes have the same."""

    def saved(self, store: StageStore, weights: Tree, moments: Tree, state: dict[str, Any], keep: int) -> Path:
        """Each process writes its rows; the first one joins them, so that whoever reads them finds whole arrays."""
        if self.group.rank == 0:
            return store.save(self.backend, weights, moments, state, keep, self._write)
        path = store.at(state["step"])
        try:
            for tree in (weights, moments):
                self._write(tree)
        except OSError as error:
            raise unwritten(path, error) from None
        return path

    def _write(self, tree: Tree, file: Path | None = None) -> None:
        self.group.save(tree, Path(self.group.first(lambda: str(file))))

    def loaded(self, load: Callable[[Any], tuple[Tree, Tree, dict]], weights: Tree, moments: Tree) -> tuple:
        """As in `Together`; the first process chooses the checkpoint, and each reads its rows of that."""

        def read() -> dict[str, Any]:
            _, optim, state = load(fitting(moments, weights))
            begins = callable(optim)
            return {"state": state, "begins": begins, "of": "" if begins or RANKS not in optim else f"{RANKS}.0."}

        told = self.group.first(read)
        if not told["begins"]:
            flat = dict(items(weights)) | {f"{told['of']}{name}": x for name, x in items(moments)}
            self.group.load(flat, self.store.at(told["state"]["step"]))
        return weights, moments, told["state"]


def check_shards(stage: str, config: StageConfig, model: ModelConfig, backend: str, group: Group) -> None:
    """Raises UsageError where the processes cannot share a model out."""
    if config.shard != FULL or group.size == 1:
        return
    if not group.shards:
        raise UsageError(
            f"{stage}.shard = '{FULL}': this {backend} has no FSDP2, which shares a model out.",
            f"Give --backend torch (tried with 2.13), or {stage}.shard = 'moments'.",
        )
    if model.experts:
        raise UsageError(
            f"{stage}.shard = '{FULL}' is for models without experts so far.", f"Give {stage}.shard = 'moments'."
        )
