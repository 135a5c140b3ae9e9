"""First weights in which the first two layers already look things up: the beginning of a circuit for reading.

A model that answers from a text must find where a word stood before and what stood beside it. Two layers do that
(Elhage et al. 2021; Olsson et al. 2022, "induction heads"). Random weights find this circuit late; a small model in a
small training does not find it at all. Here training begins with it and changes it as it likes. The shapes and the
computation are those of any model, so that every other program reads the result.

The stream's channels have three parts at first: channel 0 is the same for every token; the next ones are the tokens'
embeddings; the rest is room for what each head of layer 0 finds. A *code* is a projection of an embedding.

- Layer 0: head h attends h + 1 tokens back, by channel 0 and positions alone, and writes the code of what stands there
  into its room.
- Layer 1, even groups of heads ("what came next?"): queries read the codes of the last tokens, keys those of the tokens
  before a place, so that a head attends to places before which the same tokens stood, and copies what is there.
- Layer 1, odd groups ("what came before?"): queries read the code of the token two or three back, so that the token
  after a question asks for its last word: "Who is in the park?⏎" A head attends to where that word stood, rather far
  back than in the question itself, and copies what stood two and four tokens before it: the name.
- Layers further up: values and output copy embeddings; queries and keys are random, but for the first group of layer 2,
  which attends four and five tokens back. In ChatML it is so far from an answer's first tokens to its question's end.

A word has two tokens, with the space before it and without: " Tom" in a text, "Tom" at the beginning of an answer. What
is found as one is said as the other, so both begin with almost the same embedding.

Only rotary pairs that turn slowly compare codes, so that the distance does not matter. Matrices of values and outputs
are equally large, because an optimizer turns the smaller one faster.
"""

from collections.abc import Sequence

import numpy as np

from backends.tree import Tree
from minigpt.sections import ModelConfig

CONSTANT = 0.5  # channel 0, in lengths of an embedding
SHARP = 2.5, 2.0, 2.0  # weights of the norms of queries and keys: how far the best place's score is above the others
FAST = 0.02  # radians per token: pairs that tell positions apart
SLOW = 0.05, 0.02  # pairs that hardly turn and compare codes, of even and of odd groups
WRITTEN, NEXT, BEFORE, COPIED = 0.7, 1.4, 2.0, 0.5  # what heads add to the stream, in lengths of what they read there
LARGE = 10.0  # queries and keys are normalized: a large matrix computes the same, and a step turns it less
NOISE = 0.005
RECENT = (1, 2, 3), (0, 1)  # tokens back (0: the token itself) whose codes a query reads, of the heads of an even group
ASKED = 2, 3  # tokens back whose code a query reads, of the heads of an odd group
DISTANCES = (4, 2), (3, 1)  # tokens before the place found, of an odd group
FAR, FURTHER = 28, 0.4  # tokens that an odd group prefers to be far from what it finds, and how much
LONG = 0.02, 0.08  # radians per token: pairs that tell near from far
TO_QUESTION = 4, 5  # tokens back, of the heads of layer 2's first group
ALIKE = 0.8  # the cosine of the embeddings of a word's two tokens


