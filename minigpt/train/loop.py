"""The one training loop: batches → parts → accumulated gradients → clip → update → events."""

import math
import time
from collections.abc import Callable

from backends.base import Array, Backend
from backends.tree import Tree, leaves, map_leaves, rebuild
from minigpt.config import StageConfig
from minigpt.data.batches import Batch, Batches, split
from minigpt.events import Eval, Report, Saved, Step
from minigpt.optim import Optimizer, rate
from minigpt.train.store import StageStore

Loss = Callable[[Tree, dict[str, Array]], tuple[Array, dict[str, Array]]]  # (weights, batch) -> (scalar, metrics)
Validate = Callable[[Tree], dict[str, float]]


def train(
    backend: Backend, stage: str, config: StageConfig, weights: Tree, loss: Loss, batches: Batches,
    validate: Validate, store: StageStore, report: Report,
) -> Tree:
    """Train `weights` for `config.steps` updates, from the store's last checkpoint if it has one.

    `loss` is a pure function whose value is already averaged by the batch's weights. The weights passed in
    must not be used afterwards. Returns the last weights; the store keeps the best ones too.
    """
    optimizer = Optimizer(backend, config, weights)
    gradient = backend.value_and_grad(loss, compiled=config.compile)
    weights, moments, start = store.resume(backend, weights, optimizer.init(weights))
    if start == 0:
        _evaluate(stage, 0, validate, weights, store, report)

    for step in range(start, config.steps):
        began = time.perf_counter()
        batch = batches(step)
        value, metrics, grads = accumulated(backend, gradient, weights, batch, config.accumulation)
        weights, moments, norm = optimizer.update(weights, grads, moments, step)
        backend.sync(weights, moments, value, norm)

        done = step + 1
        event = Step(
            stage, done, config.steps, float(value), config.learning_rate * rate(config, step), float(norm),
            batch["ids"].size, time.perf_counter() - began, {name: float(x) for name, x in metrics.items()},
        )  # fmt: skip
        report(event)
        if done % config.log_every == 0 or done == config.steps:
            record = {"step": done, "loss": event.loss, "learning_rate": event.learning_rate, "norm": event.norm}
            store.log(record | event.metrics | {"tokens": event.tokens, "seconds": round(event.seconds, 4)})
        saving = done % config.save_every == 0 or done == config.steps
        measured = {"loss": math.inf}
        try:
            if saving or done % config.eval_every == 0:
                measured = _evaluate(stage, done, validate, weights, store, report)
        finally:  # an evaluation that fails costs no training
            if saving:
                report(Saved(stage, done, store.save(backend, weights, moments, done, measured)))
    return weights


def accumulated(
    backend: Backend, gradient: Callable, weights: Tree, batch: Batch, parts: int
) -> tuple[Array, dict[str, Array], Tree]:
    """(loss, metrics, gradients) of a batch computed in equal parts.

    The batch's weights sum to 1 over all parts, so the plain sums are exactly those of the whole: a mean of
    the parts' means would be wrong when the parts have different numbers of tokens.
    """
    total = None
    for part in split(batch, parts):
        (value, metrics), grads = gradient(weights, {key: backend.array(x) for key, x in part.items()})
        if total is None:
            total = [value, metrics, leaves(grads)]
        else:
            total[0] = total[0] + value
            total[1] = map_leaves(lambda a, b: a + b, total[1], metrics)
            total[2] = backend.add_lists(total[2], leaves(grads))
        if parts > 1:
            backend.sync(total)
    value, metrics, sums = total
    return value, metrics, rebuild(weights, sums)


def _evaluate(stage: str, step: int, validate: Validate, weights: Tree, store: StageStore, report: Report):
    measured = validate(weights)
    store.log({"step": step} | {f"validation_{name}": value for name, value in measured.items()})
    report(Eval(stage, step, measured))
    return measured
