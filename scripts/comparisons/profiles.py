"""Where the time of a training step and of a decode step goes, and the machine's own limit for it.

Each kind of work is computed alone, with the shapes and as often as a step has it; what the step takes beyond their
sum is "the rest": the residual stream, embeddings, Python and what pieces lose when they run after each other.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from comparisons.duel import worker
from comparisons.growth_points import seconds

from backends import BACKENDS, get_backend
from backends.base import Array, Backend
from minigpt.config import Config, load_config
from minigpt.machine.check import matmul_rate
from minigpt.model.gpt import GPT, flops_per_token, init_weights, to_backend, weight_shapes
from minigpt.sections import ModelConfig

ROWS, BEFORE = 4, 512  # rows of a training step; tokens before the decoded one
Profile = dict[str, Any]


def profiles() -> Iterator[Profile]:
    """A training step and a decode step of 26 M parameters in float32 on each backend."""
    for backend in BACKENDS:
        for kind in ("training", "decode"):
            with tempfile.TemporaryDirectory(prefix="bench-") as directory:
                figures, _ = worker(Path(directory), "profiles", backend, kind)
            yield {"what": f"A {kind} step of 26 M, {backend}"} | figures


def training(backend: Backend) -> Profile:
    """Gradient, clip and AdamW's update of `ROWS` rows; its limit is the arithmetic at the rate of large products."""
    from adapter_bench import training_step

    config = _config()
    model, context = config.model, config.model.context
    step = training_step(backend, model, config.sft, config)
    step(0)
    whole = seconds(lambda: step(1))
    limit = ROWS * context * flops_per_token(model, context) / (1e9 * matmul_rate(backend))
    return _profile(whole, list(_training_pieces(backend, model)), limit)


def decode(backend: Backend) -> Profile:
    """One token behind `BEFORE` others; its limit is reading each weight once, as fast as one large product reads."""
    from minigpt.generate.cache import new_cache

    config = _config().model
    model, weights = GPT(config, backend), to_backend(backend, init_weights(config, 1))
    cache = new_cache(backend, config, 1, BEFORE + 1, "float32")
    one = backend.array(np.ones((1, 1), np.int32))

    def step() -> None:
        cache.length = BEFORE
        backend.sync(model.logits(weights, model.hidden(weights, one, cache=cache)))

    with backend.inference():
        step()
        whole = _each(step)
        pieces = _decode_pieces(backend, config)
        matrices = sum(4 * int(np.prod(shape)) for shape in weight_shapes(config).values() if len(shape) == 2)
        return _profile(whole, pieces, matrices / _reading_rate(backend))


