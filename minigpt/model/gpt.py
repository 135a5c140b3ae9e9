"""One decoder-only transformer: a table of layers over a tree of weights and a Backend.

Shapes: B batch, T tokens, d model width, H query heads, K key/value heads, D head width, V vocabulary.
The weights carry Hugging Face names, so a model of our own has the layout of `LlamaForCausalLM` and one with
`qk_norm` that of `Qwen3ForCausalLM`. Each layer's file says what its leaves are, how they begin, what it computes, what
that costs and what it keeps for the backward pass; its options are fields of `ModelConfig`.
"""

import functools
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from backends.base import Array, Backend
from backends.tree import Tree, map_leaves, unflatten
from minigpt.model.ahead import Ahead
from minigpt.model.attention import Attention, Queries
from minigpt.model.embeddings import Embeddings
from minigpt.model.feed_forward import FeedForward
from minigpt.model.heads import head_of, scores
from minigpt.model.induction import induction_start
from minigpt.model.linear import dropout
from minigpt.model.moe import MoE, active_shapes
from minigpt.model.norms import Norm, norm_places
from minigpt.model.positions import alibi_slopes
from minigpt.model.skips import Skips
from minigpt.sections import ModelConfig, StageConfig


def block(config: ModelConfig) -> dict[str, Any]:
    """The layers of one block: the name of each one's leaves -> its class, in the order of a checkpoint."""
    places = norm_places(config)
    order = (places[0], "self_attn", places[1], places[2], "mlp", places[3])
    layers = {"self_attn": Attention, "mlp": MoE if config.experts else FeedForward}
    return {name: layers.get(name, Norm) for name in order if name}


