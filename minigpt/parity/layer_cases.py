"""Operations that a model's layers are made of: norms, products, rotary positions, attention and losses."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from backends.base import ALL, Array, Backend, Visible
from minigpt.parity.case import FP32, FP32_EXTREME, ROPE_PER_POSITION, Case, Draw, exact_in_bf16, fixed, in_bf16


def layer_cases(draw: Draw) -> Iterator[Case]:
    """Norms, linear layers, rotary positions, checkpointed functions."""
    x, weight = draw.normal(2, 3, 8), 1 + draw.normal(8, scale=0.3)
    tiny = draw.normal(2, 3, 8, scale=2e-3)  # mean square below eps: a lost eps changes everything
    norm = {"run": lambda b, x, w: b.rms_norm(x, w, 1e-5)}
    yield Case("rms_norm", (x, weight), **norm)
    yield Case("rms_norm: rows smaller than eps", (tiny, weight), **norm)
    yield Case("rms_norm: per head", (draw.normal(2, 3, 4, 8), weight), **norm)
    yield in_bf16(Case("rms_norm", (x, weight), **norm), casts=[0])
    yield in_bf16(Case("rms_norm", (x, exact_in_bf16(weight)), **norm), casts=[0, 1])

    shift, layer = draw.normal(8), {"run": lambda b, x, w, c: b.layer_norm(x, w, c, 1e-5)}
    yield Case("layer_norm", (x + 3, weight, shift), **layer)
    yield Case("layer_norm: rows smaller than eps", (tiny, weight, shift), **layer)
    yield in_bf16(Case("layer_norm", (x, weight, shift), **layer), casts=[0])

    y, matrix, bias = draw.normal(2, 3, 6), draw.normal(5, 6), draw.normal(5)
    yield Case("linear", (y, matrix), lambda b, x, w: b.linear(x, w))
    yield Case("linear: bias", (y, matrix, bias), lambda b, x, w, c: b.linear(x, w, c))
    yield Case("linears", (y, matrix, bias),
               lambda b, x, w, c: b.concat(b.linears(x, [w, w[:2]], [c, c[:2]]), -1))  # fmt: skip
    yield Case("linears: no bias", (y, matrix), lambda b, x, w: b.concat(b.linears(x, [w[1:], w], [None, None]), -1))
    yield Case("linear: rows", (y[0], matrix, bias), lambda b, x, w, c: b.linear(x, w, c))
    yield in_bf16(Case("linear", (y, matrix, bias), lambda b, x, w, c: b.linear(x, w, c)), casts=[0])
    yield in_bf16(Case("linear", (y, matrix, bias), lambda b, x, w, c: b.linear(x, w, c)))

    few = Draw(seed=12)
    rows, stack, ids = few.normal(7, 6), few.normal(3, 5, 6), np.array([0, 0, 0, 2, 2, 2, 2], np.int32)
    yield Case("gather_linear", (rows, stack, ids), lambda b, x, w, i: b.gather_linear(x, i, w))
    wide, stacks = few.normal(7, 8), few.normal(3, 4, 8)  # rows of a multiple of 16 bytes
    yield Case("gather_linear: aligned rows", (wide, stacks, ids), lambda b, x, w, i: b.gather_linear(x, i, w))
    yield Case("gather_linear: all matrices", (rows, stack, np.array([0, 1, 1, 1, 2, 2, 2], np.int32)),
               lambda b, x, w, i: b.gather_linear(x, i, w))  # fmt: skip
    heads = draw.normal(2, 3, 5, 8)  # (B, H, T, D)
    for offset in (0, 1, 7, 254, 3000):
        yield Case(f"rope: offset {offset}", (heads,), lambda b, x, o=offset: b.rope(x, o, 10000.0),
                   bound=FP32 + offset * ROPE_PER_POSITION)  # fmt: skip
    yield Case("rope: one position, theta 1e6", (heads[:, :, :1],), lambda b, x: b.rope(x, 11, 1e6))
    given = (0.9, 0.11, 0.02, 0.0003)
    for offset in (0, 5):
        yield Case(f"rope: frequencies given, offset {offset}", (heads,), lambda b, x, o=offset: b.rope(x, o, given))
    yield in_bf16(Case("rope: offset 7", (heads,), lambda b, x: b.rope(x, 7, 10000.0)))
    starts, all_places = np.array([300, 2], np.int32), np.array([[0, 1, 2, 0, 1], [9, 8, 300, 2, 2]], np.int32)
    yield Case("rope: each row from a position of its own", (heads, starts), lambda b, x, p: b.rope(x, p, 10000.0),
               bound=FP32 + 300 * ROPE_PER_POSITION)  # fmt: skip
    yield Case("rope: a position for each token", (heads, all_places), lambda b, x, p: b.rope(x, p, 10000.0),
               bound=FP32 + 300 * ROPE_PER_POSITION)  # fmt: skip
    yield Case("checkpoint: gradients of every argument", (y, matrix),
               lambda b, x, w: b.checkpoint(lambda x, w: b.silu(b.linear(x, w["w"])))(x, {"w": w}))  # fmt: skip


def quantized_cases(draw: Draw) -> Iterator[Case]:
    """Packed matrices, and the products with them."""
    for bits, size in itertools.product((4, 8), (16, 32, 64)):  # MLX has no kernel for groups of 16
        what = f"{bits} bits, groups of {size}"
        unrounded = np.sin(np.arange(20 * size, dtype=np.float32)).reshape(2, 5, 2 * size)  # no number between codes
        yield fixed(f"quantized.quantize: {what}", (unrounded,),
                    lambda b, x, bits=bits, size=size: list(b.quantized.quantize(x, bits, size)),
                    ("int32", "float32", "float32"))  # fmt: skip
        words = draw.words(5, 2 * size * bits // 32)
        steps = draw.normal(5, 2, scale=0.1), draw.normal(5, 2)
        yield fixed(f"quantized.dequantize: {what}", (words, *steps),
                    lambda b, *leaves, bits=bits: b.quantized.dequantize(*leaves, bits))  # fmt: skip
        for rows in (1, 7):
            x, name = draw.normal(rows, 2 * size), f"quantized.linear: {what}, {rows} rows"
            yield Case(name, (x, words, *steps), lambda b, x, *leaves: b.quantized.linear(x, *leaves))
    yield Case("quantized.linear: bias", (x[None], words, *steps, draw.normal(5)),
               lambda b, x, *leaves: b.quantized.linear(x, *leaves))  # fmt: skip
    own = Draw(seed=13)
    for size in (64, 16):
        stacked = own.words(3, 5, size // 4), own.normal(3, 5, 2, scale=0.1), own.normal(3, 5, 2)
        yield Case(f"quantized.gather_linear: groups of {size}", (own.normal(4, 2 * size), *stacked),
                   lambda b, x, *leaves: b.quantized.gather_linear(x, b.array([0, 2, 2, 2]), *leaves))  # fmt: skip
    yield in_bf16(Case("quantized.linear", (x, words, *steps), lambda b, *a: b.quantized.linear(*a)), casts=[0])
    edges = np.stack([np.zeros(32), np.full(32, 3.0), np.full(32, -3.0), np.eye(32)[0] * 1e-3])
    yield fixed("quantized.quantize: groups of equal numbers", (edges.astype(np.float32),),
                lambda b, x: list(b.quantized.quantize(x, 4, 32)), ("int32", "float32", "float32"))  # fmt: skip


def attention_cases(draw: Draw) -> Iterator[Case]:
    """Heads in groups, masks, and what a query sees."""

    def inputs(heads: int, groups: int, queries: int, keys: int) -> tuple[np.ndarray, ...]:
        return draw.normal(2, heads, queries, 4), draw.normal(2, groups, keys, 4), draw.normal(2, groups, keys, 4)

    def masked(b: Backend, q: Array, k: Array, v: Array, mask: Any) -> Array:
        return b.attention(q, k, v, 0.7, Visible(mask))

    for kind, heads, groups in (("MHA", 4, 4), ("GQA", 4, 2), ("MQA", 4, 1)):
        for queries in (5, 3, 1):
            yield Case(f"attention: {kind}, causal, Tq {queries} Tk 5", inputs(heads, groups, queries, 5),
                       lambda b, q, k, v: b.attention(q, k, v, 0.7))  # fmt: skip
        yield Case(f"attention: {kind}, no mask", inputs(heads, groups, 3, 5),
                   lambda b, q, k, v: b.attention(q, k, v, 0.7, ALL))  # fmt: skip
        for shape in ((2, 1, 3, 5), (2, 4, 3, 5), (3, 5)):
            yield Case(f"attention: {kind}, mask {shape}", (*inputs(heads, groups, 3, 5), draw.bools(*shape)), masked)
    q, k, v = inputs(4, 2, 5, 5)
    yield Case("attention: scores of hundreds", (q * 16, k * 16, v), lambda b, q, k, v: b.attention(q, k, v, 0.7),
               bound=FP32_EXTREME)  # fmt: skip
    yield in_bf16(Case("attention: causal", (q, k, v), lambda b, q, k, v: b.attention(q, k, v, 0.7)))
    yield in_bf16(Case("attention: Tq < Tk", (q[:, :, :3], k, v), lambda b, q, k, v: b.attention(q, k, v, 0.7)))
    yield in_bf16(Case("attention: bool mask", (q, k, v, draw.bools(2, 1, 5, 5)), masked))
    few = Draw(seed=9)
    for shape in ((2, 1, 1, 5), (2, 4, 1, 5), (1, 5)):
        yield Case(f"attention: one query, mask {shape}", (q[:, :, :1], k, v, few.bools(*shape)), masked)
    longer = (few.normal(1, 4, 150, 2), few.normal(1, 2, 150, 2), few.normal(1, 2, 150, 2))
    yield Case("attention: causal, 150 tokens", longer, lambda b, q, k, v: b.attention(q, k, v, 0.7))
    segments = np.array([[0, 0, 0, 1, 1], [0, 1, 1, 1, 1]], np.int32)
    yield Case(
        "visible: examples that share a row",
        (q, k, v, segments),
        lambda b, q, k, v, s: [b.attention(q, k, v, 0.7, b.visible(5, 5, segments=s, window=n)) for n in (0, 2)],
    )
    tree = ([[0, 0, 1, 1, 2], [0, 1, 1, 1, -1]], [[0, 0, 0, 0, 0], [0, 0, 0, 0, -1]],
            [[0, 1, 2, 3, 2], [0, 1, 2, 3, 0]])  # fmt: skip
    yield Case(
        "visible: answers that go on from one prompt",
        (q, k, v, *(np.array(one, np.int32) for one in tree)),
        lambda b, q, k, v, s, f, p: [
            b.attention(q, k, v, 0.7, b.visible(5, 5, segments=s, follows=f, positions=p, window=n)) for n in (0, 2)
        ],
    )
    rows = np.array([1, 0], np.int32)  # filled to 2 and 1 of 5 places before the last of three queries
    yield Case("visible: rows of different length", (q[:, :, :3], k, v, rows),
               lambda b, q, k, v, p: b.attention(q, k, v, 0.7, b.visible(3, 5, positions=p)))  # fmt: skip
    own = Draw(seed=11)
    q, k, v = (own.normal(2, heads, 5, 4) for heads in (4, 2, 2))
    yield Case("attention: soft-cap", (q, k, v), lambda b, q, k, v: b.attention(q, k, v, 0.7, softcap=1.5))
    yield Case("attention: soft-cap, examples that share a row", (q, k, v, segments),
               lambda b, q, k, v, s: b.attention(q, k, v, 0.7, b.visible(5, 5, segments=s), 1.5))  # fmt: skip
    yield in_bf16(Case("attention: soft-cap", (q, k, v), lambda b, q, k, v: b.attention(q, k, v, 0.7, softcap=1.5)))
    yield Case("visible: a window and two sinks", (q, k, v, segments), lambda b, q, k, v, s: [
        b.attention(q, k, v, 0.7, b.visible(5, 5, segments=x, window=2, sinks=2)) for x in (None, s)])  # fmt: skip
    slopes = (0.5, 0.25, 2.0, 0.01)
    for queries in (5, 3, 1):
        yield Case(f"visible: slopes, {queries} queries", (q[:, :, :queries], k, v),
                   lambda b, q, k, v, n=queries: b.attention(q, k, v, 0.7, b.visible(n, 5, slopes=slopes)))  # fmt: skip
    yield Case("visible: slopes and examples that share a row", (q, k, v, segments),
               lambda b, q, k, v, s: b.attention(q, k, v, 0.7, b.visible(5, 5, segments=s, slopes=slopes)))  # fmt: skip
    yield in_bf16(Case("visible: slopes", (q, k, v),
                       lambda b, q, k, v: b.attention(q, k, v, 0.7, b.visible(5, 5, slopes=slopes))))  # fmt: skip


def loss_cases(draw: Draw) -> Iterator[Case]:
    """Negative log-likelihoods of tokens, whole and in chunks."""
    logits, targets = draw.normal(2, 5, 11, scale=3), draw.ints(11, 2, 5)
    targets[0, :2] = 0, 10  # both ends of the vocabulary
    yield Case("token_nll", (logits, targets), lambda b, x, t: b.token_nll(x, t))
    yield Case("token_nll: extremes", (logits * 100, targets), lambda b, x, t: b.token_nll(x, t))
    yield in_bf16(Case("token_nll", (logits, targets), lambda b, x, t: b.token_nll(x, t)), result="float32")
    counted = np.array([[0, 1, 1, 0, 1], [0, 0, 1, 1, 0]], np.float32)
    yield Case("token_nll: mean over a 0/1 mask", (logits, targets, counted),
               lambda b, x, t, m: (b.token_nll(x, t) * m).sum() / m.sum())  # fmt: skip
    hidden, head = draw.normal(10, 6), draw.normal(11, 6)
    for size in (1, 4, 10, 99):
        yield Case(f"chunked_nll: {size} of 10", (hidden, head, targets.reshape(-1)),
                   lambda b, x, w, t, size=size: b.chunked_nll(x, w, t, size))  # fmt: skip
    yield Case("chunked_nll: extremes", (hidden * 100, head, targets.reshape(-1)),
               lambda b, x, w, t: b.chunked_nll(x, w, t, 4), bound=FP32_EXTREME)  # fmt: skip
    yield in_bf16(Case("chunked_nll", (hidden, head, targets.reshape(-1)),
                        lambda b, x, w, t: b.chunked_nll(x, w, t, 4)), result="float32")  # fmt: skip
