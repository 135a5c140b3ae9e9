"""The value model of PPO: what an answer is going to earn, told at each of its tokens.

It is a head with one score per token, on the policy's own trunk or on one of its own. Its leaves stand beside the
policy's below `value`: they are trained and saved with it, and are no part of the finished model.
"""

from typing import Any

import numpy as np

from backends.base import Array
from backends.tree import Tree, items, map_leaves
from minigpt.errors import UsageError
from minigpt.model.gpt import GPT, weight_shapes
from minigpt.model.heads import JUDGES, ScoreHead, with_head
from minigpt.model.lora import Shape, is_adapted
from minigpt.sections import ModelConfig
from minigpt.stages.stage import Job
from minigpt.train.losses import of_rows
from minigpt.train.rewards import run_of

NAME = "value"
SHARED, OWN = "shared", "own"


def value_shapes(model: ModelConfig, config: Any) -> dict[str, Shape]:
    """Name -> shape of the leaves beside the policy's."""
    whole = weight_shapes(with_head(model, JUDGES)) if config.value_model == OWN else ScoreHead.shapes(model)
    return {f"{NAME}.{name}": shape for name, shape in whole.items()}


def first_values(job: Job) -> Tree:
    """The leaves that a value model begins with: a head that says 0 on the trunk that the policy starts from, or what a
    reward model has (`value_start`).

    A trunk that an adapter leaves as it is is no second copy.
    """
    backend, config = job.model.backend, job.config
    head = {"score": {"weight": backend.zeros((1, job.model.config.d_model))}}
    if config.value_model == SHARED:
        return {NAME: head}
    if config.value_start and job.load_scorer is not None:
        scorer = job.load_scorer(run_of(config.value_start) or "")
        wanted = weight_shapes(with_head(job.model.config, JUDGES))
        if {name: tuple(leaf.shape) for name, leaf in items(scorer.weights)} != wanted:
            raise UsageError(f"The reward model {scorer.name} has another shape than the model in training.",
                             "A value model can only begin as one that started from the same model.")  # fmt: skip
        return {NAME: scorer.weights}
    trunk = job.weights["model"]
    if not is_adapted(config):  # training writes over the policy's arrays
        trunk = map_leaves(lambda x: backend.array(np.array(backend.numpy(x))), trunk)
    return {NAME: {"model": trunk} | head}


def values(model: GPT, weights: Tree, batch: dict[str, Array], hidden: Array) -> Array:
    """The values (R, W) in float32 before each token; `hidden` (R, W, d) is that of the policy."""
    own = weights[NAME]
    if "model" in own:
        hidden = model.hidden(own, batch["ids"], **of_rows(batch))
    return model.scores(own, hidden)
