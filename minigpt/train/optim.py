"""AdamW and Muon over weight trees, averages of the weights, and learning-rate schedules.

State is float32 and lives beside the weights.
"""

import math
from collections.abc import Sequence
from typing import Any

from backends.base import Array, Backend
from backends.tree import Tree, items, leaves, rebuild
from minigpt.errors import UsageError
from minigpt.model.moe import ROUTER
from minigpt.sections import StageConfig
from minigpt.store.stage import AVERAGE


class Optimizer:
    """Chooses the update of each leaf by its name and shape, once; holds no arrays itself.

    Matrices decay, vectors do not. With Muon, the matrices inside the layers are updated by Muon, embeddings,
    the output head and vectors by AdamW (Jordan et al. 2024). `config.dtype` "auto" counts as float32 here.
    """

    def __init__(self, backend: Backend, config: StageConfig, weights: Tree):
        self.backend = backend
        self.config = config
        named = list(items(weights))
        if any(name.endswith(".packed") for name, _ in named):
            message = "Weights in 4 or 8 bits cannot be trained themselves."
            raise UsageError(message, "Train an adapter on them (lora_rank), or start from the weights before that.")
        muon = config.optimizer == "muon"
        self.muon = [i for i, (name, w) in enumerate(named) if muon and is_matrix(name, w.shape)]
        self.adamw = [i for i in range(len(named)) if i not in set(self.muon)]
        self.decays = [config.weight_decay if len(named[i][1].shape) >= 2 else 0.0 for i in self.adamw]
        self.names = [name for name, _ in named]
        updates = backend.updates
        self._clip = updates.compile(lambda grads: updates.clip(grads, config.grad_clip))
        self._update = updates.compile(self._compute)

    def init(self, weights: Tree) -> Tree:
        """Zero moments: {"first": {name: …}, "second": {name: …}}; Muon's leaves have a first moment only.

        Where the settings ask for averages of the weights, {"average": {name: …}} as well: the weights themselves.
        """
        params = leaves(weights)

        def zeros(indices: list[int]) -> Tree:
            return {self.names[i]: self.backend.zeros_like(params[i]) for i in indices}

        state = {"first": zeros(sorted(self.adamw + self.muon)), "second": zeros(self.adamw)}
        return state | ({AVERAGE: begun_average(weights)} if self.config.averages else {})

    def clip(self, grads: Tree) -> tuple[list[Array], Array]:
        """The leaves of the gradients, clipped, and their norm before that. `grads` must not be used again."""
        return self._clip(leaves(grads))

    def update(self, weights: Tree, grads: list[Array], state: Tree, step: int) -> tuple[Tree, Tree]:
        """The weights and state after update number `step` (from 0) with the clipped gradients.

        What is passed in must not be used again: a backend may have changed it in place.
        """
        share = rate(self.config, step)
        scalar, t = self.backend.updates.scalar, step + 1
        settings = {
            "in_average": scalar(share_in_average(self.config, step)),
            "learning_rate": scalar(self.config.learning_rate * share),
            "matrix_learning_rate": scalar(self.config.matrix_learning_rate * share),
            "correction1": scalar(1.0 - self.config.beta1**t),
            "correction2": scalar(1.0 - self.config.beta2**t),
        }
        return self._update(weights, grads, state, settings)

    def _compute(self, weights: Tree, grads: list[Array], state: Tree, settings: dict[str, Any]):
        c, updates = self.config, self.backend.updates
        params = leaves(weights)
        first = [state["first"].get(name) for name in self.names]
        second = [state["second"][self.names[i]] for i in self.adamw]

        def pick(arrays: list, indices: list[int]) -> list:
            return [arrays[i] for i in indices]

        if self.adamw:
            new_params, new_first, second = updates.adamw(
                pick(params, self.adamw), pick(grads, self.adamw), pick(first, self.adamw), second,
                lr=settings["learning_rate"], correction1=settings["correction1"], correction2=settings["correction2"],
                beta1=c.beta1, beta2=c.beta2, eps=c.eps, decays=self.decays,
            )  # fmt: skip
            _put(params, self.adamw, new_params)
            _put(first, self.adamw, new_first)
        if self.muon:
            new_params, new_first = updates.muon(
                pick(params, self.muon), pick(grads, self.muon), pick(first, self.muon),
                lr=settings["matrix_learning_rate"], beta=c.momentum, decay=c.weight_decay,
                dtype="bfloat16" if c.dtype == "bfloat16" else "float32",
            )  # fmt: skip
            _put(params, self.muon, new_params)
            _put(first, self.muon, new_first)
        found = {
            "first": {name: moment for name, moment in zip(self.names, first, strict=True) if moment is not None},
            "second": dict(zip([self.names[i] for i in self.adamw], second, strict=True)),
        }
        if c.averages:
            share, average = settings["in_average"], state[AVERAGE]
            found[AVERAGE] = {name: (1 - share) * average[name] + share * w
                              for name, w in zip(self.names, params, strict=True)}  # fmt: skip
        return rebuild(weights, params), found


def begun_average(weights: Tree) -> dict[str, Array]:
    """An average that holds nothing but `weights` so far, by name; copies, as an update may change weights in place."""
    return {name: w + 0 for name, w in items(weights)}


def share_in_average(config: StageConfig, step: int) -> float:
    """The share that the weights after update number `step` (from 0) get in their average; the rest stays as it was.

    With `ema_decay` it is 1 - min(decay, (1 + step) / (10 + step)): the first weights are forgotten soon however long
    the average is to be (num_updates of TensorFlow's ExponentialMovingAverage; timm's ModelEmaV3). With `swa_fraction`
    it is 1 until the last share of the steps begins, then 1/2, 1/3, …: their equal mean (Izmailov et al. 2018; of
    language models Kaddour 2022). A step in it that is skipped counts as the average so far.
    """
    if config.ema_decay:
        return 1 - min(config.ema_decay, (1 + step) / (10 + step))
    first = config.steps - round(config.swa_fraction * config.steps)
    return 1 / max(1, step + 1 - first)


def is_matrix(name: str, shape: Sequence[int]) -> bool:
    """Whether Muon updates a leaf: the matrices of the layers, but for a router, whose rows are classes."""
    return len(shape) == 2 and ".layers." in name and not name.endswith(ROUTER)


def rate(config: StageConfig, step: int) -> float:
    """The learning rate at `step` (from 0) as a share of the highest: warm-up, then the schedule's way down.

    "cosine" and "linear" fall from the end of the warm-up on; "wsd" stays high and falls linearly in the
    last `decay_fraction` of the steps (also called WSD, Hu et al. 2024). All end at `final_fraction`.
    """
    warmup = min(config.warmup_steps, config.steps - 1)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    falls_from = warmup
    if config.schedule == "wsd":
        falls_from = max(warmup, round(config.steps * (1 - config.decay_fraction)))
    done = min(1.0, max(0.0, (step - falls_from) / max(1, config.steps - 1 - falls_from)))
    left = 0.5 * (1 + math.cos(math.pi * done)) if config.schedule == "cosine" else 1 - done
    return config.final_fraction + (1 - config.final_fraction) * left


def _put(arrays: list, indices: list[int], values: list) -> None:
    for i, value in zip(indices, values, strict=True):
        arrays[i] = value
