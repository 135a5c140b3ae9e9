"""One point of a curve in growth.py: the figures of one size, measured in this process."""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from comparisons.duel import Figures

TIMES = 3


def step(backend: str, **sizes: int) -> Figures:
    """Gradient, clip and update on random rows, behind one that warms up."""
    from adapter_bench import training_step
    from comparisons.growth import config_of

    from backends import get_backend

    config = config_of(**sizes)
    train = training_step(get_backend(backend, "cpu"), config.model, config.sft, config)
    train(0)
    return {"seconds a step": seconds(lambda: train(1))}


def decode(backend: str, context: int) -> Figures:
    """A token behind `context` others, and reading these."""
    from comparisons.growth import config_of
    from comparisons.start import made_up_tokenizer

    from backends import get_backend
    from minigpt.generate.engine import Engine
    from minigpt.generate.sampling import GREEDY
    from minigpt.model.gpt import GPT, init_weights, to_backend

    framework, new = get_backend(backend, "cpu"), 17
    shape = config_of(context=context + new).model
    weights = to_backend(framework, init_weights(shape, 1))
    engine = Engine(GPT(shape, framework), weights, made_up_tokenizer(shape.vocab_size))
    prompt = [300 + i % 1000 for i in range(context)]
    engine.answer([prompt], GREEDY, 1)
    reading = seconds(lambda: engine.answer([prompt], GREEDY, 1))
    both = seconds(lambda: engine.answer([prompt], GREEDY, new))
    return {"ms a token": 1000 * (both - reading) / (new - 1), "ms for the prompt": 1000 * reading}


def sampling(size: int) -> Figures:
    """One draw from `size` logits with every filter on."""
    from minigpt.generate.sampling import Sampling, sample

    logits = np.random.default_rng(1).normal(size=size).astype(np.float32)
    settings, seen = Sampling(0.8, 50, 0.9, 0.05, 1.1), np.arange(200)
    return {"ms a token": 1000 * seconds(lambda: [sample(logits, settings, seen, i) for i in range(20)]) / 20}


def packing(size: int) -> Figures:
    """`size` examples of 20 to 400 tokens into rows of 512."""
    from minigpt.data.batches import pack

    sizes = np.random.default_rng(1).integers(20, 400, size)
    return {"seconds": seconds(lambda: pack(sizes, np.arange(size), 512))}


def logging(size: int) -> Figures:
    """What `size` steps cost beside their computation: the verdict on the loss and a line in metrics.jsonl."""
    from minigpt.store.stage import StageStore
    from minigpt.train.health import Health

    def log() -> None:
        store, health = StageStore(Path("pretrain")), Health()
        for number in range(size):
            health.judge(3.0, 1.0, True, 5, 1.5)
            store.log({"step": number, "loss": 3.0, "learning_rate": 1e-3, "norm": 1.0, "tokens": 2048})

    return {"seconds": seconds(log)}


def seconds(work: Callable[[], object]) -> float:
    """Of one call, the median of three."""
    found = []
    for _ in range(TIMES):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


if __name__ == "__main__":
    kinds = {"step": step, "decode": decode, "sampling": sampling, "packing": packing, "logging": logging}
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=kinds)
    parser.add_argument("sizes", type=json.loads)
    given = parser.parse_args()
    print(json.dumps(kinds[given.kind](**given.sizes)))
