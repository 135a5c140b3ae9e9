"""What each of several processes takes at its peak: with all of a model, with a part of the moments, with a part of
everything; a few steps and a checkpoint, beside what `minigpt plan` says.

As a program: `memory.py BACKEND FILE WAY`, alone or under a launcher, where WAY is a value of StageConfig.shard.
"""

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from backends import get_backend
from backends.group import launched
from minigpt.cli.launching import launch_command
from minigpt.data.batches import normalized
from minigpt.data.forms import TEXTS
from minigpt.machine.ceiling import give_back
from minigpt.machine.processes import max_resident, resident, restart_peak
from minigpt.model.gpt import GPT, init_weights, parameter_count, to_backend
from minigpt.plan.memory import stage_memory
from minigpt.sections import ModelConfig, StageConfig
from minigpt.store.stage import StageStore
from minigpt.train.fully_sharded import FULL, LAYERS, FullySharded
from minigpt.train.gradients import accumulated
from minigpt.train.losses import language_loss
from minigpt.train.sharded import ShardedMoments
from minigpt.train.together import Together

SHAPE = ModelConfig(n_layer=24, d_model=384, n_head=6, n_kv_head=6, d_ff=1056, context=64, vocab_size=1024)
WAYS = {"torch": ("none", "moments", FULL), "mlx": ("none", "moments")}
ROWS, STEPS = 4, 3
COLUMNS = ("backend", "processes", "shared out", "peak of each process", "planned")
HERE = Path(__file__)


def compared(directory: Path, backend: str, counts: list[int]) -> list[list[str]]:
    """A row for each number of processes and way."""
    rows, file = [], directory / "memory.json"
    for count in counts:
        for way in WAYS[backend]:
            path = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
            command = launch_command(backend, count, [str(HERE), backend, str(file), way])
            subprocess.run(command, env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
                           stdin=subprocess.PIPE, check=True)  # fmt: skip
            found = json.loads(file.read_text("utf-8"))
            planned = stage_memory(SHAPE, TEXTS, settings(way), (backend, "cpu"), "float32", 0, processes=count).total
            told = ", ".join(f"{bytes_ / 1e6:,.0f} MB" for bytes_ in found)
            rows.append([backend, str(count), way, told, f"{planned / 1e6:,.0f} MB"])
    return rows


def settings(way: str) -> StageConfig:
    return StageConfig(steps=10, batch_size=ROWS, shard=way)


def main(name: str, file: Path, way: str) -> None:
    backend, config = get_backend(name, "cpu"), settings(way)
    backend.group = group = backend.grouped(launched())
    group.in_step = way == FULL
    group.gather(None)
    before = resident()
    start = init_weights(SHAPE, 1)
    weights = group.shared_out(start, LAYERS, "float32") if group.in_step else to_backend(backend, start)
    del start
    ways = {"none": lambda backend, store: Together(backend), "moments": lambda backend, store: ShardedMoments(backend),
            FULL: FullySharded}  # fmt: skip
    store = StageStore(file.with_name(f"{way}-{group.size}"), writes=group.rank == 0)
    model, together = GPT(SHAPE, backend), ways[way](backend, store)
    optimizer = together.optimizer(config, weights)
    moments = optimizer.init(weights)

    def loss(weights, batch):
        return language_loss(model, weights, batch), {}

    gradient = backend.value_and_grad(loss)
    ids = np.random.default_rng(1).integers(0, SHAPE.vocab_size, (ROWS, SHAPE.context + 1)).astype(np.int32)
    counted = np.ones((ROWS, SHAPE.context), np.float32)
    batch = normalized({"ids": ids[:, :-1], "targets": ids[:, 1:], "weights": counted})
    backend.sync(weights, moments)
    gc.collect()
    give_back(backend)
    restart_peak()
    for step in range(STEPS):
        result = accumulated(backend, gradient, weights, together.rows(batch), 1)
        grads, _ = optimizer.clip(together.summed(*result)[2])
        del result
        weights, moments = optimizer.update(weights, grads, moments, step)
        backend.sync(weights, moments)
        del grads
    together.saved(store, weights, moments, {"step": STEPS, "metrics": {"loss": 0.0}}, 1)
    found = group.gather(max_resident() - before)
    if group.rank == 0:
        file.write_text(json.dumps(found), "utf-8")
        print(f"{parameter_count(SHAPE):,} parameters, {way}", file=sys.stderr)
    group.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
