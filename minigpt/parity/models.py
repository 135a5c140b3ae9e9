"""Whole models and losses on the same weights and batch: logits, per-leaf gradients, bfloat16, packed rows."""

import functools
import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from backends import tree
from backends.base import Array, Backend
from minigpt.model.gpt import GPT, to_backend, weight_shapes
from minigpt.parity.case import BF16, FP32
from minigpt.parity.options import OPTIONS, TRAINED_OPTIONS
from minigpt.parity.reference import Row, difference, reference, row
from minigpt.sections import ModelConfig, RopeScaling
from minigpt.train.auxiliary import has_auxiliary, with_auxiliary
from minigpt.train.losses import language_loss, sequence_logprobs
from minigpt.train.preferences import PreferenceSettings, preference_losses

# The residual stream adds up the roundings of all layers, the backward pass those of both directions.
BF16_LOGITS = 2 * BF16
BF16_GRADIENT = 4 * BF16

Loss = Callable[[GPT, tree.Tree, dict[str, Array]], Array]  # (model, weights, batch) -> scalar


@dataclass(frozen=True, eq=False)
class ModelCase:
    """A tiny model and how it is run."""

    name: str
    config: ModelConfig
    checkpointing: bool = False
    segments: bool = False  # each row holds several examples
    padded: bool = False  # the last three tokens of each row are none


def _tiny(heads: int = 4, groups: int = 2, **settings) -> ModelConfig:
    shape = {"n_layer": 2, "n_head": heads, "n_kv_head": groups, "d_model": 32, "head_dim": 8, "d_ff": 48}
    return ModelConfig(**shape, vocab_size=61, context=16, **settings)


GPT2 = {
    "norm": "layer", "positions": "learned", "feed_forward": "gelu_tanh", "qkv_bias": True, "output_bias": True,
    "mlp_bias": True,
}  # fmt: skip
YARN = RopeScaling(kind="yarn", factor=4.0, original_context=8)

OWN_CASES = (
    ModelCase("MHA, tied", _tiny(groups=4)),
    ModelCase("GQA, tied", _tiny()),
    ModelCase("GQA, untied", _tiny(tie_embeddings=False)),
    ModelCase("MQA, untied, QK-norm", _tiny(groups=1, tie_embeddings=False, qk_norm=True)),
    ModelCase("heads wider than d / H, theta 1e6", _tiny(heads=6, groups=3, rope_theta=1e6)),
    ModelCase("GQA, tied, checkpointing", _tiny(), checkpointing=True),
    ModelCase("GQA, untied, QK-norm, segments", _tiny(tie_embeddings=False, qk_norm=True), segments=True),
    ModelCase("MQA, tied, segments, checkpointing", _tiny(groups=1), checkpointing=True, segments=True),
    ModelCase("GPT-2, LayerNorm, learned positions, GELU, biases", _tiny(groups=4, max_positions=20, **GPT2)),
    ModelCase("GPT-2, exact GELU, segments", _tiny(groups=4, **GPT2 | {"feed_forward": "gelu"}), segments=True),
    ModelCase("sliding window 5", _tiny(sliding_window=5)),
    ModelCase("sliding window 2, segments, checkpointing", _tiny(sliding_window=2), True, True),
    ModelCase("biases, YaRN", _tiny(qkv_bias=True, output_bias=True, mlp_bias=True, rope_scaling=YARN)),
)
MODEL_CASES = (
    *OWN_CASES, *(ModelCase(name, _tiny(**settings), *ways) for name, (settings, *ways) in OPTIONS.items()),
    *(ModelCase(name, _tiny(**settings), *ways) for name, (settings, *ways) in TRAINED_OPTIONS.items()),
)  # fmt: skip


def _preference_loss(kind: str) -> Loss:
    def loss(model: GPT, weights: tree.Tree, batch: dict[str, Array]) -> Array:
        policy = sequence_logprobs(model, weights, batch)  # (B, P, 2)
        reference, settings = batch["reference"], PreferenceSettings()
        losses = preference_losses(model.backend, policy, reference, kind, settings, batch["spans"])  # (B, P)
        return (losses * batch["pairs"]).sum()

    return loss


def whole_loss(model: GPT, weights: tree.Tree, batch: dict[str, Array]) -> Array:
    """The language loss with what the model's own options add to it."""

    def loss(weights: tree.Tree, batch: dict[str, Array]) -> tuple[Array, dict]:
        return language_loss(model, weights, batch), {}

    return (with_auxiliary(model, loss) if has_auxiliary(model.config) else loss)(weights, batch)[0]


