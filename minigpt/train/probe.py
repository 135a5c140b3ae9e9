"""What a learning rate and a batch size should be about, from some steps of a training that is then thrown away."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from backends.base import Backend
from backends.tree import Tree, leaves
from minigpt.sections import StageConfig
from minigpt.train.gradients import accumulated
from minigpt.train.loop import Objective
from minigpt.train.optim import Optimizer

SMOOTHING = 0.8  # of the running mean of losses
DIVERGED = 2.0  # times the lowest loss: the test ends


@dataclass(frozen=True)
class RateTest:
    """The smoothed loss at each rate while it grew, where it was lowest, and a third of that rate, a usual choice."""

    rates: list[float]
    losses: list[float]
    lowest_at: float
    suggested: float


def rate_test(
    backend: Backend, config: StageConfig, objective: Objective, weights: Tree, low: float, high: float, steps: int = 60
) -> RateTest:
    """Train while the rate grows from `low` to `high` by the same factor each step (Smith 2017).

    With Muon it is that of the matrices, and AdamW's keeps its ratio to it. It ends early when the loss is twice the
    lowest one.
    """
    gradient = backend.value_and_grad(objective.loss)
    base = config.matrix_learning_rate if config.optimizer == "muon" else config.learning_rate
    optimizer = Optimizer(backend, config, weights)
    moments, found, smooth = optimizer.init(weights), list[tuple[float, float]](), math.nan
    rates = np.geomspace(low, high, steps)
    for step, rate in enumerate(map(float, rates)):
        loss, _, grads = accumulated(
            backend, _with_base(gradient, objective), weights, objective.batches(step, weights),
            config.grad_accumulation,
        )  # fmt: skip
        value = float(backend.numpy(loss))
        smooth = value if math.isnan(smooth) else SMOOTHING * smooth + (1 - SMOOTHING) * value
        if not math.isfinite(value) or (found and smooth > DIVERGED * min(one for _, one in found)):
            break
        found.append((rate, smooth))
        grads, _ = optimizer.clip(grads)
        optimizer.config = _constant(config, rate, rate / base)
        weights, moments = optimizer.update(weights, grads, moments, step)
        backend.sync(weights, moments)
    lowest = min(found, key=lambda pair: pair[1])[0]
    return RateTest([rate for rate, _ in found], [loss for _, loss in found], lowest, lowest / 3)


def _with_base(gradient, objective: Objective):
    if objective.base is None:
        return gradient
    return lambda weights, batch: gradient(weights, batch, objective.base)


def _constant(config: StageConfig, rate: float, share: float) -> StageConfig:
    """The settings with this rate, the same in every step."""
    muon = config.optimizer == "muon"
    learning = config.learning_rate * share if muon else rate
    matrix = rate if muon else config.matrix_learning_rate * share
    return config.model_copy(update={
        "learning_rate": learning, "matrix_learning_rate": matrix, "warmup_steps": 0, "final_fraction": 1.0,
    })  # fmt: skip


@dataclass(frozen=True)
class NoiseScale:
    """The batch size, in rows, at which noise and signal of a gradient are alike (McCandlish et al. 2018).

    Far below it twice the rows need half of the steps, far above it they bring little. `low` and `high` are an interval
    over the batches; `signal` is |G|², `noise` the trace of the gradients' covariance per row.
    """

    rows: float
    low: float
    high: float
    signal: float
    noise: float
    batches: int


def noise_scale(
    backend: Backend, config: StageConfig, objective: Objective, weights: Tree, batches: int = 16, seed: int = 0
) -> NoiseScale:
    """From the gradients of several batches at the same weights: |G|² of one batch and of their mean (appendix A)."""
    gradient = _with_base(backend.value_and_grad(objective.loss), objective)
    rows = []
    for step in range(batches):
        _, _, grads = accumulated(
            backend, gradient, weights, objective.batches(step, weights), config.grad_accumulation
        )
        rows.append(np.concatenate([backend.numpy(backend.cast(x, "float32")).ravel() for x in leaves(grads)]))
    return noise_of(rows, config.batch_size, seed)


def noise_of(grads: Sequence[np.ndarray], batch_size: int, seed: int = 0) -> NoiseScale:
    """The noise scale from gradients (n, P) of batches of `batch_size` rows each; the bootstrap draws batches."""
    found = np.asarray(grads, np.float64)
    products = found @ found.T  # (n, n): all that is needed of them
    signal, noise = _estimates(products, np.ones(len(found)), batch_size)
    generator, drawn = np.random.default_rng(seed), []
    for _ in range(1000):
        counts = np.bincount(generator.integers(0, len(found), len(found)), minlength=len(found)).astype(float)
        a, b = _estimates(products, counts, batch_size)
        drawn.append(b / a if a > 0 else math.inf)
    low, high = np.quantile(drawn, [0.025, 0.975], method="nearest")
    return NoiseScale(noise / signal if signal > 0 else math.inf, float(low), float(high), signal, noise, len(found))


def _estimates(products: np.ndarray, counts: np.ndarray, batch_size: int) -> tuple[float, float]:
    """Unbiased |G|² and tr(Σ) per row: the mean product of different batches, and what a batch's own has beyond it."""
    own = np.diag(products)
    total, n = float(counts @ products @ counts), counts.sum()
    same = float((counts**2) @ own)  # a batch with itself, and with its copies
    pairs = n * n - (counts**2).sum()  # 0 when one batch was drawn only
    signal = (total - same) / pairs if pairs else 0.0
    return signal, batch_size * (float(counts @ own) / n - signal)
