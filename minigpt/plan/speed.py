"""How long one part of a step takes here: a few real steps of the model with one and with three layers, timed.

Everything else of the shape is real (the stage's objective and optimizer, width, vocabulary, context, adapters), so
that what a layer and what the rest cost need no assumption about the machine.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from backends.base import Backend
from minigpt.data.shards import MemoryShard
from minigpt.events import silent
from minigpt.model.gpt import GPT, flops_per_token, init_weights, to_backend
from minigpt.model.heads import with_head
from minigpt.model.lora import is_adapted
from minigpt.plan.costs import row_width
from minigpt.quantize.codes import quantize_weights
from minigpt.sections import ModelConfig, StageConfig
from minigpt.stages.assemble import assembled
from minigpt.stages.stage import Job, Stage
from minigpt.train.gradients import accumulated
from minigpt.train.optim import Optimizer

SHALLOW, DEEP = 1, 3  # layers of the two models that are timed
EXAMPLE = 64  # tokens of the examples in packed rows
REPEATS = 3
LONG = 1.0  # seconds


@dataclass(frozen=True)
class Speed:
    """Seconds: of a token forwards and backwards, of a token forwards only, and of one update."""

    token: float
    forward: float
    update: float

    def times(self, factor: float) -> "Speed":
        """The speed of a machine on which everything takes `factor` times as long."""
        return Speed(self.token * factor, self.forward * factor, self.update * factor)


def measure(
    backend: Backend, model: ModelConfig, stage: Stage, config: StageConfig, dtype: str, seconds: float
) -> Speed:
    """The speed of a stage's parts on this machine; takes about `seconds`."""
    model = with_head(model, stage.head)
    rows = _sample(backend, model, stage, config, seconds)
    depths = sorted({min(SHALLOW, model.depth), min(DEEP, model.depth)})
    model = model.model_copy(update={"first_weights": "random"})  # any will do, for a model of one layer, too
    timed = [_timed(backend, _of_layers(model, n), stage, config, dtype, rows) for n in depths]
    per_token = 1 / (rows * row_width(model, stage.form))
    layers = {"token": model.depth, "forward": model.depth, "update": model.n_layer}
    found = [_extrapolated([getattr(s, name) for s in timed], depths, n) for name, n in layers.items()]
    return Speed(found[0] * per_token, found[1] * per_token, found[2])


def _of_layers(model: ModelConfig, layers: int) -> ModelConfig:
    return model.model_copy(update={"n_layer": layers, "repeat_layers": 0})


def _extrapolated(values: list[float], depths: list[int], layers: int) -> float:
    """The value at `layers` on the line through one or two depths; never below the deepest one measured."""
    if len(depths) == 1:
        return values[0]
    per_layer = max(0.0, values[1] - values[0]) / (depths[1] - depths[0])
    return max(values[1], values[0]) + per_layer * (layers - depths[1])


def _sample(backend: Backend, model: ModelConfig, stage: Stage, config: StageConfig, seconds: float) -> int:
    """Rows that can be timed often enough in so many seconds; at least one whole row per lane.

    A shorter row would cost less per token than a real one: attention grows with the square of its length.
    """
    width = row_width(model, stage.form)
    flops = sum(flops_per_token(_of_layers(model, n), width) for n in (SHALLOW, DEEP))
    tokens = int(seconds * _rate(backend) / (flops * (REPEATS + 1) * 1.5 * 2))  # a half of the matrix rate is usual
    lanes = backend.lanes
    return min(config.micro_batch_size, max(1, tokens // width // lanes) * lanes)


def _rate(backend: Backend) -> float:
    """Floating-point operations per second of a matrix product, roughly."""
    size = 512 if backend.device == "cpu" else 4096
    x = backend.zeros((size, size)) + 1.0
    return 2 * size**3 / _shortest(backend, lambda: x @ x)


def _timed(backend: Backend, model: ModelConfig, stage: Stage, config: StageConfig, dtype: str, rows: int) -> Speed:
    """The times of `rows` rows of made-up examples under the stage's own objective."""
    traced = config.compile and backend.name == "mlx"  # torch.compile would take longer than the whole plan
    changed = {"dtype": dtype, "batch_size": rows, "grad_accumulation": 1, "eval_rows": rows, "compile": traced}
    config = config.model_copy(update=changed)
    network = GPT.trained_by(config, model, backend, dtype)
    start = init_weights(model, 0)
    bits = getattr(config, "lora_bits", 0) if is_adapted(config) else 0
    weights = to_backend(backend, quantize_weights(start, bits) if bits else start)
    shard = _made_up(model, stage, rows)
    job = Job(network, weights, config, stage.form, shard, shard, _Sizes(model.vocab_size), 0, silent)
    weights, objective = assembled(backend, network, config, weights, 0, stage.objective(job))
    gradient = backend.value_and_grad(objective.loss, compiled=traced)
    extra = () if objective.base is None else (objective.base,)
    optimizer = Optimizer(backend, config, weights)
    state = [weights, optimizer.init(weights)]

    def step() -> tuple:
        batch = objective.batches(0, state[0])
        return accumulated(backend, lambda w, b: gradient(w, b, *extra), state[0], batch, 1)

    def update() -> list:
        clipped, _ = optimizer.clip(gradients)
        state[:] = optimizer.update(state[0], clipped, state[1], 0)
        return state

    token = _shortest(backend, step)
    forward = _shortest(backend, lambda: objective.validate(state[0]))
    *_, gradients = step()
    backend.sync(gradients)
    return Speed(token, forward, _shortest(backend, update))


def _made_up(model: ModelConfig, stage: Stage, rows: int) -> MemoryShard:
    """Examples of random tokens that fill `rows` rows of the stage's form."""
    form, width = stage.form, row_width(model, stage.form)
    draw = np.random.default_rng(0)
    if form.stream:
        size = rows * width + 1
        return MemoryShard(draw.integers(0, model.vocab_size, size).astype(np.int32), np.array([size]))
    length = min(EXAMPLE, width // form.sequences)  # tokens of a sequence in a row: one more is only a target
    count = rows * (width // (length * form.sequences)) * form.sequences
    ids = draw.integers(0, model.vocab_size, count * (length + 1)).astype(np.int32)
    return MemoryShard(ids, np.arange(1, count + 1) * (length + 1), np.ones(len(ids), np.uint8))


class _Sizes:
    """A tokenizer that is only asked for the sizes of its tokens; its answers have no end and no text."""

    end_of_text = 0
    stops = ()

    def __init__(self, vocab_size: int):
        self.byte_lengths = self.character_lengths = np.ones(vocab_size, np.int32)

    def decode(self, ids: list[int]) -> str:
        return str(sum(ids))

    def bytes_of(self, token: int) -> bytes:
        return b""


def _shortest(backend: Backend, work: Callable) -> float:
    """Seconds of one call, the shortest of some (of one, where it takes long) after one that warms up."""
    warm = _seconds(backend, work)
    return min(_seconds(backend, work) for _ in range(REPEATS if warm < LONG else 1))


def _seconds(backend: Backend, work: Callable) -> float:
    began = time.perf_counter()
    backend.sync(work())
    return time.perf_counter() - began


def slower(speed: Speed, checkpointing: bool) -> Speed:
    """The speed with activation checkpointing: the forward pass is computed a second time."""
    return replace(speed, token=speed.token + speed.forward) if checkpointing else speed


def throttled(speed: Speed, used: float, share: float | None) -> Speed:
    """The speed under a CPU limit, for work that keeps the share `used` of all cores busy when nothing limits it."""
    return speed.times(1.0 if share is None else max(1.0, used / share))
