"""What the settings add to a stage's own objective."""

from dataclasses import replace

from backends.base import Backend
from backends.tree import Tree
from minigpt.data.batches import WithDropoutKeys
from minigpt.model.gpt import GPT
from minigpt.model.lora import is_adapted
from minigpt.sections import StageConfig
from minigpt.stages.adapter import adapted
from minigpt.train.loop import Objective


def assembled(
    backend: Backend, model: GPT, config: StageConfig, weights: Tree, seed: int, objective: Objective
) -> tuple[Tree, Objective]:
    """(weights to train, objective) with what the settings add to a stage's own objective: dropout, an adapter."""
    if config.dropout or (is_adapted(config) and config.lora_dropout):
        objective = replace(objective, batches=WithDropoutKeys(objective.batches, seed))
    if is_adapted(config):
        return adapted(backend, model.config, config, weights, seed, objective)
    return weights, objective