class GPT:
    """The forward pass. Holds no weights: they are an argument, so that a loss is a pure function of them."""

    def __init__(
        self, config: ModelConfig, backend: Backend, dtype: str = "float32", checkpointing: bool = False,
        loss_chunk: int = 0, dropout: float = 0.0, stochastic_depth: float = 0.0,
    ):  # fmt: skip
        self.config = config
        self.backend = backend
        self.dtype = dtype
        self.checkpointing = checkpointing
        self.loss_chunk = loss_chunk  # see losses.token_losses
        self.dropout = backend.array(np.float32(dropout)) if dropout else None  # see hidden
        shares = stochastic_depth * np.arange(1, config.depth + 1) / config.depth  # of each block
        self.omitted = [backend.array(np.float32(share)) for share in shares] if stochastic_depth else []
        self.embeddings = Embeddings(config, backend, dtype)
        self.layers = {name: layer(config, backend) for name, layer in block(config).items()}
        self.norm = None if config.norm_placement == "post" else Norm(config, backend)  # the last block has its own
        self.places = norm_places(config)
        self.slopes = alibi_slopes(config.n_head) if config.positions == "alibi" else ()
        self.skips, self.ahead = Skips(config, backend), Ahead(config, backend)
        self.told: list[dict[str, Array]] | None = None  # see telling

    @classmethod
    def trained_by(cls, stage: StageConfig, config: ModelConfig, backend: Backend, dtype: str) -> "GPT":
        """The model as a stage's settings let it compute."""
        return cls(
            config, backend, dtype, stage.activation_checkpointing, stage.loss_chunk, stage.dropout,
            stage.stochastic_depth,
        )  # fmt: skip

    def __call__(self, weights: Tree, ids: Array, **rows: Any) -> Array:
        """Logits (B, T, V) in the compute dtype for token ids (B, T); what is true of the rows as in `hidden`."""
        return self.logits(weights, self.hidden(weights, ids, **rows))

    def hidden(
        self, weights: Tree, ids: Array, *, segments: Array | None = None, follows: Array | None = None,
        positions: int | Array | None = None, cache: Any = None, lengths: Any = None, last: int = 0,
        dropout_keys: Array | None = None,
    ) -> Array:  # fmt: skip
        """The last layer's normalized output (B, T, d) for token ids (B, T), or for embeddings (B, T, d).

        - `segments` (B, T): the example of each token, where several share a row; a token sees its own example only.
        - `follows` (B, T): the example that a token's own one goes on from and which it sees as well (see
          `Backend.visible`); with `positions` (B, T).
        - `positions`: of all rows' first token, of each row's (B,), or of all tokens (B, T), int32; the default is
          what follows the cache. In packed rows rotary positions need no reset, as they depend on distances only.
        - `cache` (see `minigpt.generate.cache`): the tokens continue those that it holds, and are added to it.
        - `lengths` (B,) on the host: the tokens of each row that count, at its beginning; the rest is filling, which
          nothing sees.
        - `last`: only the last so many tokens of each row are followed to the end (B, last, d): the others end as
          keys and values of the last layer, which are all that an answer needs of a prompt.
        - `dropout_keys` (B,) int32, as a training step has them: the embeddings and both outputs of each block lose a
          share `dropout` of their values; and a share of the rows, which grows from block to block up to
          `stochastic_depth` in the last one, gets nothing from an output (Huang et al. 2016).
        """
        backend, body, tokens = self.backend, weights["model"], ids.shape[1]
        held = 0 if cache is None else cache.start  # int, or (B,) where the rows differ
        places = held if positions is None else positions
        queries = self._queries(places, held, tokens, tokens, cache, segments, follows)
        all_answer = not last or last >= tokens and lengths is None
        answering = queries if all_answer else self._last(places, held, tokens, lengths, last, cache)
        x = self._dropped(self.embeddings(body, ids, places, segments), dropout_keys, 0)  # (B, T, d)
        embedded, entered = self.embeddings.values(body, ids, x), []
        for number in range(self.config.depth):
            which = self.config.block_of(number)
            if which >= len(body["layers"]):
                break  # the first blocks alone (see quantize.gptq)
            layer, x = body["layers"][which], self.skips(body, x, entered)
            asking = answering if number == self.config.depth - 1 else queries
            run = functools.partial(
                self._block, queries=asking, places=places, cache=cache, number=number, keys=dropout_keys,
                training=self.told is not None,  # as it is now: checkpointed layers are computed again later
            )  # fmt: skip
            run = backend.checkpoint(run) if self.checkpointing and cache is None else run
            run = backend.group.opened(run)
            x, told = run(layer, x) if embedded is None else run(layer, x, embedded)
            if self.told is not None and told:
                self.told.append(told)
        if cache is not None:
            cache.advance(tokens if lengths is None else lengths)
        x = x if self.norm is None else self.norm(body["norm"], x)
        if self.told is not None and self.config.predict_ahead:
            self.told.append({"hidden": x})
        return x

    @contextmanager
    def telling(self) -> Iterator[list[dict[str, Array]]]:
        """Within it each forward pass is one of training, and adds to the list what its layers tell of the rows: for
        experts see `Router.told`, and the `hidden` states that heads further ahead go on with.
        """
        before, self.told = self.told, []
        try:
            yield self.told
        finally:
            self.told = before

    def logits(self, weights: Tree, hidden: Array) -> Array:
        """Hidden states (…, d) to logits (…, V)."""
        return self.embeddings.logits(weights, hidden)

    def scores(self, weights: Tree, hidden: Array) -> Array:
        """Hidden states (…, d) to one score each (…,) in float32, for a tree with the leaf `score.weight`."""
        return scores(self.backend, weights, hidden)

    def head(self, weights: Tree) -> Tree:
        """The output layer's leaves; tied embeddings are used again as the output matrix."""
        return self.embeddings.head(weights)

    def _block(
        self, w: Tree, x: Array, embedded: Array | None = None, *, queries: Queries, places, cache, number: int,
        keys: Array | None, training: bool,
    ) -> tuple[Array, dict[str, Array]]:  # fmt: skip
        attention, thought = self.layers["self_attn"], self.layers["mlp"]
        before, after, before_mlp, after_mlp = self.places
        seen = self._normed(w, before, x)
        attended = attention(w["self_attn"], seen, queries, places, cache, number, embedded)
        if queries.chosen is not None:
            x, seen = queries.chosen(x), queries.chosen(seen) if self.config.parallel else seen
        x = self._joined(w, after, x, attended, keys, 2 * number + 1)
        if not self.config.parallel:
            seen = self._normed(w, before_mlp, x)
        if self.config.experts:
            counted = None if queries.segments is None else queries.segments >= 0  # (B, T): not a row's unused end
            found, told = thought(w["mlp"], seen, counted, training)
        else:
            found, told = thought(w["mlp"], seen), {}
        return self._joined(w, after_mlp, x, found, keys, 2 * number + 2), told

    def _normed(self, w: Tree, name: str, x: Array) -> Array:
        """x through the norm of that name, where the block has one there."""
        return self.layers[name](w[name], x) if name else x

    def _joined(self, w: Tree, norm: str, x: Array, found: Array, keys: Array | None, place: int) -> Array:
        """The stream x with what a layer found: x + f, norm(x + f) with "post", x + norm(f) with "sandwich"."""
        if self.config.norm_placement == "post":
            return self._normed(w, norm, x + self._dropped(found, keys, place))
        return x + self._dropped(self._normed(w, norm, found), keys, place)

    def _dropped(self, x: Array, keys: Array | None, place: int) -> Array:
        """x (B, T, d) with dropout, and 0 for rows that are led past it; every place in the network (0: the embeddings,
        then two in each block) has keys of its own.
        """
        if keys is None:
            return x
        if self.dropout is not None:
            x = dropout(self.backend, x, _keys_of(keys, place), self.dropout)
        if place and self.omitted:
            ones = self.backend.zeros((x.shape[0], 1, 1), self.backend.dtype(x)) + 1.0
            x = x * dropout(self.backend, ones, _keys_of(keys, -place), self.omitted[(place - 1) // 2])
        return x

    def _queries(
        self, places, held, tokens: int, asking: int, cache, segments=None, follows=None, chosen=None
    ) -> Queries:
        """The last `asking` of the tokens that follow the `held` ones; `places` are their positions."""
        keys = tokens if cache is None else cache.longest + tokens
        c, held = self.config, None if isinstance(held, int) else held
        rows = {"segments": segments, "positions": held, "slopes": self.slopes}
        rows |= {} if follows is None else {"follows": follows, "positions": places}
        visible = self.backend.visible(asking, keys, window=c.sliding_window, sinks=c.attention_sinks, **rows)
        everywhere = self.backend.visible(asking, keys, **rows) if c.full_attention_every else visible
        return Queries(places, visible, everywhere, chosen, segments)

    def _last(self, places, held, tokens: int, lengths, last: int, cache) -> Queries:
        """The last tokens of each row, which ends after its own length."""
        backend, last = self.backend, min(last, tokens)
        if lengths is None:
            before = tokens - last
            if len(getattr(places, "shape", ())) == 2:
                places = places[:, before:] - before
            held = held + before
            return self._queries(places + before, held, tokens, last, cache, chosen=lambda x: x[:, before:])
        before = backend.array(np.asarray(lengths, np.int32) - last)  # (B,): the tokens before a row's last ones
        flat = backend.arange(0, before.shape[0])[:, None] * tokens + before[:, None] + backend.arange(0, last)[None, :]

        def chosen(x: Array) -> Array:
            return backend.take(x.reshape(-1, x.shape[-1]), flat)  # (B, last, d)

        if len(getattr(places, "shape", ())) == 2:
            places = backend.take(places.reshape(-1), flat) - before[:, None]
        return self._queries(before + places, before + held, tokens, last, cache, chosen=chosen)


def _keys_of(keys: Array, place: int) -> Array:
    """The keys (B,) of a step's rows at a place."""
    return keys ^ (place * 0x9E3779B1 % 2**32 - 2**31)


def _leaves(config: ModelConfig) -> Iterator[tuple[str, Any, str, tuple[int, ...]]]:
    """(name, class of its layer, name in that layer, shape) of every weight, in the order of a checkpoint."""
    layers = [("model.", Embeddings, Embeddings.shapes(config))]
    for i in range(config.n_layer):
        layers += [(f"model.layers.{i}.{name}.", layer, layer.shapes(config)) for name, layer in block(config).items()]
    last = Norm.shapes(config) if config.norm_placement != "post" else {}
    head = head_of(config)
    layers += [("model.norm.", Norm, last), ("model.", Skips, Skips.shapes(config))]
    layers += [("model.", Ahead, Ahead.shapes(config)), ("", head, head.shapes(config))]
    for before, layer, shapes in layers:
        yield from ((before + leaf, layer, leaf, shape) for leaf, shape in shapes.items())


def weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every weight, in the order of a Hugging Face checkpoint."""
    return {name: shape for name, _, _, shape in _leaves(config)}


def parameter_count(config: ModelConfig) -> int:
    """Trainable parameters of a model of this shape (tied embeddings counted once)."""
    return sum(int(np.prod(shape)) for shape in weight_shapes(config).values())


def active_count(config: ModelConfig) -> int:
    """Parameters that work for one token: all but those of the experts that it does not go to."""
    return sum(int(np.prod(shape)) for shape in active_shapes(config, weight_shapes(config)).values())


def flops_per_token(config: ModelConfig, width: int) -> float:
    """Arithmetic of one token, forwards and backwards, in rows of `width` tokens (Chowdhery et al. 2022)."""
    layers = sum(layer.flops_per_token(config, width) for layer in block(config).values())
    outside = head_of(config).flops_per_token(config, width) + Ahead.flops_per_token(config, width)
    return config.depth * layers + outside


def kept_values(config: ModelConfig, habits: Any, width: int, masked: bool) -> float:
    """Values per token that one block keeps for the backward pass.

    `habits` says how a framework stores them (`minigpt.plan.memory.Habits`), `width` is the length of a row and
    `masked` whether rows hold several examples.
    """
    return sum(layer.kept_values(config, habits, width, masked) for layer in block(config).values())


def init_weights(config: ModelConfig, seed: int, pairs: Sequence[tuple[int, int]] = ()) -> Tree:
    """Random float32 NumPy weights: the same on every backend and machine for the same seed.

    Each layer says how its leaves begin (`start`). Each leaf draws from its own Philox stream, so that a new leaf
    changes no other. Where a model `looks_up` its attention begins otherwise, and so do the embeddings of `pairs` of
    tokens that are one word (`Tokenizer.spaced`).
    """
    flat = {}
    for name, layer, leaf, shape in _leaves(config):
        stream = np.random.Generator(np.random.Philox(key=[seed, zlib.crc32(name.encode())]))
        flat[name] = layer.start(config, leaf, shape, stream)
    weights = unflatten(flat)
    if config.looks_up:
        stream = np.random.Generator(np.random.Philox(key=[seed, zlib.crc32(b"induction")]))
        weights = induction_start(config, weights, stream, pairs)
    return weights


def to_backend(backend: Backend, weights: Tree, dtype: str | None = None) -> Tree:
    """NumPy weights as arrays of `backend`."""
    return map_leaves(lambda w: backend.array(w, dtype), weights)
