"""What the settings add to a stage's own objective."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from backends.base import Array, Backend
from backends.tree import Tree
from minigpt.data.batches import Batch, WithDropoutKeys
from minigpt.model.gpt import GPT
from minigpt.model.lora import is_adapted
from minigpt.sections import StageConfig
from minigpt.stages.adapter import adapted
from minigpt.train.auxiliary import has_auxiliary, with_auxiliary
from minigpt.train.loop import Hook, Objective


@dataclass(frozen=True)
class Custom:
    """What somebody who writes Python puts in place of a stage's own.

    `loss(model, weights, batch)` -> scalar, `batches(step, weights)` -> dict of NumPy arrays whose `weights` sum to 1,
    and `hooks` that are called after each step.
    """

    loss: Callable[[GPT, Tree, Batch], Array] | None = None
    batches: Callable[[int, Tree], Batch] | None = None
    hooks: tuple[Hook, ...] = ()

    def of(self, model: GPT, objective: Objective) -> Objective:
        """The objective with these in it."""
        if self.loss is not None:
            objective = replace(objective, loss=lambda weights, batch: (self.loss(model, weights, batch), {}))
        return objective if self.batches is None else replace(objective, batches=self.batches)


STAGES_OWN = Custom()


def assembled(
    backend: Backend, model: GPT, config: StageConfig, weights: Tree, seed: int, objective: Objective
) -> tuple[Tree, Objective]:
    """(weights to train, objective) with what the settings add to a stage's own objective: the leaves that are trained
    beside the model's, dropout, the losses of experts and of tokens further ahead, an adapter.
    """
    weights = weights if objective.beside is None else weights | objective.beside
    if config.dropout or (is_adapted(config) and config.lora_dropout):
        objective = replace(objective, batches=WithDropoutKeys(objective.batches, seed))
    if has_auxiliary(model.config):
        objective = replace(objective, loss=with_auxiliary(model, objective.loss))
    if is_adapted(config):
        return adapted(backend, model.config, config, weights, seed, objective)
    return weights, objective
