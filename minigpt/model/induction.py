"""First weights in which the first two layers already look back: the beginning of a circuit for reading.

A model that answers from a text must find where a word stood before and what stood beside it. Two layers do that
(Elhage et al. 2021; Olsson et al. 2022, "induction heads"): heads that look at tokens just before, and heads that look
for places whose tokens before are the one at hand, and copy what is there. Random weights find this circuit late; a
small model in a small training does not find it at all. Here training begins with it and changes it as it likes. The
shapes and the computation are those of any model, so that every other program reads the result.

- All embeddings get the same number in channel 0, which queries and keys of layer 0 turn into patterns of positions
  alone: head h looks h + 1 tokens back. What it finds is written into directions of its own.
- In layer 1 keys read these directions and queries the token itself, so that a head attends to places before which the
  token stood; values and output copy the token there. Only rotary pairs that turn slowly take part, so that the
  distance does not matter.
"""

import numpy as np

from backends.tree import Tree
from minigpt.sections import ModelConfig

CONSTANT = 0.5  # of channel 0, in lengths of an embedding
SHARP = 2.5, 2.0  # weights of the norms of queries and keys: how far the best place's score is above the others
FAST, SLOW = 0.02, 0.06  # radians per token: pairs that tell positions apart, and pairs that hardly turn
WRITTEN, COPIED = 0.12, 0.25  # what heads add to the stream, in lengths of what they read
LARGE = 3.0  # queries and keys are normalized: a large matrix computes the same, and a step turns it less


def induction_start(config: ModelConfig, weights: Tree, rng: np.random.Generator) -> Tree:
    """The weights with the embeddings' channel 0 and the attention of layers 0 and 1 begun as said above."""
    table = weights["model"]["embed_tokens"]["weight"]
    table[:, 0] = CONSTANT * np.linalg.norm(table, axis=1).mean()
    groups, width = config.n_kv_head, config.head_dim
    read = _directions(rng, groups * width, config.d_model).reshape(groups, width, -1)  # of a token, per group
    written = [_directions(rng, width, config.d_model).T for _ in range(config.n_head)]  # (d, D) of each head
    first, second = (weights["model"]["layers"][number]["self_attn"] for number in (0, 1))
    _look_back(config, first, read, written)
    _look_for(config, second, read, written, rng)
    for layer, sharp in zip((first, second), SHARP, strict=True):
        for norm in ("q_norm", "k_norm"):
            layer[norm]["weight"][:] = sharp
    return weights


def _look_back(config: ModelConfig, layer: Tree, read: np.ndarray, written: list[np.ndarray]) -> None:
    """Head h attends h + 1 tokens back, whatever stands there, and writes a part of it."""
    turning = _frequencies(config)
    taking_part, half = (turning > FAST).astype(float), len(turning)
    keys = np.zeros((config.n_kv_head, config.head_dim, config.d_model))
    keys[:, :half, 0] = taking_part  # the angle 0, which rotary positions make s · f at position s
    queries = np.zeros((config.n_head, config.head_dim, config.d_model))
    for head in range(config.n_head):  # the angle (t - back) · f at position t
        angle = (head + 1) * turning
        queries[head, :half, 0] = taking_part * np.cos(angle)
        queries[head, half:, 0] = -taking_part * np.sin(angle)
    _set(layer, q_proj=LARGE * queries, k_proj=LARGE * keys, v_proj=read)
    layer["o_proj"]["weight"] = (WRITTEN * np.concatenate(written, axis=1)).astype(np.float32)


def _look_for(
    config: ModelConfig, layer: Tree, read: np.ndarray, written: list[np.ndarray], rng: np.random.Generator
) -> None:
    """Group k attends to places k + 1 tokens before which the token at hand stood, and copies what is there."""
    slow = np.tile(_frequencies(config) < SLOW, 2)[:, None]
    shared, width = config.n_head // config.n_kv_head, config.head_dim
    queries = np.zeros((config.n_kv_head, shared, width, config.d_model))
    keys = np.zeros((config.n_kv_head, width, config.d_model))
    copied = _directions(rng, config.n_kv_head * width, config.d_model).reshape(config.n_kv_head, width, -1)
    for group in range(config.n_kv_head):
        back = group % config.n_head
        mixed = _directions(rng, width, width + 1)[:, 1:]  # so that the slow pairs see all directions
        keys[group] = mixed @ written[back].T * slow
        queries[group] = mixed @ read[back // shared] * slow
    noise = (0.005 * rng.standard_normal(matrix.shape) for matrix in (queries, keys))
    _set(layer, q_proj=LARGE * queries + next(noise), k_proj=LARGE * keys + next(noise), v_proj=copied)
    back = np.repeat(copied, shared, axis=0).transpose(2, 0, 1).reshape(config.d_model, -1)  # (d, H · D)
    layer["o_proj"]["weight"] = (COPIED / shared * back).astype(np.float32)


def _frequencies(config: ModelConfig) -> np.ndarray:
    """Radians per token of each rotary pair of a head (D/2,)."""
    return config.rope_theta ** (-np.arange(0, config.head_dim, 2) / config.head_dim)


def _directions(rng: np.random.Generator, count: int, width: int) -> np.ndarray:
    """`count` orthonormal rows (count, width) that do not see channel 0."""
    rows = np.zeros((count, width))
    rows[:, 1:] = np.linalg.qr(rng.standard_normal((width - 1, count)))[0].T
    return rows


def _set(layer: Tree, **matrices: np.ndarray) -> None:
    for name, matrix in matrices.items():
        layer[name]["weight"] = matrix.reshape(-1, matrix.shape[-1]).astype(np.float32)
