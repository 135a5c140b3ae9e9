"""What experts cost beside a dense model of equal arithmetic: a training step, and a token of an answer.

    python scripts/moe_speed.py --backend torch mlx --repeats 7

Both are timed by turns in one process, so that what else the machine does meets both; the table has ratios. The dense
layer is as wide as the experts of one token together. A step is a batch's gradients and the optimizer's update, whose
work grows with all experts and not with the tokens; `gradients` is the step without it. `--profile` adds where a
step's time goes (torch).
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from backends import get_backend
from backends.base import Backend
from minigpt.generate.engine import Engine
from minigpt.generate.sampling import GREEDY
from minigpt.model.gpt import GPT, flops_per_token, init_weights, to_backend
from minigpt.sections import ModelConfig, StageConfig
from minigpt.text.characters import CharTokenizer
from minigpt.train.auxiliary import has_auxiliary, with_auxiliary
from minigpt.train.losses import language_loss
from minigpt.train.optim import Optimizer

SHAPE = {"n_layer": 4, "n_head": 8, "n_kv_head": 4, "d_model": 256, "context": 256, "vocab_size": 2048}
DENSE = ModelConfig(**SHAPE, d_ff=704)
WAYS = {
    "8 experts, top 2": ModelConfig(**SHAPE, experts=8, expert_width=352),
    "4 experts, top 1": ModelConfig(**SHAPE, experts=4, experts_per_token=1, expert_width=704),
    "8 experts, top 2, one shared": ModelConfig(**SHAPE, experts=8, experts_per_token=1, shared_experts=1,
                                                expert_width=352),
    "16 experts, top 4": ModelConfig(**SHAPE, experts=16, experts_per_token=4, expert_width=176),
}  # fmt: skip


def main() -> None:
    arguments = parser().parse_args()
    for name in arguments.backend:
        backend = get_backend(name, "cpu" if arguments.cpu else "auto")
        backend.gathers = arguments.gathers or backend.gathers
        versions = ", ".join(f"{key} {value}" for key, value in backend.runtime.versions().items())
        print(f"{name} on {backend.device} ({versions}), {arguments.rows} rows of {DENSE.context} tokens")
        print(f"{'model':<32}{'arithmetic':>11}{'gradients':>11}{'step':>8}{'answer':>8}   (of the dense model's)")
        for way, config in WAYS.items():
            arithmetic = flops_per_token(config, DENSE.context) / flops_per_token(DENSE, DENSE.context)
            gradients, steps = (
                ratio(*(step(backend, one, arguments.rows, how) for one in (config, DENSE)), arguments.repeats)
                for how in ("", arguments.optimizer)
            )
            answers = ratio(*(answer(backend, one, arguments.tokens) for one in (config, DENSE)), arguments.repeats)
            print(f"{way:<32}{arithmetic:>10.2f}×{gradients:>10.2f}×{steps:>7.2f}×{answers:>7.2f}×", flush=True)
        if arguments.profile and name == "torch":
            profile(step(backend, WAYS["8 experts, top 2"], arguments.rows))


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--backend", nargs="+", default=["torch", "mlx"])
    found.add_argument("--cpu", action="store_true", help="not on a GPU, if there is one")
    found.add_argument("--repeats", type=int, default=7)
    found.add_argument("--rows", type=int, default=8, help="of a step")
    found.add_argument("--optimizer", choices=("adamw", "muon"), default="adamw")
    found.add_argument("--tokens", type=int, default=64, help="of an answer")
    found.add_argument("--gathers", action="store_true", help="one grouped product, as on a GPU")
    found.add_argument("--profile", action="store_true")
    return found


def ratio(first: Callable, second: Callable, repeats: int) -> float:
    """The median, over turns, of the first's time through the second's; a turn before does not count."""
    found = []
    for _ in range(repeats + 1):
        times = []
        for work in (first, second):
            began = time.perf_counter()
            work()
            times.append(time.perf_counter() - began)
        found.append(times[0] / times[1])
    return statistics.median(found[1:])


def step(backend: Backend, config: ModelConfig, rows: int, optimizer: str = "") -> Callable[[], None]:
    """A function that computes the loss and gradients of one batch, and with an `optimizer` the next weights."""
    model = GPT(config, backend)
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (rows, config.context + 1)).astype(np.int32)
    batch = {"ids": ids[:, :-1], "targets": ids[:, 1:], "weights": np.full((rows, config.context), 1 / ids[:, 1:].size)}
    batch = {name: backend.array(x if name != "weights" else x.astype(np.float32)) for name, x in batch.items()}

    def loss(weights, batch):
        return language_loss(model, weights, batch), {}

    gradient = backend.value_and_grad(with_auxiliary(model, loss) if has_auxiliary(config) else loss, compiled=True)
    weights = to_backend(backend, init_weights(config, 0))
    if not optimizer:
        return lambda: backend.sync(gradient(weights, batch))
    updates = Optimizer(backend, StageConfig(optimizer=optimizer), weights)
    now = [weights, updates.init(weights)]

    def whole() -> None:
        _, grads = gradient(now[0], batch)
        clipped, _ = updates.clip(grads)
        now[:] = updates.update(now[0], clipped, now[1], 0)
        backend.sync(*now)

    return whole


def answer(backend: Backend, config: ModelConfig, tokens: int) -> Callable[[], None]:
    """A function that writes one greedy answer."""
    engine = Engine(GPT(config, backend), to_backend(backend, init_weights(config, 0)), CharTokenizer(""))
    return lambda: engine.answer([[5, 9, 7]], GREEDY, tokens)


def profile(work: Callable[[], None]) -> None:
    """Where torch spends the time of a step."""
    import torch

    work()
    with torch.profiler.profile() as found:
        work()
    print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=14, max_name_column_width=40))


if __name__ == "__main__":
    main()