class Start:
    """The parts of the stream and the matrices that read and write them, for one shape."""

    def __init__(self, config: ModelConfig, length: float, rng: np.random.Generator):
        """`length` is that of a token's embedding in the stream."""
        c, self.rng, self.config = config, rng, config
        self.width = min(c.head_dim // 2, c.d_model // (2 * c.n_head), (c.d_model - 1) // (c.n_head + 1))  # of a code
        self.words = c.d_model - c.n_head * self.width  # channels below this one: the constant and the embeddings
        self.grown = length * (1 + CONSTANT**2) ** 0.5 / c.d_model**0.5  # the stream's length over a normalized one's
        self.basis = self._within(np.linalg.qr(rng.standard_normal((self.words - 1, self.words - 1)))[0].T)
        self.code = self.basis[: self.width]  # (code, d): of the token itself
        rooms = np.eye(c.d_model)[self.words :].reshape(c.n_head, self.width, c.d_model)
        self.rooms = dict(enumerate(rooms, 1))  # tokens back -> (code, d)
        self.turning = c.rope_theta ** (-np.arange(0, c.head_dim, 2) / c.head_dim)  # radians per token of each pair
        self.shared = c.n_head // c.n_kv_head

    def _within(self, rows: np.ndarray) -> np.ndarray:
        """Rows over the embeddings' channels as rows over all (…, d)."""
        whole = np.zeros((len(rows), self.config.d_model))
        whole[:, 1 : self.words] = rows
        return whole

    def back(self, tokens: int) -> np.ndarray:
        """Reads the code of the token so many before (code, d), as large as that of the token itself."""
        return self.code if tokens == 0 else self.rooms[tokens] / WRITTEN

    def mixing(self, slow: float) -> np.ndarray:
        """A random rotation (D, code) of codes into the pairs that turn so slowly."""
        pairs = np.flatnonzero(np.tile(self.turning <= max(slow, self.turning[-1]), 2))
        mixed, n = np.zeros((self.config.head_dim, self.width)), len(pairs)
        square = np.linalg.qr(self.rng.standard_normal((max(n, self.width),) * 2))[0]
        mixed[pairs] = square[:n, : self.width]
        return mixed

    def looking(self, back: int) -> np.ndarray:
        """The query (D, d) that attends so many tokens back, by channel 0 and positions alone; 0 gives the key."""
        return self._at(back, 1.0 * (self.turning > FAST))

    def preferring(self, back: int) -> np.ndarray:
        """What a query adds to prefer places about so many tokens back; 0 gives what a key adds."""
        return self._at(back, FURTHER * ((self.turning > LONG[0]) & (self.turning < LONG[1])))

    def _at(self, back: int, large: np.ndarray) -> np.ndarray:
        """Rows (D, d) that turn channel 0 by `back` positions, so `large` in each pair."""
        q, half, angle = np.zeros((self.config.head_dim, self.config.d_model)), len(large), back * self.turning
        q[:half, 0] = large * np.cos(angle)  # the angle (t - back) · f at position t; that of the key is t · f
        q[half:, 0] = -large * np.sin(angle)
        return q

    def scale(self, strength: float) -> float:
        """Of values and of output, so that together they add `strength` times what they read."""
        return (strength * self.grown) ** 0.5

    def random(self, matrix: np.ndarray) -> np.ndarray:
        return matrix + NOISE * self.rng.standard_normal(matrix.shape)

    def empty(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """q (H, D, d), k and v (K, D, d) and o (d, H, D), all zero."""
        c = self.config
        keys = (c.n_kv_head, c.head_dim, c.d_model)
        return np.zeros((c.n_head, *keys[1:])), np.zeros(keys), np.zeros(keys), np.zeros((c.d_model, c.n_head, keys[1]))


def induction_start(
    config: ModelConfig, weights: Tree, rng: np.random.Generator, pairs: Sequence[tuple[int, int]] = ()
) -> Tree:
    """The weights with the embeddings and all attention layers begun as said above.

    `pairs` are words' two tokens, the second of which begins like the first.
    """
    table = weights["model"]["embed_tokens"]["weight"]
    length = float(np.linalg.norm(table, axis=1).mean())
    start = Start(config, length * (config.d_model**0.5 if config.embedding_scale else 1.0), rng)
    drawn = rng.standard_normal((len(table), start.words - 1))
    drawn *= length / np.linalg.norm(drawn, axis=1).mean()
    for word, same in pairs:
        drawn[same] = ALIKE * drawn[word] + (1 - ALIKE**2) ** 0.5 * drawn[same]
    table[:] = 0.0
    table[:, 1 : start.words] = drawn
    table[:, 0] = CONSTANT * length
    layers = [layer["self_attn"] for layer in weights["model"]["layers"]]
    _look_back(start, layers[0])
    _look_up(start, layers[1])
    for layer in layers[2:]:
        _copy(start, layer)
    for layer in layers[2:3]:
        _fetch(start, layer)
    for layer, sharp in zip(layers, SHARP, strict=False):
        for norm in ("q_norm", "k_norm"):
            layer[norm]["weight"][:] = sharp
    return weights


def _look_back(start: Start, layer: Tree) -> None:
    """Head h attends h + 1 tokens back, whatever stands there, and writes its code."""
    q, k, v, o = start.empty()
    k[:] = start.looking(0)
    v[:, : start.width] = start.scale(WRITTEN) * start.code
    for head, room in enumerate(start.rooms.values()):
        q[head] = start.looking(head + 1)
        o[:, head, : start.width] = start.scale(WRITTEN) * room.T
    _set(layer, q=LARGE * q, k=LARGE * k, v=v, o=o)


def _look_up(start: Start, layer: Tree) -> None:
    """Even groups attend to what came after the same tokens; odd ones to an earlier token, for what stood before it."""
    q, k, v, o = start.empty()
    next_, before = start.scale(NEXT), start.scale(BEFORE / WRITTEN)
    for group in range(len(k)):
        heads = range(group * start.shared, (group + 1) * start.shared)
        if group % 2 == 0:
            known = [back for back in range(4) if back + 1 in start.rooms]
            mixed = {back: start.mixing(SLOW[0]) for back in known}
            k[group] = sum(mixed[back] @ start.back(back + 1) for back in known)
            copied = start.basis[-start.config.head_dim :]
            v[group, : len(copied)] = next_ * copied
            for place, head in enumerate(heads):
                read = [back for back in RECENT[place % 2] if back in mixed] or known
                q[head] = sum(mixed[back] @ start.back(back) for back in read)
                o[:, head, : len(copied)] = next_ * copied.T
        else:
            mixing, far = start.mixing(SLOW[1]), start.preferring(FAR)
            k[group] = mixing @ start.code + start.preferring(0)
            found = [back for back in DISTANCES[group // 2 % 2] if back in start.rooms]
            parts = [slice(n * start.width, (n + 1) * start.width) for n in range(len(found))]
            for back, part in zip(found, parts, strict=True):
                v[group, part] = before * start.rooms[back]
            asked = [back for back in ASKED if back in start.rooms] or [0]
            for place, head in enumerate(heads):
                q[head] = mixing @ start.back(asked[(group // 2 + place) % len(asked)]) + far
                for part in parts:
                    o[:, head, part] = before * start.code.T
    _set(layer, q=start.random(LARGE * q), k=start.random(LARGE * k), v=start.random(v), o=o)


def _copy(start: Start, layer: Tree) -> None:
    """All groups together copy an embedding, wherever they attend."""
    _, _, v, o = start.empty()
    width, scale = start.config.head_dim, start.scale(COPIED)
    for group in range(len(v)):
        rows = start.basis[group * width : (group + 1) * width]
        v[group, : len(rows)] = scale * rows
        o[:, group * start.shared : (group + 1) * start.shared, : len(rows)] = scale / start.shared * rows.T[:, None]
    _set(layer, v=v, o=o)


def _fetch(start: Start, layer: Tree) -> None:
    """The first group attends TO_QUESTION tokens back; it copies the channels of the codes, as _copy has begun it."""
    q, k = (layer[name]["weight"].reshape(-1, *start.empty()[1].shape[1:]) for name in ("q_proj", "k_proj"))
    distances = [TO_QUESTION[head % len(TO_QUESTION)] for head in range(start.shared)]
    q[: start.shared] = start.random(LARGE * np.stack([start.looking(back) for back in distances]))
    k[0] = start.random(LARGE * start.looking(0))


def _set(layer: Tree, **matrices: np.ndarray) -> None:
    """Each matrix of heads as the leaf `…_proj` has it."""
    for name, matrix in matrices.items():
        leaf = layer[f"{name}_proj"]
        leaf["weight"] = matrix.reshape(leaf["weight"].shape).astype(np.float32)
