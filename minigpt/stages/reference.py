"""The weights that a policy's divergence is measured from: those it started with, or its own of some steps ago."""

from pathlib import Path

import numpy as np

from backends.tree import Tree, items, map_leaves, unflatten
from minigpt.stages.rollouts import oldest_needed
from minigpt.stages.stage import Job
from minigpt.store.checkpoint import load_checkpoint, save_checkpoint
from minigpt.store.durable import discard


class Reference:
    """`at(step, weights)`: the starting weights, or with `reference_every` n those of the last step that n divides.

    These are kept in the stage's directory until no checkpoint can need them: a run that goes on has the same ones.
    """

    def __init__(self, job: Job):
        self._job, self._every = job, job.config.reference_every
        self._tree, self._step = job.starting_weights(), 0

    def at(self, step: int, weights: Tree) -> Tree:
        since = step - step % self._every if self._every else 0
        if since and since != self._step:
            self._tree, self._step = self._of(since, step, weights), since
        return self._tree

    def _of(self, since: int, step: int, weights: Tree) -> Tree:
        backend, directory = self._job.model.backend, self._job.directory
        group = backend.group
        path = None if directory is None else directory / "reference" / f"{since:08}"
        if path is not None and step > since and group.first(path.exists):  # training goes on between two refreshments
            flat = load_checkpoint(path)[0]["weights"]
        else:
            flat = {name: np.array(backend.numpy(x)) for name, x in items(weights)}
            if path is not None and group.rank == 0:
                self._keep(path, flat, step)
        return map_leaves(backend.array, unflatten(flat))

    def _keep(self, path: Path, flat: dict[str, np.ndarray], step: int) -> None:
        save_checkpoint(path, {"weights": flat}, {"step": step})
        oldest = oldest_needed(self._job.config, step) - self._every
        for other in path.parent.iterdir():
            if other.name.isdigit() and int(other.name) < oldest:
                discard(other)
