"""One decoder-only transformer: plain Python over a tree of weights and a Backend.

Shapes: B batch, T tokens, d model width, H query heads, K key/value heads, D head width, V vocabulary.
The weights carry Hugging Face names, so a plain model has the layout of `LlamaForCausalLM` and one with
`qk_norm` that of `Qwen3ForCausalLM`.
"""

import zlib

import numpy as np

from backends.base import Array, Backend
from backends.tree import Tree, map_leaves, unflatten
from minigpt.config import ModelConfig
from minigpt.linear import linear


class GPT:
    """The forward pass. Holds no weights: they are an argument, so that a loss is a pure function of them."""

    def __init__(
        self, config: ModelConfig, backend: Backend, dtype: str = "float32", checkpointing: bool = False,
        loss_chunk: int = 0,
    ):  # fmt: skip
        self.config = config
        self.backend = backend
        self.dtype = dtype
        self.checkpointing = checkpointing
        self.loss_chunk = loss_chunk  # see losses.token_losses

    def __call__(self, weights: Tree, ids: Array, mask: Array | str | None = "causal", cache=None) -> Array:
        """Logits (B, T, V) in the compute dtype for token ids (B, T).

        `mask` as in `Backend.attention`. With a `cache` (see `minigpt.generate.cache`) the ids continue the
        tokens that it holds, and it is extended by them.
        """
        return self.logits(weights, self.hidden(weights, ids, mask, cache))

    def hidden(self, weights: Tree, ids: Array, mask: Array | str | None = "causal", cache=None) -> Array:
        """The last layer's normalized output (B, T, d)."""
        backend, body = self.backend, weights["model"]
        x = backend.cast(backend.take(body["embed_tokens"]["weight"], ids), self.dtype)  # (B, T, d)
        offset = 0 if cache is None else cache.length
        for number, layer in enumerate(body["layers"]):
            if self.checkpointing and cache is None:
                x = backend.checkpoint(lambda w, y: self._block(w, y, mask, 0, None, 0))(layer, x)
            else:
                x = self._block(layer, x, mask, offset, cache, number)
        if cache is not None:
            cache.length += ids.shape[1]
        return backend.rms_norm(x, body["norm"]["weight"], self.config.norm_eps)

    def logits(self, weights: Tree, hidden: Array) -> Array:
        """Hidden states (…, d) to logits (…, V)."""
        return self._linear(self.head(weights), hidden)

    def head(self, weights: Tree) -> Tree:
        """The output layer's leaves; tied embeddings are used again as the output matrix."""
        return weights["model"]["embed_tokens"] if self.config.tie_embeddings else weights["lm_head"]

    def _block(self, layer: Tree, x: Array, mask, offset: int, cache, number: int) -> Array:
        eps, norm = self.config.norm_eps, self.backend.rms_norm
        x = x + self._attention(
            layer["self_attn"], norm(x, layer["input_layernorm"]["weight"], eps), mask, offset, cache, number
        )
        return x + self._feed_forward(layer["mlp"], norm(x, layer["post_attention_layernorm"]["weight"], eps))

    def _attention(self, w: Tree, x: Array, mask, offset: int, cache, number: int) -> Array:
        c, backend = self.config, self.backend
        batch, tokens, _ = x.shape
        q = self._linear(w["q_proj"], x).reshape(batch, tokens, c.n_head, c.head_dim)
        k = self._linear(w["k_proj"], x).reshape(batch, tokens, c.n_kv_head, c.head_dim)
        v = self._linear(w["v_proj"], x).reshape(batch, tokens, c.n_kv_head, c.head_dim)
        if c.qk_norm:
            q = backend.rms_norm(q, w["q_norm"]["weight"], c.norm_eps)
            k = backend.rms_norm(k, w["k_norm"]["weight"], c.norm_eps)
        q = backend.rope(q.swapaxes(1, 2), offset, c.rope_theta)  # (B, H, T, D)
        k = backend.rope(k.swapaxes(1, 2), offset, c.rope_theta)  # (B, K, T, D)
        v = v.swapaxes(1, 2)  # (B, K, T, D)
        if cache is not None:
            k, v = cache.extend(number, k, v)  # (B, K, offset + T, D)
        y = backend.attention(q, k, v, c.head_dim**-0.5, mask)  # (B, H, T, D)
        return self._linear(w["o_proj"], y.swapaxes(1, 2).reshape(batch, tokens, c.n_head * c.head_dim))

    def _feed_forward(self, w: Tree, x: Array) -> Array:
        """SwiGLU (Shazeer 2020): down(silu(gate(x)) * up(x))."""
        gated = self.backend.silu(self._linear(w["gate_proj"], x)) * self._linear(w["up_proj"], x)  # (B, T, d_ff)
        return self._linear(w["down_proj"], gated)

    def _linear(self, w: Tree, x: Array) -> Array:
        return linear(self.backend, w, x)


def segment_mask(backend: Backend, segments: Array) -> Array:
    """For rows that hold several examples: (B, T) segment numbers -> (B, 1, T, T) bool attention mask.

    A token sees the tokens before it that carry the same number. Positions need no reset at a segment's
    start: rotary attention depends on distances only.
    """
    same = segments[:, None, :, None] == segments[:, None, None, :]  # (B, 1, T, T)
    return same & backend.causal_mask(segments.shape[1], segments.shape[1])


def weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every weight, in the order of a Hugging Face checkpoint."""
    c = config
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (c.vocab_size, c.d_model)}
    for i in range(c.n_layer):
        layer = f"model.layers.{i}"
        shapes[f"{layer}.input_layernorm.weight"] = (c.d_model,)
        shapes[f"{layer}.self_attn.q_proj.weight"] = (c.n_head * c.head_dim, c.d_model)
        shapes[f"{layer}.self_attn.k_proj.weight"] = (c.n_kv_head * c.head_dim, c.d_model)
        shapes[f"{layer}.self_attn.v_proj.weight"] = (c.n_kv_head * c.head_dim, c.d_model)
        shapes[f"{layer}.self_attn.o_proj.weight"] = (c.d_model, c.n_head * c.head_dim)
        if c.qk_norm:
            shapes[f"{layer}.self_attn.q_norm.weight"] = (c.head_dim,)
            shapes[f"{layer}.self_attn.k_norm.weight"] = (c.head_dim,)
        shapes[f"{layer}.post_attention_layernorm.weight"] = (c.d_model,)
        shapes[f"{layer}.mlp.gate_proj.weight"] = (c.d_ff, c.d_model)
        shapes[f"{layer}.mlp.up_proj.weight"] = (c.d_ff, c.d_model)
        shapes[f"{layer}.mlp.down_proj.weight"] = (c.d_model, c.d_ff)
    shapes["model.norm.weight"] = (c.d_model,)
    if not c.tie_embeddings:
        shapes["lm_head.weight"] = (c.vocab_size, c.d_model)
    return shapes


def parameter_count(config: ModelConfig) -> int:
    """Trained numbers in a model of this shape (tied embeddings counted once)."""
    return sum(int(np.prod(shape)) for shape in weight_shapes(config).values())


def init_weights(config: ModelConfig, seed: int) -> Tree:
    """Random float32 NumPy weights: the same on every backend and machine for the same seed.

    Norm weights are 1, matrices normal with standard deviation 0.02, the two matrices of each layer that
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