def _training_pieces(backend: Backend, c: ModelConfig) -> Iterator[tuple[str, float]]:
    """(kind of work, seconds) of all layers; the backend's lanes share the rows, as in a step."""
    rows, scale = ROWS // backend.lanes, c.head_dim**-0.5
    tokens = rows * c.context
    draw = _Draw(backend)
    shapes = [shape for name, shape in weight_shapes(c).items() if len(shape) == 2]  # tied: the embeddings are the head
    layer, head = shapes[1 : 1 + (len(shapes) - 1) // c.n_layer], shapes[0]
    products = [draw(tokens, s[1]) for s in layer], [draw(*s) for s in layer]
    yield "matrix products of the layers", c.n_layer * _gradient(
        backend, lambda xs, ws: sum(backend.linear(x, w).sum() for x, w in zip(xs, ws, strict=True)), *products
    )
    yield "the output matrix", _gradient(
        backend, lambda x, w: backend.linear(x, w).sum(), draw(tokens, head[1]), draw(*head)
    )
    heads = [(c.n_head, c.head_dim), (c.n_kv_head, c.head_dim), (c.n_kv_head, c.head_dim)]
    q, k, v = (draw(rows, n, c.context, width) for n, width in heads)
    yield "attention", c.n_layer * _gradient(backend, lambda *x: backend.attention(*x, scale).sum(), q, k, v)
    yield "rotary positions", c.n_layer * _gradient(
        backend, lambda q, k: sum(backend.rope(x, 0, c.rope_theta).sum() for x in (q, k)), q, k
    )
    x, w = draw(rows, c.context, c.d_model), draw(c.d_model)
    yield "RMSNorm", 2 * c.n_layer * _gradient(backend, lambda x, w: backend.rms_norm(x, w, 1e-5).sum(), x, w)
    gate, up = draw(tokens, c.d_ff), draw(tokens, c.d_ff)
    yield "SwiGLU's gate", c.n_layer * _gradient(backend, lambda a, b: (backend.silu(a) * b).sum(), gate, up)
    logits, targets = draw(tokens, c.vocab_size), backend.array(np.ones(tokens, np.int32))
    yield "the loss", _gradient(backend, lambda x: backend.token_nll(x, targets).sum(), logits)
    yield "clip and AdamW", _update(backend, c)


def _decode_pieces(backend: Backend, c: ModelConfig) -> list[tuple[str, float]]:
    draw, scale = _Draw(backend), c.head_dim**-0.5
    # arrays of their own for every layer: what stays in a cache is read faster than a model's weights
    matrices = [draw(*shape) for shape in weight_shapes(c).values() if len(shape) == 2]
    inputs = {w.shape[1]: draw(1, 1, w.shape[1]) for w in matrices}
    q = draw(1, c.n_head, 1, c.head_dim)
    caches = [[draw(1, c.n_kv_head, BEFORE + 1, c.head_dim) for _ in range(2)] for _ in range(c.n_layer)]
    return [
        ("matrix products", _each(lambda: backend.sync([backend.linear(inputs[w.shape[1]], w) for w in matrices]))),
        ("attention", _each(lambda: backend.sync([backend.attention(q, k, v, scale) for k, v in caches]))),
    ]


def _profile(whole: float, pieces: list[tuple[str, float]], limit: float) -> Profile:
    rest = whole - sum(time for _, time in pieces)
    rows = [[what, 1000 * time, time / whole] for what, time in [*pieces, ("the rest", rest)]]
    return {"rows": rows, "ms": 1000 * whole, "limit ms": 1000 * limit, "distance": whole / limit}


def _gradient(backend: Backend, work: Callable[..., Array], *inputs: Any) -> float:
    """Seconds of work forwards and backwards, in all lanes at once."""
    gradient = backend.value_and_grad(lambda given: (work(*given), {}))

    def in_lanes() -> None:
        backend.sync(backend.side_by_side(lambda _: gradient(list(inputs)), range(backend.lanes)))

    in_lanes()
    return seconds(in_lanes)


def _update(backend: Backend, c: ModelConfig) -> float:
    from minigpt.train.optim import Optimizer

    weights = to_backend(backend, init_weights(c, 1))
    optimizer = Optimizer(backend, _config().sft, weights)
    state = [weights, optimizer.init(weights)]
    gradients = [to_backend(backend, init_weights(c, seed)) for seed in range(5)]  # a clip uses them up

    def update() -> None:
        grads, _ = optimizer.clip(gradients.pop())
        state[:] = optimizer.update(state[0], grads, state[1], 0)
        backend.sync(state)

    update()
    return seconds(update)


def _reading_rate(backend: Backend) -> float:
    """Bytes per second that the product of one row with a matrix of 256 MB reads."""
    draw = _Draw(backend)
    x, w = draw(1, 8192), draw(8192, 8192)
    return 4 * 8192 * 8192 / _each(lambda: backend.sync(backend.linear(x, w)))


def _each(work: Callable[[], object], times: int = 20) -> float:
    return seconds(lambda: [work() for _ in range(times)]) / times


def _config() -> Config:
    """The medium preset's shape without what only some models have, with AdamW in float32."""
    sets = ["model.qk_norm=false", "model.vocab_size=6400", f"sft.batch_size={ROWS}", "sft.accumulation=1"]
    return load_config("medium", None, [*sets, "sft.optimizer=adamw", "sft.dtype=float32"])


class _Draw:
    """Seeded normal arrays."""

    def __init__(self, backend: Backend):
        self.backend, self.stream = backend, np.random.default_rng(1)

    def __call__(self, *shape: int) -> Array:
        return self.backend.array(0.02 * self.stream.standard_normal(shape, np.float32))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("backend", choices=BACKENDS)
    parser.add_argument("kind", choices=["training", "decode"])
    given = parser.parse_args()
    profile = {"training": training, "decode": decode}[given.kind]
    print(json.dumps(profile(get_backend(given.backend, "cpu"))))
