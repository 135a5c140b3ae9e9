"""One decoder-only transformer: plain Python over a tree of weights and a Backend.

Shapes: B batch, T tokens, d model width, H query heads, K key/value heads, D head width, V vocabulary.
The weights carry Hugging Face names, so a plain model has the layout of `LlamaForCausalLM` and one with
`qk_norm` that of `Qwen3ForCausalLM`. LayerNorm, learned positions, GELU, biases and a sliding window are for
models that come from elsewhere (see `minigpt.exchange`).
"""

import zlib

import numpy as np

from backends.base import Array, Backend
from backends.tree import Tree, map_leaves, unflatten
from minigpt.model.linear import dropout, embed, linear, linears
from minigpt.model.rope import rope_amplitude, rope_frequencies
from minigpt.sections import ModelConfig


class GPT:
    """The forward pass. Holds no weights: they are an argument, so that a loss is a pure function of them."""

    def __init__(
        self, config: ModelConfig, backend: Backend, dtype: str = "float32", checkpointing: bool = False,
        loss_chunk: int = 0, dropout: float = 0.0,
    ):  # fmt: skip
        self.config = config
        self.backend = backend
        self.dtype = dtype
        self.checkpointing = checkpointing
        self.loss_chunk = loss_chunk  # see losses.token_losses
        self.dropout = backend.array(np.float32(dropout)) if dropout else None  # see hidden
        frequencies = rope_frequencies(config)
        self.angles = config.rope_theta if frequencies is None else tuple(frequencies.tolist())
        self.scale = config.head_dim**-0.5 * rope_amplitude(config) ** 2

    def __call__(self, weights: Tree, ids: Array, mask: Array | str | None = "causal", cache=None) -> Array:
        """Logits (B, T, V) in the compute dtype for token ids (B, T).

        `mask` as in `Backend.attention`. With a `cache` (see `minigpt.generate.cache`) the ids continue the
        tokens that it holds, and it is extended by them.
        """
        return self.logits(weights, self.hidden(weights, ids, mask, cache))

    def hidden(
        self, weights: Tree, ids: Array, mask: Array | str | None = "causal", cache=None, keys: Array | None = None,
        last: int = 0,
    ) -> Array:  # fmt: skip
        """The last layer's normalized output (B, T, d).

        With `keys` (B,) int32, as a training step has them, the embeddings and both outputs of each block lose a
        share `dropout` of their numbers. With `last` only the last so many tokens are followed to the end (B, last, d):
        the others end as keys and values of the last layer, which are all that an answer needs of a prompt.
        """
        backend, body = self.backend, weights["model"]
        x = backend.cast(embed(backend, body["embed_tokens"], ids, self.config.d_model), self.dtype)  # (B, T, d)
        offset = 0 if cache is None else cache.length
        if self.config.positions == "learned":
            rows = self._positions(mask, offset, ids.shape[1])  # (T,) or (B, T)
            x = x + backend.cast(backend.take(body["embed_positions"]["weight"], rows), self.dtype)
        mask = self._within_window(mask, offset, ids.shape[1])
        x = self._dropped(x, keys, 0)
        turned = 0 if cache is None else offset + cache.origin  # the first token's rotary position
        for number, layer in enumerate(body["layers"]):
            if self.checkpointing and cache is None:
                x = backend.checkpoint(lambda w, y, n=number: self._block(w, y, mask, 0, None, n, keys))(layer, x)
            else:
                wanted = last if number == self.config.n_layer - 1 else 0
                x = self._block(layer, x, mask, turned, cache, number, keys, wanted)
        if cache is not None:
            cache.length += ids.shape[1]
        return self._norm(body["norm"], x)

    def logits(self, weights: Tree, hidden: Array) -> Array:
        """Hidden states (…, d) to logits (…, V)."""
        return self._linear(self.head(weights), hidden)

    def head(self, weights: Tree) -> Tree:
        """The output layer's leaves; tied embeddings are used again as the output matrix."""
        return weights["model"]["embed_tokens"] if self.config.tie_embeddings else weights["lm_head"]

    def _block(
        self, layer: Tree, x: Array, mask, offset: int, cache, number: int, keys: Array | None = None, last: int = 0
    ) -> Array:
        seen = self._norm(layer["input_layernorm"], x)
        attended = self._attention(layer["self_attn"], seen, mask, offset, cache, number, last)
        x = (x[:, -last:] if last else x) + self._dropped(attended, keys, 2 * number + 1)
        thought = self._feed_forward(layer["mlp"], self._norm(layer["post_attention_layernorm"], x))
        return x + self._dropped(thought, keys, 2 * number + 2)

    def _dropped(self, x: Array, keys: Array | None, place: int) -> Array:
        """x (B, T, d) with dropout; every place in the network has keys of its own."""
        if keys is None or self.dropout is None:
            return x
        return dropout(self.backend, x, keys ^ (place * 0x9E3779B1 % 2**32 - 2**31), self.dropout)

    def _attention(self, w: Tree, x: Array, mask, offset: int, cache, number: int, last: int = 0) -> Array:
        c, backend = self.config, self.backend
        batch, tokens, _ = x.shape
        queries = min(last or tokens, tokens)
        if last:
            q = self._linear(w["q_proj"], x[:, -queries:])
            k, v = self._linears([w["k_proj"], w["v_proj"]], x)
        else:
            q, k, v = self._linears([w["q_proj"], w["k_proj"], w["v_proj"]], x)
        q = q.reshape(batch, queries, c.n_head, c.head_dim)
        k = k.reshape(batch, tokens, c.n_kv_head, c.head_dim)
        v = v.reshape(batch, tokens, c.n_kv_head, c.head_dim)
        if c.qk_norm:
            q = backend.rms_norm(q, w["q_norm"]["weight"], c.norm_eps)
            k = backend.rms_norm(k, w["k_norm"]["weight"], c.norm_eps)
        q, k, v = q.swapaxes(1, 2), k.swapaxes(1, 2), v.swapaxes(1, 2)  # (B, H, T, D), (B, K, T, D) twice
        if c.positions == "rope":
            q, k = backend.rope(q, offset + tokens - queries, self.angles), backend.rope(k, offset, self.angles)
        if cache is not None:
            k, v = cache.extend(number, k, v)  # (B, K, offset + T, D)
        if queries < tokens and mask is not None and not isinstance(mask, str):
            mask = mask[..., -queries:, :]  # (B, 1, last, Tk)
        y = backend.attention(q, k, v, self.scale, mask)  # (B, H, last or T, D)
        return self._linear(w["o_proj"], y.swapaxes(1, 2).reshape(batch, queries, c.n_head * c.head_dim))

    def _feed_forward(self, w: Tree, x: Array) -> Array:
        """SwiGLU (Shazeer 2020): down(silu(gate(x)) * up(x)); or GPT-2's down(gelu(up(x)))."""
        if self.config.feed_forward != "swiglu":
            gelu = {"gelu": self.backend.gelu, "gelu_tanh": self.backend.gelu_tanh}[self.config.feed_forward]
            return self._linear(w["down_proj"], gelu(self._linear(w["up_proj"], x)))
        gate, up = self._linears([w["gate_proj"], w["up_proj"]], x)  # (B, T, d_ff) each
        return self._linear(w["down_proj"], self.backend.silu(gate) * up)

    def _norm(self, w: Tree, x: Array) -> Array:
        if self.config.norm == "layer":
            return self.backend.layer_norm(x, w["weight"], w["bias"], self.config.norm_eps)
        return self.backend.rms_norm(x, w["weight"], self.config.norm_eps)

    def _positions(self, mask: Array | str | None, offset: int, tokens: int) -> Array:
        """The learned positions of the tokens: a token that sees n others of its own example is number n in it."""
        backend = self.backend
        if mask is None or isinstance(mask, str):
            return backend.arange(offset, offset + tokens)
        places = backend.cast(backend.cast(mask, "int32").sum(axis=-1)[:, 0], "int32") - 1  # (B, T)
        last = (self.config.max_positions or self.config.context) - 1
        return backend.where(places > last, last, places)  # a row's unused tail may be longer than any example

    def _within_window(self, mask: Array | str | None, offset: int, tokens: int) -> Array | str | None:
        """The mask without what is further back than the sliding window (Beltagy et al. 2020)."""
        window, keys = self.config.sliding_window, offset + tokens
        if not window or keys <= window or mask is None:
            return mask
        backend = self.backend
        seen = backend.causal_mask(tokens, keys) if isinstance(mask, str) else mask
        return seen & (backend.arange(0, keys)[None, :] > backend.arange(offset - window, keys - window)[:, None])

    def _linear(self, w: Tree, x: Array) -> Array:
        return linear(self.backend, w, x)

    def _linears(self, layers: list[Tree], x: Array) -> list[Array]:
        return linears(self.backend, layers, x)


