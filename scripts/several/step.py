"""What a process does whose steps are timed: `step.py BACKEND FILE STEPS`, alone or under a launcher.

The first one writes {"step", "update", "tokens", "bytes", "sum"} into FILE. BACKEND is torch, mlx, or torch-early for
sums that begin while torch's backward pass computes. `step.py exchanges FILE CALLS` only sums arrays
of many shapes, and the first process writes a byte for each call.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

from backends import get_backend
from backends.base import Backend
from backends.group import Group, launched
from backends.tree import Tree, count, leaves
from minigpt.data.batches import normalized
from minigpt.model.gpt import GPT, init_weights, to_backend
from minigpt.sections import ModelConfig, StageConfig
from minigpt.train.gradients import accumulated
from minigpt.train.losses import language_loss
from minigpt.train.optim import Optimizer
from minigpt.train.together import Together
from several.speed import typical

ROWS, CONTEXT = 8, 64
EARLY = "-early"
SHAPES = [(700, 32), (32, 32), (16, 32), (64, 32), (32, 64), (32,), (32,), (1,)]


def main(name: str, file: Path, number: int) -> None:
    backend = get_backend("mlx" if name == "exchanges" else name.removesuffix(EARLY), "cpu")
    found = launched()
    if found is not None and found.size > 1:
        backend.group = backend.grouped(found)
    if name == "exchanges":
        _exchanges(backend, backend.group, file, number)
        return
    shape = ModelConfig(n_layer=2, d_model=128, n_head=4, n_kv_head=2, d_ff=352, context=CONTEXT, vocab_size=2048)
    model, together = GPT(shape, backend), Together(backend)
    weights = to_backend(backend, init_weights(shape, 1))
    optimizer = Optimizer(backend, StageConfig(steps=number), weights)
    moments = optimizer.init(weights)

    def loss(weights: Tree, batch: dict) -> tuple:
        return language_loss(model, weights, batch), {}

    gradient = backend.value_and_grad(loss)
    if name.endswith(EARLY):
        from several.early import EarlySums

        gradient = EarlySums(loss)
    ids = np.random.default_rng(1).integers(0, 2048, (ROWS, CONTEXT + 1)).astype(np.int32)
    batch = normalized({"ids": ids[:, :-1], "targets": ids[:, 1:], "weights": np.ones((ROWS, CONTEXT), np.float32)})
    steps, updates = [], []
    for step in range(number):
        began = time.perf_counter()
        result = accumulated(backend, gradient, weights, together.rows(batch), 1)
        grads = result[2] if name.endswith(EARLY) else together.summed(*result)[2]
        backend.sync(grads)
        summed = time.perf_counter()
        grads, _ = optimizer.clip(grads)
        weights, moments = optimizer.update(weights, grads, moments, step)
        backend.sync(weights, moments)
        steps.append(summed - began)
        updates.append(time.perf_counter() - summed)
    backend.group.gather(None)
    if backend.group.rank == 0:
        told = {"step": typical(steps), "update": typical(updates), "tokens": ROWS * CONTEXT,
                "bytes": 4 * count(weights), "sum": float(sum(w.sum() for w in leaves(weights)))}  # fmt: skip
        file.write_text(json.dumps(told), "utf-8")


def _exchanges(backend: Backend, group: Group, file: Path, number: int) -> None:
    for _ in range(number):
        found = group.sum([backend.array(np.full(shape, group.rank + 1.0, np.float32)) for shape in SHAPES])
        assert float(found[-1][0]) == group.size * (group.size + 1) / 2
        if group.rank == 0:
            with file.open("ab") as done:
                done.write(b".")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
