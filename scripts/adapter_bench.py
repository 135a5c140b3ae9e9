"""How long a training step takes and how much memory it needs: all weights, LoRA, DoRA, LoRA over few bits.

    python scripts/adapter_bench.py --preset small --backend torch --steps 5

Each way runs in a process of its own on the same random rows; the table says the machine, the versions and the ratio
to training all weights in the same call.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time

import numpy as np

from backends import get_backend
from minigpt.config import Config, load_config
from minigpt.model.gpt import GPT, init_weights, to_backend
from minigpt.model.lora import is_adapted, trained_count
from minigpt.quantize.codes import quantize_weights
from minigpt.sections import ModelConfig, TuneConfig
from minigpt.stages.adapter import adapted
from minigpt.train.gradients import accumulated
from minigpt.train.loop import Objective
from minigpt.train.losses import language_loss
from minigpt.train.optim import Optimizer

WAYS = {
    "all weights": {},
    "LoRA": {"lora_rank": 8},
    "LoRA on q, v": {"lora_rank": 8, "lora_targets": ["q_proj", "v_proj"]},
    "LoRA, dropout": {"lora_rank": 8, "lora_dropout": 0.1},
    "DoRA": {"lora_rank": 8, "dora": True},
    "LoRA over int4": {"lora_rank": 8, "lora_bits": 4},
}


def main() -> None:
    arguments = parser().parse_args()
    if arguments.way:
        print(json.dumps(measure(arguments.way, arguments.preset, arguments.backend, arguments.steps)))
        return
    backend = get_backend(arguments.backend)
    versions = ", ".join(f"{name} {value}" for name, value in backend.runtime.versions().items())
    print(f"{platform.platform()}, {versions}, preset {arguments.preset}, median of {arguments.steps} steps\n")
    print(f"{'way':<16}{'trained':>12}{'ms a step':>12}{'ratio':>8}{'peak MB':>10}{'ratio':>8}")
    first = None
    for way in WAYS:
        found = in_a_process(way)
        first = first or found
        times, memory = found["seconds"] / first["seconds"], found["peak"] / first["peak"]
        print(f"{way:<16}{found['trained']:>12,}{1000 * found['seconds']:>12,.0f}{times:>8.2f}"
              f"{found['peak'] / 1e6:>10,.0f}{memory:>8.2f}", flush=True)  # fmt: skip


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--preset", default="small")
    found.add_argument("--backend", default="torch")
    found.add_argument("--steps", type=int, default=5)
    found.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)  # the one that this process measures
    return found


def in_a_process(way: str) -> dict:
    command = [sys.executable, *sys.argv, "--way", way]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(way: str, preset: str, backend_name: str, steps: int) -> dict:
    """{"trained": numbers, "seconds": of a step, "peak": bytes of the process, less what it had before the model}."""
    backend, config = get_backend(backend_name), load_config(preset)
    start = peak_bytes()
    shape = config.model.model_copy(update={"vocab_size": config.tokenizer.vocab_size})
    settings = config.sft.model_copy(update=WAYS[way] | {"optimizer": "adamw"})
    step = training_step(backend, shape, settings, config)
    step(0)
    seconds = []
    for number in range(steps):
        began = time.perf_counter()
        step(1 + number)
        seconds.append(time.perf_counter() - began)
    peak = max(peak_bytes() - start, backend.runtime.memory()["peak"])
    return {"trained": trained_count(shape, settings), "seconds": statistics.median(seconds), "peak": peak}


def training_step(backend, shape: ModelConfig, settings: TuneConfig, config: Config):
    """step(number): gradient, clip and update on random rows, as `minigpt.train.loop` does it."""
    model = GPT(shape, backend, "float32", settings.activation_checkpointing, settings.loss_chunk)
    numbers = init_weights(shape, config.seed)
    weights = to_backend(backend, quantize_weights(numbers, settings.lora_bits) if settings.lora_bits else numbers)
    del numbers

    def loss(weights, batch):
        return language_loss(model, weights, batch), {}

    base, batches = None, random_rows(shape, settings.batch_size)
    if is_adapted(settings):
        weights, objective = adapted(backend, shape, settings, weights, 1, Objective(loss, batches, lambda w: {}))
        base, loss = objective.base, objective.loss
    gradient = backend.value_and_grad(loss, compiled=settings.compile)
    optimizer = Optimizer(backend, settings, weights)
    state = {"weights": weights, "moments": optimizer.init(weights)}

    def of_batch(weights, batch):
        return gradient(weights, batch) if base is None else gradient(weights, batch, base)

    def step(number: int) -> None:
        value, _, grads = accumulated(backend, of_batch, state["weights"], batches(number), settings.grad_accumulation)
        grads, _ = optimizer.clip(grads)
        state["weights"], state["moments"] = optimizer.update(state["weights"], grads, state["moments"], number)
        backend.sync(value, state)

    return step


def random_rows(shape: ModelConfig, rows: int):
    def batches(step: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(step)
        ids = rng.integers(0, shape.vocab_size, (rows, shape.context + 1)).astype(np.int32)
        weights = np.full((rows, shape.context), 1 / rows / shape.context, np.float32)
        return {"ids": ids[:, :-1], "targets": ids[:, 1:], "weights": weights}

    return batches


def peak_bytes() -> int:
    """The most memory that this process had resident so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