LOSSES: dict[str, Loss] = {
    "language": language_loss, "DPO sigmoid": _preference_loss("sigmoid"), "DPO IPO": _preference_loss("ipo"),
}  # fmt: skip


def compare_models(backends: list[Backend], cases: Iterable[ModelCase] | None = None) -> list[Row]:
    """Rows for all `cases` (default: MODEL_CASES): each backend against NumPy, and each pair leaf by leaf."""
    rows: list[Row] = []
    for case in MODEL_CASES if cases is None else cases:
        rows += _compare_logits(backends, case)
        rows += compare_loss("model", case.name, backends, case, whole_loss, whole_loss)
        rows += _compare_bfloat16(backends, case)
        rows += [_compare_packed(b, case) for b in [*backends, reference()] if not (case.segments or case.padded)]
    return rows


LOSS_CASE = ModelCase("", _tiny(), segments=True)  # one object, so that NumPy's gradients are computed once


def compare_losses(backends: list[Backend], losses: dict[str, Loss] | None = None) -> list[Row]:
    """Rows for the training losses: value and gradients against NumPy's value and central differences of LOSSES.

    `losses` stands in for LOSSES on the backends only, which is how the controls bring in wrong ones.
    """
    return [
        r
        for name, loss in (LOSSES if losses is None else losses).items()
        for r in compare_loss("loss", name, backends, LOSS_CASE, loss, LOSSES[name])
    ]


def random_weights(config: ModelConfig, seed: int = 3) -> tree.Tree:
    """Float32 NumPy weights unlike those at the start of training: large matrices, norms not 1, biases not 0."""
    flat = {}
    for name, shape in weight_shapes(config).items():
        draw = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape)
        vector = 0.3 * draw + (not name.endswith("bias"))
        flat[name] = (vector if len(shape) == 1 else draw / shape[1] ** 0.5).astype(np.float32)
    return tree.unflatten(flat)


def _compare_logits(backends: list[Backend], case: ModelCase) -> Iterator[Row]:
    logits = {b.name: _logits(b, case) for b in [*backends, reference()]}
    for a, b in itertools.combinations(logits, 2):
        yield row("model", case.name, "logits", f"{a} vs {b}", difference(logits[a], logits[b]), FP32)


def compare_loss(
    check: str, name: str, backends: list[Backend], case: ModelCase, loss: Loss, right: Loss
) -> Iterator[Row]:
    """Value and gradients of `loss` on the backends against NumPy's of the `right` one, and each pair leaf by leaf."""
    exact, gradients = _gradients(case, right)
    results = {b.name: _value_and_grad(b, case, loss) for b in backends}
    for backend, (value, grads) in results.items():
        least = _least(grads)
        yield row(check, name, "loss", f"{backend} vs numpy", difference(value, exact), FP32)
        for leaf, (direction, along) in gradients.items():
            size = max(float(np.linalg.norm(grads[leaf])), least)
            found = abs(float((grads[leaf] * direction).sum(dtype=np.float64)) - along) / size
            yield row(check, f"{name}: {leaf}", "gradient along a direction", f"{backend} vs numpy", found, FP32)
    for (a, (_, grads)), (b, (_, others)) in itertools.combinations(results.items(), 2):
        for leaf in grads:
            found = _difference(leaf, grads, others)
            yield row(check, f"{name}: {leaf}", "gradient", f"{a} vs {b}", found, FP32)


def _least(grads: dict[str, np.ndarray]) -> float:
    """A hundredth of the largest leaf's norm: what a leaf's gradient is measured against when its own is less.

    A key's bias moves all scores of a query alike when nothing rotates the keys: its gradient is rounding only.
    """
    return 1e-2 * max(float(np.linalg.norm(g)) for g in grads.values())


