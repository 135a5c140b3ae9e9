"""What the settings add to a stage's own objective."""

import inspect
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

    `loss(model, weights, batch)` -> scalar, `batches(step)` or, where they are made with the weights,
    `batches(step, weights)` -> dict of NumPy arrays whose `weights` sum to 1, and `hooks` that are called after each
    step.
    """

    loss: Callable[[GPT, Tree, Batch], Array] | None = None
    batches: Callable[..., Batch] | None = None
    hooks: tuple[Hook, ...] = ()

    def of(self, model: GPT, objective: Objective) -> Objective:
        """The objective with these in it."""
        if self.loss is not None:
            objective = replace(objective, loss=lambda weights, batch: (self.loss(model, weights, batch), {}))
        if self.batches is None:
            return objective
        asked = asks_for_weights(self.batches)
        given = self.batches if asked else lambda step, weights: self.batches(step)
        return replace(objective, batches=given, needs_weights=asked)


def asks_for_weights(batches: Callable[..., Batch]) -> bool:
    """Whether `batches` must be given weights beside the step."""
    try:
        places = inspect.signature(batches).parameters.values()
    except ValueError:  # of something that is not written in Python
        return True
    asked = [one for one in places if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    return len(asked) > 1 and asked[1].default is inspect.Parameter.empty


STAGES_OWN = Custom()


def assembled(
    backend: Backend, model: GPT, config: StageConfig, weights: Tree, seed: int, objective: Objective
) -> tuple[Tree, Objective]:
    """(weights to train, objective) with what the settings add to a stage's own objective: the leaves that are trained
    beside the model's, dropout, the losses of experts and of tokens further ahead, an adapter.
    """
    weights = weights if objective.beside is None else weights | objective.beside
    if config.dropout or config.stochastic_depth or (is_adapted(config) and config.lora_dropout):
        objective = replace(objective, batches=WithDropoutKeys(objective.batches, seed))
    if has_auxiliary(model.config):
        objective = replace(objective, loss=with_auxiliary(model, objective.loss))
    if is_adapted(config):
        return adapted(backend, model.config, config, weights, seed, objective)
    return weights, objective