def segment_mask(backend: Backend, segments: Array) -> Array:
    """For rows that hold several examples: (B, T) segment numbers -> (B, 1, T, T) bool attention mask.

    A token sees the tokens before it that carry the same number. Rotary positions need no reset at a segment's
    start, as they depend on distances only; learned ones are counted from the mask.
    """
    same = segments[:, None, :, None] == segments[:, None, None, :]  # (B, 1, T, T)
    return same & backend.causal_mask(segments.shape[1], segments.shape[1])


def weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every weight, in the order of a Hugging Face checkpoint."""
    c = config
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (c.vocab_size, c.d_model)}
    if c.positions == "learned":
        shapes["model.embed_positions.weight"] = (c.max_positions or c.context, c.d_model)

    def add(name: str, shape: tuple[int, ...], bias: bool = False) -> None:
        shapes[f"{name}.weight"] = shape
        if bias:
            shapes[f"{name}.bias"] = shape[:1]

    for i in range(c.n_layer):
        layer = f"model.layers.{i}"
        add(f"{layer}.input_layernorm", (c.d_model,), c.norm == "layer")
        add(f"{layer}.self_attn.q_proj", (c.n_head * c.head_dim, c.d_model), c.qkv_bias)
        add(f"{layer}.self_attn.k_proj", (c.n_kv_head * c.head_dim, c.d_model), c.qkv_bias)
        add(f"{layer}.self_attn.v_proj", (c.n_kv_head * c.head_dim, c.d_model), c.qkv_bias)
        add(f"{layer}.self_attn.o_proj", (c.d_model, c.n_head * c.head_dim), c.output_bias)
        if c.qk_norm:
            add(f"{layer}.self_attn.q_norm", (c.head_dim,))
            add(f"{layer}.self_attn.k_norm", (c.head_dim,))
        add(f"{layer}.post_attention_layernorm", (c.d_model,), c.norm == "layer")
        if c.feed_forward == "swiglu":
            add(f"{layer}.mlp.gate_proj", (c.d_ff, c.d_model), c.mlp_bias)
        add(f"{layer}.mlp.up_proj", (c.d_ff, c.d_model), c.mlp_bias)
        add(f"{layer}.mlp.down_proj", (c.d_model, c.d_ff), c.mlp_bias)
    add("model.norm", (c.d_model,), c.norm == "layer")
    if not c.tie_embeddings:
        add("lm_head", (c.vocab_size, c.d_model))
    return shapes


def parameter_count(config: ModelConfig) -> int:
    """Trained numbers in a model of this shape (tied embeddings counted once)."""
    return sum(int(np.prod(shape)) for shape in weight_shapes(config).values())


def init_weights(config: ModelConfig, seed: int) -> Tree:
    """Random float32 NumPy weights: the same on every backend and machine for the same seed.

    Norm weights are 1, biases 0, matrices normal with standard deviation 0.02, the two matrices of each layer that
    write into the residual stream divided by √(2·layers) (Radford et al. 2019). Embeddings have rows of about
    unit length, not 0.02: in one pair of demo runs (tiny, Muon) pretraining ended at 0.940 instead of 1.007 nats
    per token and SFT began faster; SFT ended alike (0.078 and 0.076). Each leaf draws from its own Philox stream,
    so that a new leaf changes no other.
    """
    flat = {}
    for name, shape in weight_shapes(config).items():
        if name.endswith("norm.weight"):
            flat[name] = np.ones(shape, np.float32)
            continue
        if name.endswith(".bias"):
            flat[name] = np.zeros(shape, np.float32)
            continue
        stream = np.random.Generator(np.random.Philox(key=[seed, zlib.crc32(name.encode())]))
        deviation = 0.02
        if name.endswith("embed_tokens.weight"):
            deviation = config.d_model**-0.5
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            deviation /= (2 * config.n_layer) ** 0.5
        flat[name] = stream.standard_normal(shape, np.float32) * np.float32(deviation)
    return unflatten(flat)


def to_backend(backend: Backend, weights: Tree, dtype: str | None = None) -> Tree:
    """NumPy weights as arrays of `backend`."""
    return map_leaves(lambda w: backend.array(w, dtype), weights)
