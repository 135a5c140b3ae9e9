"""What a training costs: tokens of a step, bytes of state and of checkpoints. Pure functions of a shape."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

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
    """Bytes that a stage keeps from step to step. `matrices` are the trained bytes that Muon updates.

    Of several processes, each of which has a part: `gathered` are the bytes of weights that it has whole for a moment.
    """

    weights: int
    trained: int
    matrices: int
    optimizer: int
    gathered: int = 0


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
    average = trained if config.averages else 0
    return State(weights, trained, matrices, 2 * trained - matrices + outer + average)


def part_of(state: State, model: ModelConfig, config: StageConfig, processes: int) -> State:
    """What one of several processes keeps of it (`StageConfig.shard`): a part of the moments, or of everything.

    Of a model that is shared out whole it gathers the leaves outside the layers for a whole pass, and, as FSDP2 does,
    two layers, the second while the first computes, beside the buffer in which the second arrives.
    """
    if processes == 1 or config.shard == "none":
        return state
    optimizer = -(-state.optimizer // processes)
    if config.shard == "moments":
        return replace(state, optimizer=optimizer)
    shapes = trained_shapes(model, config)
    layers = _bytes(shape for name, shape in shapes.items() if ".layers." in name)
    gathered = _bytes(shapes.values()) - layers + 3 * layers // model.n_layer
    weights, trained, matrices = (-(-part // processes) for part in (state.weights, state.trained, state.matrices))
    return State(weights, trained, matrices, optimizer, gathered)


def exchanged(trained: int, config: StageConfig, backend: str) -> float:
    """Bytes that a step exchanges, as those of gradients that a ring adds up and brings back, of `trained` numbers.

    Adding up without bringing back is half of that, and so is bringing weights to all: of moments that are shared out
    once (MLX, which has no broadcast, adds zeros up), of everything twice in each micro-batch.
    """
    gradients = trained * (2.0 if config.transfer == "bfloat16" else 4.0)
    if config.shard == "moments":
        return gradients + FLOAT * trained * (0.5 if backend == "torch" else 1.0)
    return config.grad_accumulation * (gradients / 2 + FLOAT * trained) if config.shard == "full" else gradients


def checkpoint_bytes(model: ModelConfig, config: StageConfig, beside: Beside = None) -> int:
    """Bytes of one checkpoint on disk. With outer steps the common weights are the weights themselves."""
    state = state_of(model, config, beside)
    return state.trained + state.optimizer - (state.trained if config.outer_every else 0)


def disk_bytes(model: ModelConfig, stages: dict[str, StageConfig], beside: Mapping[str, Beside] | None = None) -> int:
    """Bytes of the checkpoints that a run keeps: the last ones, the best, one being written (twice, where all processes
    write their part of it), and the final weights.

    `beside` says of some stages what they train beside the model.
    """
    more = beside or {}
    kept = sum((config.keep_last + 2 + (config.shard == "full")) * checkpoint_bytes(model, config, more.get(name))
               for name, config in stages.items())  # fmt: skip
    return kept + len(stages) * FLOAT * parameter_count(model)


def _bytes(shapes) -> int:
    return FLOAT * sum(int(np.prod(shape)) for shape in shapes)
