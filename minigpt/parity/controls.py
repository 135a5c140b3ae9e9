"""Negative controls: backends and losses with one known mistake each, which the comparisons must catch.

A comparison that lets one of them through proves nothing.
"""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from backends.base import CAUSAL, Array, Backend, Visible
from backends.tree import Tree
from minigpt.model.gpt import GPT
from minigpt.parity.models import LOSSES, Loss, compare_losses
from minigpt.parity.ops import CASES, compare_ops
from minigpt.parity.reference import Row
from minigpt.parity.wrong_models import check_models
from minigpt.train.losses import language_loss, sequence_logprobs
from minigpt.train.preferences import PreferenceSettings, preference_losses


def check_controls(backend: Backend) -> list[Row]:
    """One Row per control with the difference that gave it away; ok says that the mistake was caught."""
    rows = []
    for name, wrong in broken(backend).items():
        cases = [case for case in CASES if case.op == wrong.replaced]
        assert cases, f"no case runs what {name!r} replaces: {wrong.replaced}"
        rows.append(_verdict(name, compare_ops([wrong], cases)))
    for name, (right, wrong_loss) in WRONG_LOSSES.items():
        rows.append(_verdict(name, compare_losses([backend], {right: wrong_loss})))
    return rows + check_models(backend)


def _verdict(name: str, rows: list[Row]) -> Row:
    worst = min(rows, key=lambda r: (r.ok, r.bound - r.difference))
    case, caught = f"{name} ({worst.case})", not worst.ok
    return Row("control", case, worst.quantity, worst.pair, worst.difference, worst.bound, caught)


def broken(backend: Backend) -> dict[str, Backend]:
    """What is wrong -> a copy of `backend` of a subclass that replaces one operation; `backend` stays as it is."""
    controls = {**_wrong_attention(backend), **_wrong_layers(backend), **_wrong_losses(backend),
                **_wrong_updates(backend), **_wrong_arrays(backend), **_wrong_bits(backend)}  # fmt: skip
    return {name: _replace(backend, op, fn) for name, (op, fn) in controls.items()}


def _replace(backend: Backend, op: str, fn: Callable) -> Backend:
    """`op` is the name of a method, or that of a group and one of its methods: "updates.add"."""
    wrong, (group, _, name) = copy.copy(backend), op.rpartition(".")
    members = {name: staticmethod(fn)}
    if group:
        kind = type(getattr(backend, group))
        broken_kind = type(f"Broken{kind.__name__}", (kind,), members)
        members = {group: property(broken_kind)}
    wrong.__class__ = type(f"Broken{type(backend).__name__}", (type(backend),), members | {"replaced": op})
    return wrong


Controls = dict[str, tuple[str, Callable]]


def _wrong_attention(b: Backend) -> Controls:
    def upper_left(q: Array, k: Array, v: Array, scale: float, visible: Visible = CAUSAL, softcap: float = 0.0):
        if visible.causal:  # torch's is_causal: the first query is aligned with the first key
            visible = Visible(b.arange(0, k.shape[2])[None, :] <= b.arange(0, q.shape[2])[:, None])
        return b.attention(q, k, v, scale, visible, softcap)

    def inverted(q: Array, k: Array, v: Array, scale: float, visible: Visible = CAUSAL, softcap: float = 0.0):
        if visible.causal:
            tokens, keys = q.shape[2], k.shape[2]
            visible = Visible(b.arange(0, keys)[None, :] >= b.arange(keys - tokens, keys)[:, None])
        return b.attention(q, k, v, scale, visible, softcap)

    def tiled(q: Array, k: Array, v: Array, scale: float, visible: Visible = CAUSAL, softcap: float = 0.0):
        repeats = q.shape[1] // k.shape[1]  # query head h reads group h mod K instead of h // (H/K)
        return b.attention(q, b.concat([k] * repeats, 1), b.concat([v] * repeats, 1), scale, visible, softcap)

    def unscaled(q: Array, k: Array, v: Array, scale: float, visible: Visible = CAUSAL, softcap: float = 0.0):
        return b.attention(q, k, v, 1.0, visible, softcap)

    def mask_ignored(q: Array, k: Array, v: Array, scale: float, visible: Visible = CAUSAL, softcap: float = 0.0):
        return b.attention(q, k, v, scale, Visible(causal=visible.causal), softcap)

    return {
        "causal mask aligned upper left": ("attention", upper_left),
        "causal mask inverted": ("attention", inverted),
        "key heads tiled instead of repeated": ("attention", tiled),
        "attention scores not scaled": ("attention", unscaled),
        "boolean mask ignored": ("attention", mask_ignored),
    }