def _difference(leaf: str, found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    if np.linalg.norm(expected[leaf]) >= _least(expected):
        return difference(found[leaf], expected[leaf])
    return float(np.linalg.norm(found[leaf] - expected[leaf])) / _least(expected)


def _compare_bfloat16(backends: list[Backend], case: ModelCase) -> Iterator[Row]:
    exact, name = _logits(reference(), case), f"{case.name}, bfloat16"
    for b in backends if not case.config.experts else ():  # rounding may send a token to another expert
        found = difference(_logits(b, case, "bfloat16"), exact)
        yield row("model", name, "logits", f"{b.name} vs numpy", found, BF16_LOGITS)
        model, weights, batch = problem(b, case, "bfloat16")
        promoted = b.dtype(model(weights, batch["ids"])) != "bfloat16"
        yield row("model", name, "dtype", f"{b.name} vs stated", float(promoted), 0.0)
        if case.config.feed_forward == "relu":  # its gradient jumps at 0, and rounding sends numbers to the other side
            continue
        _, narrow = _value_and_grad(b, case, language_loss, "bfloat16")
        _, wide = _value_and_grad(b, case, language_loss)
        for leaf in wide:
            found = _difference(leaf, narrow, wide)
            yield row("model", f"{name}: {leaf}", "gradient", f"{b.name} vs its float32", found, BF16_GRADIENT)


def _compare_packed(backend: Backend, case: ModelCase) -> Row:
    """Two examples in one row give the logits that each gives alone."""
    model, weights, _ = problem(backend, case)
    parts = [_ids(case.config, seed=5, batch=1, tokens=tokens) for tokens in (4, 8)]
    alone = [backend.numpy(model(weights, backend.array(part))) for part in parts]
    segments = backend.array(np.repeat([[1, 2]], [4, 8], axis=1).astype(np.int32))  # (1, 12)
    packed = model(weights, backend.array(np.concatenate(parts, axis=1)), segments=segments)
    found = difference(backend.numpy(packed), np.concatenate(alone, axis=1))
    return row("model", case.name, "logits", f"{backend.name} packed vs alone", found, FP32)


def _logits(backend: Backend, case: ModelCase, dtype: str = "float32") -> np.ndarray:
    model, weights, batch = problem(backend, case, dtype)
    return backend.numpy(model(weights, batch["ids"], segments=batch.get("segments")))  # (2, 12, V)


def _value_and_grad(
    backend: Backend, case: ModelCase, loss: Loss, dtype: str = "float32"
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    model, weights, batch = problem(backend, case, dtype)
    (value, _), grads = backend.value_and_grad(lambda w, data: (loss(model, w, data), {}))(weights, batch)
    return backend.numpy(value), {name: backend.numpy(g) for name, g in tree.items(grads)}


@functools.cache
def _gradients(case: ModelCase, loss: Loss, step: float = 1e-5) -> tuple[np.ndarray, dict[str, tuple]]:
    """The loss, and leaf -> (a direction of random signs, the loss's gradient along it by central differences)."""
    exact = reference()
    model, weights, batch = problem(exact, case)
    value, again = exact.frozen(lambda w: loss(model, w, batch), weights)
    leaves = tree.leaves(weights)

    def at(number: int, shift: np.ndarray | float) -> float:
        shifted = [w + shift if i == number else w for i, w in enumerate(leaves)]
        return float(again(tree.rebuild(weights, shifted)))

    gradients = {}
    for number, name in enumerate(tree.names(weights)):
        draw = np.random.default_rng(zlib.crc32(name.encode()))
        direction = draw.choice([-1.0, 1.0], leaves[number].shape)
        along = (at(number, step * direction) - at(number, -step * direction)) / (2 * step)
        gradients[name] = direction, along
    return np.asarray(value), gradients


def problem(backend: Backend, case: ModelCase, dtype: str = "float32") -> tuple[GPT, tree.Tree, dict[str, Array]]:
    """A case's model, weights and batch."""
    model = GPT(case.config, backend, dtype, case.checkpointing)
    made = make_batch(case.config)
    if case.padded:
        made["segments"][:, -3:], made["weights"][:, -3:] = -1, 0.0
        made["weights"] /= made["weights"].sum()
    batch = {key: backend.array(x) for key, x in made.items()}
    if not (case.segments or case.padded):
        del batch["segments"]
    return model, to_backend(backend, random_weights(case.config)), batch


def make_batch(config: ModelConfig) -> dict[str, np.ndarray]:
    """Two rows of four sequences (two pairs) of three tokens, for all LOSSES."""
    answers = np.tile([0.0, 1.0, 1.0], 4).astype(np.float32)  # (12,): the first token of each is its prompt
    counted = np.stack([answers, answers * [0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1]]).astype(np.float32)  # (2, 12)
    segments = np.repeat(np.arange(1, 5), 3).astype(np.int32)  # 1 1 1 2 2 2 …
    spans = (segments == np.arange(1, 5)[:, None]) * answers  # (4, 12)
    return {
        "ids": _ids(config, seed=1),
        "targets": _ids(config, seed=2),
        "weights": counted / counted.sum(),
        "segments": np.stack([segments, segments]),
        "spans": np.stack([spans, spans]).astype(np.float32),  # (2, 4, 12)
        "reference": np.random.default_rng(4).normal(-9, 2, (2, 2, 2)).astype(np.float32),  # (B, P, 2)
        "pairs": np.array([[0.4, 0.3], [0.3, 0.0]], np.float32),  # (B, P)
    }


def _ids(config: ModelConfig, seed: int, batch: int = 2, tokens: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, config.vocab_size, (batch, tokens)).astype(np.int32)
