"""Rounding that makes up for its own errors: GPTQ (Frantar et al. 2023), and what both roundings cost per layer.

A layer's output error depends on its weights through the Gram matrix G = Xᵀ X (in, in) of its inputs X only, which
a few batches of training data give.
"""

import functools
from collections.abc import Callable, Iterable

import numpy as np

from backends.base import Array, Backend
from backends.tree import Tree, items, unflatten
from minigpt.model.gpt import GPT, to_backend
from minigpt.quantize.codes import (
    Leaves,
    bits_of,
    check,
    decode,
    dequantize_matrix,
    encode,
    fits,
    pack,
    quantize_matrix,
    quantize_weights,
    steps,
)

DAMPING = 0.01  # of the mean diagonal of G: the paper's

Batches = list[dict[str, np.ndarray]]
Grams = dict[str, np.ndarray]  # name of a weight -> float64 (in, in)


def gptq_weights(
    model: GPT, weights: Tree, batches: Batches, bits: int, group_size: int = 0,
    progress: Callable[[int], None] = lambda layer: None,
) -> tuple[Tree, Grams]:  # fmt: skip
    """(`weights` in `bits` bits, the Gram matrices): each layer sees inputs that the rounded layers below it made.

    NumPy leaves in and out. The embeddings, whose rows are read, are rounded to nearest. Raises UsageError like
    `quantize_weights`.
    """
    group_size = check(weights, bits, group_size)
    found: dict[str, Leaves] = {}
    grams: Grams = {}
    flat = dict(items(weights))
    for number in range(model.config.n_layer):
        progress(number)
        layer = f"model.layers.{number}."
        for name, gram in input_grams(model, unflatten(flat), batches, layer).items():
            if fits(name, flat[name], group_size):
                grams[name] = gram
                found[name] = gptq_matrix(flat[name], gram, bits, group_size)
                flat[name] = dequantize_matrix(found[name], flat[name].shape[1])
    if not model.config.tie_embeddings:
        grams |= input_grams(model, unflatten(flat), batches, "lm_head.")

    def rounding(name: str, weight: np.ndarray) -> Leaves:
        if name == "lm_head.weight":
            return gptq_matrix(weight, grams[name], bits_of(name, bits), group_size)
        return found[name] if name in found else quantize_matrix(weight, bits_of(name, bits), group_size)

    return quantize_weights(weights, bits, group_size, rounding), grams


def gptq_matrix(weight: np.ndarray, gram: np.ndarray, bits: int, group_size: int) -> Leaves:
    """The leaves of a matrix (out, in) for inputs with the Gram matrix `gram` (in, in).

    Column by column: what a column's rounding did to the outputs is taken back by the columns after it (the
    paper's algorithm 1; the group's steps come from its columns as they then are).
    """
    inputs = weight.shape[1]
    rest = weight.astype(np.float64)
    damped = gram + (DAMPING * np.trace(gram) / inputs + 1e-12) * np.eye(inputs)
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T  # damped⁻¹ = upperᵀ upper
    codes = np.zeros(weight.shape, np.uint32)
    scales, biases = [], []
    for start in range(0, inputs, group_size):
        stop = start + group_size
        scale, bias = steps(rest[:, None, start:stop], bits)  # (out, 1)
        errors = np.zeros((weight.shape[0], group_size))
        for j in range(start, stop):
            codes[:, j] = encode(rest[:, j : j + 1], scale, bias, bits)[:, 0]
            rounded = decode(codes[:, j : j + 1], scale, bias)[:, 0]
            errors[:, j - start] = (rest[:, j] - rounded) / upper[j, j]
            rest[:, j + 1 : stop] -= errors[:, j - start, None] * upper[j, j + 1 : stop]
        rest[:, stop:] -= errors @ upper[start:stop, stop:]
        scales.append(scale)
        biases.append(bias)
    leaves = {"scales": np.concatenate(scales, axis=1), "biases": np.concatenate(biases, axis=1)}
    return {"packed": pack(codes, bits)} | leaves


def input_grams(model: GPT, weights: Tree, batches: Iterable[dict], prefix: str = "") -> Grams:
    """G of the inputs of every linear layer whose weight's name begins with `prefix`, over all tokens of `batches`.

    Layers above `prefix`, if it names one, are not computed.
    """
    parts = prefix.split(".")
    if parts[:2] == ["model", "layers"]:
        layers = weights["model"]["layers"][: int(parts[2]) + 1]
        weights = weights | {"model": weights["model"] | {"layers": layers}}
    backend, grams = model.backend, dict[str, np.ndarray]()
    tree = _watched(to_backend(backend, weights), "", prefix, lambda name, x: _add(backend, grams, name, x))
    for batch in batches:
        ids, segments = (backend.array(batch[key]) if key in batch else None for key in ("ids", "segments"))
        hidden = model.hidden(tree, ids, segments=segments)
        backend.sync(hidden if parts[0] == "model" else model.logits(tree, hidden))
    return grams


def _watched(tree: Tree, name: str, prefix: str, see: Callable[[str, Array], None]) -> Tree:
    """The tree with a leaf `watch` in the layers whose weight's name begins with `prefix` (see `model.linear`)."""
    if isinstance(tree, list):
        return [_watched(child, f"{name}.{i}", prefix, see) for i, child in enumerate(tree)]
    if not isinstance(tree, dict):
        return tree
    found = {key: _watched(child, f"{name}.{key}".lstrip("."), prefix, see) for key, child in tree.items()}
    if "weight" in tree and f"{name}.weight".startswith(prefix):
        found["watch"] = functools.partial(see, f"{name}.weight")
    return found


def _add(backend: Backend, grams: Grams, name: str, x: Array) -> None:
    rows = x.reshape(-1, x.shape[-1])
    grams[name] = grams.get(name, 0.0) + backend.numpy(rows.swapaxes(0, 1) @ rows).astype(np.float64)


# ---- what it costs -----------------------------------------------------------------------------------------


def error_report(weights: Tree, quantized: Tree, grams: Grams) -> list[dict]:
    """A row per matrix: `name`, `shape`, `bits` (32: left in floats), and the relative errors in the root mean square.

    `weight_error` is ‖Ŵ − W‖ / ‖W‖ and `output_error` ‖X Ŵᵀ − X Wᵀ‖ / ‖X Wᵀ‖ over the calibration data (None
    without a Gram matrix).
    """
    there = dict(items(quantized))
    rows = []
    for name, weight in items(weights):
        if len(weight.shape) != 2:
            continue
        stem = name.removesuffix("weight")
        leaves = {part: there.get(stem + part) for part in ("packed", "scales", "biases")}
        row = {"name": name, "shape": list(weight.shape), "bits": 32, "weight_error": 0.0, "output_error": None}
        if leaves["packed"] is not None:
            off = dequantize_matrix(leaves, weight.shape[1]) - weight
            row["bits"] = 32 * leaves["packed"].shape[1] // weight.shape[1]
            row["weight_error"] = float(np.linalg.norm(off) / (np.linalg.norm(weight) or 1.0))
            if name in grams:
                sizes = [max(0.0, float(((w @ grams[name]) * w).sum())) for w in (off, weight)]
                row["output_error"] = (sizes[0] / (sizes[1] or 1.0)) ** 0.5
        rows.append(row)
    return rows