def _wrong_layers(b: Backend) -> Controls:
    def interleaved(x: Array, offset: int, theta: float) -> Array:
        width = x.shape[-1]
        pairs = x.reshape(*x.shape[:-1], width // 2, 2).swapaxes(-1, -2).reshape(x.shape)  # 0 2 4 … 1 3 5 …
        turned = b.rope(pairs, offset, theta)
        return turned.reshape(*x.shape[:-1], 2, width // 2).swapaxes(-1, -2).reshape(x.shape)

    def wrong_axis(x: Array, weight: Array, eps: float) -> Array:
        return x / b.sqrt((x * x).mean(axis=-2, keepdims=True) + eps) * b.cast(weight, b.dtype(x))

    def promotes(x: Array, weight: Array, eps: float) -> Array:
        return b.rms_norm(b.cast(x, "float32"), weight, eps)

    def frozen_weights(fn: Callable) -> Callable:  # as mx.checkpoint treats what `fn` closes over
        return lambda x, weights: b.checkpoint(fn)(x, {key: b.stop_gradient(w) for key, w in weights.items()})

    return {
        "rope offset dropped": ("rope", lambda x, offset, theta: b.rope(x, 0, theta)),
        "rope offset one too far": ("rope", lambda x, offset, theta: b.rope(x, offset + 1, theta)),
        "rope turns neighbours instead of halves": ("rope", interleaved),
        "rope turns the other way": ("rope", lambda x, offset, theta: _mirrored(b, b.rope, x, offset, theta)),
        "rms_norm without eps": ("rms_norm", lambda x, weight, eps: b.rms_norm(x, weight, 0.0)),
        "rms_norm over the wrong axis": ("rms_norm", wrong_axis),
        "rms_norm centres like layer_norm": (
            "rms_norm", lambda x, weight, eps: b.rms_norm(x - x.mean(axis=-1, keepdims=True), weight, eps)
        ),
        "rms_norm promotes bfloat16": ("rms_norm", promotes),
        "checkpoint loses the weights' gradients": ("checkpoint", frozen_weights),
    }  # fmt: skip


def _mirrored(b: Backend, rope: Callable, x: Array, offset: int, theta: float) -> Array:
    half = x.shape[-1] // 2  # exchanging the halves before and after turns by the negative angle
    turned = rope(b.concat([x[..., half:], x[..., :half]], -1), offset, theta)
    return b.concat([turned[..., half:], turned[..., :half]], -1)


def _wrong_losses(b: Backend) -> Controls:
    def shifted(logits: Array, targets: Array) -> Array:
        return b.token_nll(logits, b.concat([targets[:, 1:], targets[:, :1]], 1))

    def last_chunk_only(x: Array, w: Array, targets: Array, size: int) -> Array:
        starts = range(0, x.shape[0], size)  # the output matrix learns from the last chunk alone
        matrices = [b.stop_gradient(w)] * (len(starts) - 1) + [w]
        parts = [b.chunked_nll(x[i : i + size], m, targets[i : i + size], size)
                 for i, m in zip(starts, matrices, strict=True)]  # fmt: skip
        return b.concat(parts, 0)

    def overflowing(x: Array) -> Array:
        return b.log(b.exp(x).sum(axis=-1))

    return {
        "token_nll with targets shifted by one": ("token_nll", shifted),
        "token_nll averaged": ("token_nll", lambda logits, targets: b.token_nll(logits, targets).mean()),
        "token_nll rounded to bfloat16": (
            "token_nll", lambda logits, targets: b.token_nll(b.cast(logits, "bfloat16"), targets)
        ),
        "chunked_nll loses chunks of the weights' gradient": ("chunked_nll", last_chunk_only),
        "logsumexp that overflows": ("logsumexp", overflowing),
        "log_sigmoid that overflows": ("log_sigmoid", lambda x: -b.log(1.0 + b.exp(-x))),
    }  # fmt: skip


def _wrong_updates(b: Backend) -> Controls:
    def uncorrected(*lists: list, correction1: float, correction2: float, **settings: Any) -> tuple:
        return b.updates.adamw(*lists, correction1=1.0, correction2=1.0, **settings)

    def adam_l2(params: list, grads: list, *moments: list, decays: list[float], **settings: Any) -> tuple:
        grads = [g + decay * p for p, g, decay in zip(params, grads, decays, strict=True)]
        return b.updates.adamw(params, grads, *moments, decays=[0.0] * len(decays), **settings)

    def decays_all(*lists: list, decays: list[float], **settings: Any) -> tuple:
        return b.updates.adamw(*lists, decays=[max(decays)] * len(decays), **settings)

    def muon_l2(params: list, grads: list, momentum: list, *, decay: float, **settings: Any) -> tuple:
        grads = [g + decay * p for p, g in zip(params, grads, strict=True)]
        return b.updates.muon(params, grads, momentum, decay=0.0, **settings)

    def one_matrix(x: Array, steps: int, *dtype: str) -> Array:
        return b.updates.orthogonalize(x.reshape(1, -1, x.shape[-1]), steps, *dtype).reshape(x.shape)

    def clip_each(grads: list, max_norm: float) -> tuple[list, Array]:
        norm = b.updates.clip([g + 0 for g in grads], 0.0)[1]
        return [b.updates.clip([g], max_norm)[0][0] for g in grads], norm

    return {
        "AdamW without bias correction": ("updates.adamw", uncorrected),
        "AdamW decay coupled into the gradient": ("updates.adamw", adam_l2),
        "AdamW decays what it should not": ("updates.adamw", decays_all),
        "Muon decay coupled into the gradient": ("updates.muon", muon_l2),
        "stacked matrices orthogonalized as one": ("updates.orthogonalize", one_matrix),
        "gradients clipped one by one": ("updates.clip", clip_each),
        "accumulation as a mean of means": (
            "updates.add", lambda totals, terms: [0.5 * x for x in b.updates.add(totals, terms)]
        ),
    }  # fmt: skip


def _wrong_arrays(b: Backend) -> Controls:
    def ascending(x: Array, k: int) -> tuple[Array, Array]:
        negated, indices = b.topk(-1.0 * x, x.shape[-1])
        return -1.0 * negated[..., -k:], indices[..., -k:]

    return {
        "topk ascending": ("topk", ascending),
        "argmax in unsigned integers": ("argmax", lambda x, axis: b.cast(b.argmax(x, axis), "uint8")),
        "stop_gradient lets it through": ("stop_gradient", lambda x: x),
        "write forgets where": ("write", lambda target, start, values: b.write(target, 0, values)),
    }


def _wrong_bits(b: Backend) -> Controls:
    def backwards(x: Array, bits: int) -> Array:
        """x (…, N) with the numbers of each word in the opposite order."""
        order = b.array(np.arange(32 // bits)[::-1])
        return x.reshape(*x.shape[:-1], -1, 32 // bits)[..., order].reshape(x.shape)

    def highest_first(packed: Array, scales: Array, biases: Array, bits: int) -> Array:
        return backwards(b.quantized.dequantize(packed, scales, biases, bits), bits)

    def next_group(x: Array, packed: Array, scales: Array, biases: Array, bias: Array | None = None) -> Array:
        return b.quantized.linear(x, packed, b.concat([scales[:, 1:], scales[:, :1]], 1), biases, bias)

    def signed(packed: Array, scales: Array, biases: Array, bits: int) -> Array:
        return b.quantized.dequantize(packed, scales, biases - 2 ** (bits - 1) * scales, bits)

    def frozen(x: Array, *leaves: Array) -> Array:
        return b.quantized.linear(b.stop_gradient(x), *leaves)

    return {
        "codes read from the highest bits": ("quantized.dequantize", highest_first),
        "codes read as signed numbers": ("quantized.dequantize", signed),
        "scales of the next group": ("quantized.linear", next_group),
        "no gradient through a quantized weight": ("quantized.linear", frozen),
        "codes written into the highest bits": (
            "quantized.quantize", lambda x, bits, n: b.quantized.quantize(backwards(x, bits), bits, n)
        ),
    }


# ---- losses ----------------------------------------------------------------------------------------------


def _with_batch(name: str, change: Callable[[Backend, dict[str, Array]], dict[str, Array]]) -> tuple[str, Loss]:
    """The loss called `name` on a batch with a mistake in it."""
    return name, lambda model, weights, batch: LOSSES[name](model, weights, batch | change(model.backend, batch))


def _shift(b: Backend, x: Array) -> Array:
    """(B, T) one place to the left; the first column comes last."""
    return b.concat([x[:, 1:], x[:, :1]], 1)


def _mean_of_rows(model: GPT, weights: Tree, batch: dict[str, Array]) -> Array:
    """Each row's mean counts the same, however many tokens it has: what averaging micro-batches does."""
    shares = batch["weights"] / batch["weights"].sum(axis=-1, keepdims=True)
    return language_loss(model, weights, batch | {"weights": shares / batch["ids"].shape[0]})


def _mean_logprobs(model: GPT, weights: Tree, batch: dict[str, Array]) -> Array:
    spans = batch["spans"] / batch["spans"].sum(axis=-1, keepdims=True)
    policy = sequence_logprobs(model, weights, batch | {"spans": spans})
    reference, settings = batch["reference"], PreferenceSettings()
    losses = preference_losses(model.backend, policy, reference, "sigmoid", settings, spans)  # (B, P)
    return (losses * batch["pairs"]).sum()


WRONG_LOSSES: dict[str, tuple[str, Loss]] = {
    "loss mask shifted by one": _with_batch("language", lambda b, x: {"weights": _shift(b, x["weights"])}),
    "labels shifted twice": _with_batch("language", lambda b, x: {"targets": _shift(b, x["targets"])}),
    "loss on the prompt too": _with_batch("language", lambda b, x: {"weights": 0 * x["weights"] + 1 / 24}),
    "packed examples see each other": _with_batch("language", lambda b, x: {"segments": 0 * x["segments"]}),
    "mean of means over rows": ("language", _mean_of_rows),
    "DPO on means of log-probabilities": ("DPO sigmoid", _mean_logprobs),
    "DPO without its reference": _with_batch("DPO sigmoid", lambda b, x: {"reference": 0 * x["reference"]}),
    "IPO for DPO": ("DPO sigmoid", LOSSES["DPO IPO"]),
}
