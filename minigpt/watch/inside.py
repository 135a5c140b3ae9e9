"""What happens inside a model when it reads a prompt: attention, logit lens, probabilities, embedding neighbours."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from backends.base import Array, Backend
from backends.tree import Tree
from minigpt.errors import UsageError
from minigpt.generate.engine import Engine
from minigpt.generate.sampling import softmax
from minigpt.model.gpt import GPT
from minigpt.text.tokenizer import Tokenizer

LONGEST = 128  # tokens of a prompt that can be looked at
BEST, NEAR = 10, 6  # tokens that are named: by probability, by embedding


@dataclass
class Inside:
    """Of a prompt with T tokens, in a model with L layers and H heads.

    `attention` (L, H, T, T): how much row's token takes from column's. `lens[l][t]` is the likeliest next token after
    l layers at token t and its probability (l = 0: the embeddings alone). `following` are the likeliest tokens after
    the prompt, `surprise[t]` is the probability that the model gave to token t (None for the first). `neighbours` are
    the tokens whose embeddings have the highest cosine with those of the prompt's tokens.
    """

    tokens: list[str]
    attention: np.ndarray
    lens: list[list[tuple[str, float]]]
    following: list[tuple[str, float]]
    surprise: list[float | None]
    neighbours: dict[str, list[tuple[str, float]]]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return vars(self) | {"attention": np.round(self.attention, 5).tolist()}


def look_inside(engine: Engine, ids: list[int]) -> Inside:
    """Run a prompt (T,) through the engine's model once. Raises UsageError when it is empty or too long."""
    most = min(LONGEST, engine.model.config.context)
    if not 0 < len(ids) <= most:
        raise UsageError(f"The prompt has {len(ids):,} tokens.", f"Give one of 1 to {most:,} tokens.")
    backend, weights = engine.model.backend, engine.weights
    model = Watched(engine.model)
    logits = model(weights, backend.array(np.array([ids], np.int32)))  # (1, T, V)
    first = backend.numpy(backend.cast(model.before, "float32"))
    stream = [first, *(backend.numpy(backend.cast(x, "float32")) for x in model.after)]
    lens = [softmax(_logits(model, weights, backend, x)) for x in stream[:-1]]
    lens.append(softmax(backend.numpy(backend.cast(logits, "float32"))[0]))  # each (T, V)
    last = lens[-1]

    def named(row: np.ndarray, count: int) -> list[tuple[str, float]]:
        return [(shown(engine.tokenizer, int(i)), float(row[i])) for i in np.argsort(-row, kind="stable")[:count]]

    return Inside(
        [shown(engine.tokenizer, i) for i in ids],
        np.stack([shares[0] for shares in model.shares]),
        [[named(row, 1)[0] for row in layer] for layer in lens],
        named(last[-1], BEST),
        [None, *(float(last[t, following]) for t, following in enumerate(ids[1:]))],
        _neighbours(engine, ids, named),
    )


def shown(tokenizer: Tokenizer, token: int) -> str:
    """A token for people: its text, a single byte that is no character as <F0>."""
    alone = tokenizer.is_byte(token) and tokenizer.bytes_of(token) > b"\x7f"
    return f"<{tokenizer.bytes_of(token)[0]:02X}>" if alone else tokenizer.show([token])


class Watched(GPT):
    """The same model, which keeps what its blocks put out and how its heads attend.

    `before` (B, T, d) goes into the first block, `after[l]` comes out of block l, `shares[l]` (B, H, T, T) are its
    attention weights, computed again from its queries and keys; not without `attention`.
    """

    def __init__(self, model: GPT, attention: bool = True):
        super().__init__(model.config, model.backend, model.dtype)
        self.before: Array | None = None
        self.after: list[Array] = []
        self.shares: list[np.ndarray] = []
        if attention:
            self.layers["self_attn"].backend = _Recorder(model.backend, self.shares)

    def _block(self, w: Tree, x: Array, *rest: Any, **named: Any) -> tuple[Array, dict[str, Array]]:
        self.before = x if self.before is None else self.before
        out, told = super()._block(w, x, *rest, **named)
        self.after.append(out)
        return out, told


class _Recorder:
    """A backend whose attention also tells the weights."""

    def __init__(self, backend: Backend, shares: list[np.ndarray]):
        self._backend, self._shares = backend, shares

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def attention(self, q: Array, k: Array, v: Array, scale: float, visible: Any, softcap: float = 0.0) -> Array:
        def plain(x: Array | None) -> np.ndarray | None:
            return None if x is None else self._backend.numpy(self._backend.cast(x, "float32"))

        mask = None if visible.causal or visible.mask is None else self._backend.numpy(visible.mask)
        self._shares.append(attention_weights(plain(q), plain(k), scale, mask, softcap, plain(visible.bias)))
        return self._backend.attention(q, k, v, scale, visible, softcap)


def attention_weights(
    q: np.ndarray, k: np.ndarray, scale: float, mask: np.ndarray | None, softcap: float = 0.0,
    bias: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """softmax(q kᵀ · scale): q (B, H, T, D), k (B, K, T, D), H a multiple of K -> (B, H, T, T); no mask: causal.

    `softcap` and `bias`, which hides what is not seen, as in `Backend.attention`.
    """
    k = np.repeat(k, q.shape[1] // k.shape[1], axis=1)
    scores = (q @ k.swapaxes(-1, -2)) * scale
    scores = softcap * np.tanh(scores / softcap) if softcap else scores
    if bias is not None:
        return softmax(scores + bias)
    seen = np.tril(np.ones(scores.shape[-2:], bool)) if mask is None else mask
    return softmax(np.where(seen, scores, -1e30))


def _logits(model: GPT, weights: Tree, backend: Backend, hidden: np.ndarray) -> np.ndarray:
    """The output layer after the last norm, on what lies between two blocks: (1, T, d) -> (T, V)."""
    x = backend.array(hidden, model.dtype)
    x = x if model.norm is None else model.norm(weights["model"]["norm"], x)
    return backend.numpy(backend.cast(model.logits(weights, x), "float32"))[0]


def _neighbours(engine: Engine, ids: list[int], named: Any) -> dict[str, list[tuple[str, float]]]:
    backend = engine.model.backend
    table = backend.numpy(backend.cast(engine.weights["model"]["embed_tokens"]["weight"], "float32"))  # (V, d)
    table = table[: engine.tokenizer.vocab_size]
    unit = table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
    found = {}
    for token in dict.fromkeys(ids):
        near = unit @ unit[token]  # (V,)
        near[token] = -2.0  # itself
        found[shown(engine.tokenizer, token)] = named(near, NEAR)
    return found
