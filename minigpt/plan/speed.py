"""How long one part of a step takes here: a few real steps of the model with one and with three layers, timed.

Everything else of the shape is real (width, vocabulary, context, masks, optimizer), so that what a layer and what the
rest cost need no assumption about the machine.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from backends.base import Backend
from minigpt.config import ModelConfig, StageConfig
from minigpt.model.gpt import GPT, init_weights, to_backend
from minigpt.plan.costs import flops_per_token, row_width
from minigpt.train.gradients import accumulated
from minigpt.train.losses import language_loss, token_losses
from minigpt.train.optim import Optimizer

SHALLOW, DEEP = 1, 3  # layers of the two models that are timed
SEGMENT = 64  # tokens of the examples in packed rows
REPEATS = 3
LONG = 1.0  # seconds


@dataclass(frozen=True)
class Speed:
    """Seconds: of a token forwards and backwards, of a token forwards only, and of one update."""

    token: float
    forward: float
    update: float


def measure(backend: Backend, model: ModelConfig, stage: str, config: StageConfig, dtype: str, seconds: float) -> Speed:
    """The speed of a stage's parts on this machine; takes about `seconds`."""
    rows, width = _sample(backend, model, stage, config, seconds)
    depths = sorted({min(SHALLOW, model.n_layer), min(DEEP, model.n_layer)})
    timed = [
        _timed(backend, model.model_copy(update={"n_layer": n}), stage, config, dtype, rows, width) for n in depths
    ]
    per_token = 1 / (rows * width)
    found = [_extrapolated([getattr(s, name) for s in timed], depths, model.n_layer)
             for name in ("token", "forward", "update")]  # fmt: skip
    return Speed(found[0] * per_token, found[1] * per_token, found[2])


def _extrapolated(values: list[float], depths: list[int], layers: int) -> float:
    """The value at `layers` on the line through one or two depths; never below the deepest one measured."""
    if len(depths) == 1:
        return values[0]
    slope = max(0.0, values[1] - values[0]) / (depths[1] - depths[0])
    return max(values[1], values[0]) + slope * (layers - depths[1])


def _sample(backend: Backend, model: ModelConfig, stage: str, config: StageConfig, seconds: float) -> tuple[int, int]:
    """(rows, tokens of a row) that can be timed often enough in so many seconds; at least one whole row per lane.

    A shorter row would cost less per token than a real one: attention grows with the square of its length.
    """
    width, part = row_width(model, stage), config.batch_size // config.accumulation
    rate = _rate(backend)
    flops = sum(flops_per_token(model.model_copy(update={"n_layer": n}), width) for n in (SHALLOW, DEEP))
    tokens = int(seconds * rate / (flops * (REPEATS + 1) * 1.5 * 2))  # a half of the matrix rate is usual
    lanes = len(backend.lanes())
    return min(part, max(1, tokens // width // lanes) * lanes), width


def _rate(backend: Backend) -> float:
    """Floating-point operations per second of a matrix product, roughly."""
    size = 512 if backend.device == "cpu" else 4096
    x = backend.zeros((size, size)) + 1.0
    return 2 * size**3 / _shortest(backend, lambda: x @ x)


def _timed(
    backend: Backend, model: ModelConfig, stage: str, config: StageConfig, dtype: str, rows: int, width: int
) -> Speed:
    config = config.model_copy(update={"dtype": dtype})
    network = GPT(model, backend, dtype, config.checkpointing, config.loss_chunk, config.dropout)
    weights = to_backend(backend, init_weights(model, 0))
    batch = _batch(model, rows, width, stage != "pretrain")
    arrays = {key: backend.array(x) for key, x in batch.items()}
    traced = config.compile and backend.name == "mlx"  # torch.compile would take longer than the whole plan
    gradient = backend.value_and_grad(lambda w, b: (language_loss(network, w, b), {}), compiled=traced)
    optimizer = Optimizer(backend, config, weights)
    state = [weights, optimizer.init(weights)]

    def update() -> list:
        slopes, _ = optimizer.clip(gradients)
        state[:] = optimizer.update(state[0], slopes, state[1], 0)
        return state

    token = _shortest(backend, lambda: accumulated(backend, gradient, state[0], batch, 1))
    forward = _shortest(backend, lambda: token_losses(network, state[0], arrays))
    *_, gradients = accumulated(backend, gradient, state[0], batch, 1)
    backend.sync(gradients)
    return Speed(token, forward, _shortest(backend, update))


def _batch(model: ModelConfig, rows: int, width: int, packed: bool) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(0).integers(0, model.vocab_size, (rows, width + 1)).astype(np.int32)
    batch = {"ids": ids[:, :-1], "targets": ids[:, 1:], "weights": np.full((rows, width), 1e-3, np.float32)}
    batch["dropout"] = np.arange(rows, dtype=np.int32)  # used if the stage has dropout
    segments = np.repeat((np.arange(width) // SEGMENT)[None], rows, axis=0).astype(np.int32)
    return batch | ({"segments": segments} if packed else {})


def _shortest(backend: Backend, work: Callable) -> float:
    """Seconds of one call, the shortest of some (of one, where it takes long) after one that warms up."""
    warm = _seconds(backend, work)
    return min(_seconds(backend, work) for _ in range(REPEATS if warm < LONG else 1))


def _seconds(backend: Backend, work: Callable) -> float:
    began = time.perf_counter()
    backend.sync(work())
    return time.perf_counter() - began


def slower(speed: Speed, checkpointing: bool) -> Speed:
    """The speed with gradient checkpointing: the forward pass is computed a second time."""
    return replace(speed, token=speed.token + speed.forward) if checkpointing else speed


def throttled(speed: Speed, used: float, share: float | None) -> Speed:
    """The speed under a CPU limit, for work that keeps the share `used` of all cores busy when nothing limits it."""
    factor = 1.0 if share is None else max(1.0, used / share)
    return Speed(speed.token * factor, speed.forward * factor, speed.update * factor)
