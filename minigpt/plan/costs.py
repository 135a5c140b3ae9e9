"""What a training costs: tokens of a step, bytes of state and of checkpoints. Pure functions of a shape."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from minigpt.data.forms import Form
from minigpt.model.gpt import parameter_count
from minigpt.model.lora import Shape, is_adapted, trained_shapes
from minigpt.sections import ModelConfig, StageConfig
from minigpt.train.optim import is_matrix

Beside = Mapping[str, Shape] | None  # see Stage.beside
FLOAT = 4  # bytes of weights, gradients and moments: float32 whatever a model computes in


@dataclass(frozen=True)
class State:
    """Bytes that a stage keeps from step to step. `matrices` are the trained bytes that Muon updates."""

    weights: int
    trained: int
    matrices: int
    optimizer: int


def row_width(model: ModelConfig, form: Form) -> int:
    """Tokens of a row."""
    return form.width * model.context


def step_tokens(model: ModelConfig, form: Form, config: StageConfig) -> int:
    """Tokens that one update computes."""
    return config.batch_size * row_width(model, form)


def state_of(model: ModelConfig, config: StageConfig, beside: Beside = None) -> State:
    """What a stage with these settings keeps: an adapter trains its own leaves, over weights that may be packed. What
    stands `beside` the model shares its frozen trunk.
    """
    shapes = trained_shapes(model, config, beside)
    weights = FLOAT * parameter_count(model)
    if is_adapted(config):
        bits = getattr(config, "lora_bits", 0)
        if bits:  # packed weights, and a scale and a bias of 32 bits each for a group of 64
            weights = int(weights * (bits + 1) / 32)
        weights += _bytes(shapes.values())
    else:
        weights = _bytes(shapes.values())
    trained = _bytes(shapes.values())
    muon = config.optimizer == "muon"
    matrices = _bytes(s for name, s in shapes.items() if muon and is_matrix(name, s))
    outer = 2 * trained if config.outer_every else 0  # the common weights, and the momentum of outer steps
    return State(weights, trained, matrices, 2 * trained - matrices + outer)


def checkpoint_bytes(model: ModelConfig, config: StageConfig, beside: Beside = None) -> int:
    """Bytes of one checkpoint on disk. With outer steps the common weights are the weights themselves."""
    state = state_of(model, config, beside)
    return state.trained + state.optimizer - (state.trained if config.outer_every else 0)


def disk_bytes(model: ModelConfig, stages: dict[str, StageConfig], beside: Mapping[str, Beside] | None = None) -> int:
    """Bytes of the checkpoints that a run keeps: the last ones, the best, one being written, and the final weights.

    `beside` says of some stages what they train beside the model.
    """
    more = beside or {}
    kept = sum((config.keep_last + 2) * checkpoint_bytes(model, config, more.get(name))
               for name, config in stages.items())  # fmt: skip
    return kept + len(stages) * FLOAT * parameter_count(model)


def _bytes(shapes) -> int:
    return FLOAT * sum(int(np.prod(shape)) for shape in shapes)
