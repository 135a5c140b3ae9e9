"""Architectures that are llama with other options: which, under what keys of config.json, and the tensors' names.

A row says all of it. llama itself, qwen2, qwen3, mistral and GPT-2 are in `architectures`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from minigpt.sections import ModelConfig

HF = dict[str, Any]
Arrays = dict[str, np.ndarray]

# What any architecture may have, whatever it is called, and what only training reads.
SIZES = {
    "n_layer", "n_head", "n_kv_head", "d_model", "d_ff", "head_dim", "context", "vocab_size", "rope_theta", "norm_eps",
    "tie_embeddings", "max_positions",
}  # fmt: skip
TRAINING = {"predict_ahead", "ahead_weight", "capacity_factor", "balance", "balance_coefficient", "router_z",
            "first_weights"}  # fmt: skip
PLAIN = {
    "norm", "positions", "feed_forward", "qk_norm", "qkv_bias", "output_bias", "mlp_bias", "sliding_window",
    "rope_scaling",
}  # fmt: skip
DEFAULTS = {name: found.default for name, found in ModelConfig.model_fields.items()}
OPTIONS = DEFAULTS.keys() - SIZES - TRAINING


@dataclass(frozen=True)
class Family:
    """`fixed` are the options that its models have, `free` those that its config.json tells; others are as usual.

    `write` gives the keys beside llama's (None: not there), `read` our values of them. `names` are pairs of parts of
    our tensors' names and theirs, replaced in this order; `norms_from_one` says that norms are stored less 1.
    """

    cls: str
    fixed: HF
    write: Callable[[ModelConfig], HF]
    read: Callable[[HF], HF]
    keys: frozenset[str] = frozenset()
    free: frozenset[str] = frozenset()
    names: tuple[tuple[str, str], ...] = ()
    norms_from_one: bool = False
    allows: Callable[[ModelConfig], bool] = lambda config: True
    exported: bool = True  # else another architecture says the same, and is read by more tools

    def fits(self, config: ModelConfig) -> bool:
        """Whether its models can be what this configuration says."""
        expected = {name: self.fixed.get(name, DEFAULTS[name]) for name in OPTIONS - self.free}
        return all(getattr(config, name) == value for name, value in expected.items()) and self.allows(config)


def width_of(config: ModelConfig) -> int:
    """d_ff of one expert."""
    return config.expert_width or config.d_ff


def _experts(config: ModelConfig) -> HF:
    return {"num_experts": config.experts, "num_experts_per_tok": config.experts_per_token,
            "norm_topk_prob": config.normalize_gates, "output_router_logits": False,
            "router_aux_loss_coef": config.balance_coefficient}  # fmt: skip


def _read_experts(hf: HF) -> HF:
    return {"experts": hf.get("num_experts", hf.get("num_local_experts", 0)),  # transformers writes either
            "experts_per_token": hf.get("num_experts_per_tok", 0),
            "normalize_gates": bool(hf.get("norm_topk_prob", False))}  # fmt: skip


EXPERT_KEYS = {"num_experts", "num_experts_per_tok", "norm_topk_prob", "num_local_experts"}
EXPERTS_FREE = {"experts", "experts_per_token", "expert_width", "normalize_gates"}
GELU_TANH = "gelu_pytorch_tanh"


def _gemma2(c: ModelConfig) -> HF:
    full = c.full_attention_every
    kinds = ["full_attention" if not c.sliding_window or (full and (i + 1) % full == 0) else "sliding_attention"
             for i in range(c.n_layer)]  # fmt: skip
    scalar = round(c.attention_scale**-2) if c.attention_scale else c.head_dim
    return {
        "hidden_act": GELU_TANH, "hidden_activation": GELU_TANH, "query_pre_attn_scalar": scalar, "layer_types": kinds,
        "sliding_window": c.sliding_window or c.max_positions or c.context, "attention_bias": False,
        "attn_logit_softcapping": c.attention_softcap or None, "final_logit_softcapping": c.logit_softcap or None,
        "cache_implementation": "hybrid",
    }  # fmt: skip


def _read_gemma2(hf: HF) -> HF:
    layers = hf["num_hidden_layers"]
    usual = ["sliding_attention" if (i + 1) % 2 else "full_attention" for i in range(layers)]
    kinds = hf.get("layer_types") or usual
    full = [i + 1 for i, kind in enumerate(kinds) if kind == "full_attention"]
    window = 0 if len(full) == layers else hf.get("sliding_window") or 0
    scalar = hf.get("query_pre_attn_scalar", 256)
    return {
        "sliding_window": window, "full_attention_every": full[0] if full and window else 0,
        "attention_scale": 0.0 if scalar == hf.get("head_dim") else float(scalar) ** -0.5,
        "attention_softcap": float(hf.get("attn_logit_softcapping", 50.0) or 0.0),
        "logit_softcap": float(hf.get("final_logit_softcapping", 30.0) or 0.0),
    }  # fmt: skip


def _phi(c: ModelConfig) -> HF:
    return {
        "hidden_act": "gelu_new", "layer_norm_eps": c.norm_eps, "rms_norm_eps": None, "head_dim": None,
        "partial_rotary_factor": c.rope_fraction, "qk_layernorm": False,
        "rope_parameters": {"rope_theta": c.rope_theta, "rope_type": "default",
                            "partial_rotary_factor": c.rope_fraction},
    }  # fmt: skip


def _read_phi(hf: HF) -> HF:
    section = hf.get("rope_parameters") or {}
    share = hf.get("partial_rotary_factor", section.get("partial_rotary_factor", 0.5))
    return {"rope_fraction": float(share), "norm_eps": float(hf.get("layer_norm_eps", 1e-5))}


def _square(config: ModelConfig) -> bool:
    return config.n_head * config.head_dim == config.d_model


def _read_minimind(hf: HF) -> HF:
    """MiniMind's own two layouts: that of Qwen3, with QK-norm (MiniMind 3), and the one before, without."""
    third = "moe_intermediate_size" in hf
    found = {"qk_norm": third, "rope_theta": float(hf.get("rope_theta", 1e6))}
    if not hf.get("use_moe"):
        return found
    kinds = {"experts": hf.get("num_experts" if third else "n_routed_experts", 4),
             "experts_per_token": hf.get("num_experts_per_tok", 1 if third else 2),
             "normalize_gates": bool(hf.get("norm_topk_prob", True)),
             "shared_experts": 0 if third else hf.get("n_shared_experts", 1)}  # fmt: skip
    width = hf.get("moe_intermediate_size", hf["intermediate_size"])
    return found | kinds | {"expert_width": 0 if width == hf["intermediate_size"] else width}


FAMILIES: dict[str, Family] = {
    "mixtral": Family(
        "MixtralForCausalLM", {"normalize_gates": True},
        write=lambda c: {"intermediate_size": width_of(c), "num_local_experts": c.experts,
                         "num_experts_per_tok": c.experts_per_token, "sliding_window": None,
                         "router_aux_loss_coef": c.balance_coefficient},
        read=lambda hf: {"experts": hf.get("num_local_experts", 8),
                         "experts_per_token": hf.get("num_experts_per_tok", 2)},
        keys=frozenset({"num_local_experts", "num_experts_per_tok"}),
        free=frozenset({"experts", "experts_per_token", "expert_width", "rope_scaling"}),
        names=((".mlp.gate.", ".block_sparse_moe.gate."), (".mlp.experts.", ".block_sparse_moe.experts."),
               (".gate_proj.", ".w1."), (".up_proj.", ".w3."), (".down_proj.", ".w2.")),
        allows=lambda c: c.experts > 0,
    ),
    "qwen3_moe": Family(
        "Qwen3MoeForCausalLM", {"qk_norm": True},
        write=lambda c: _experts(c) | {"moe_intermediate_size": width_of(c), "decoder_sparse_step": 1,
                                       "mlp_only_layers": [], "attention_bias": c.qkv_bias,
                                       "use_sliding_window": False},
        read=lambda hf: _read_experts(hf) | {
            "expert_width": 0 if hf.get("moe_intermediate_size") == hf["intermediate_size"]
            else hf.get("moe_intermediate_size", 768),
            "qkv_bias": bool(hf.get("attention_bias")), "output_bias": bool(hf.get("attention_bias"))},
        keys=frozenset(EXPERT_KEYS | {"moe_intermediate_size"}),
        free=frozenset(EXPERTS_FREE | {"qkv_bias", "output_bias", "rope_scaling"}),
        allows=lambda c: c.experts > 0 and c.qkv_bias == c.output_bias,
    ),
    "olmoe": Family(
        "OlmoeForCausalLM", {"qk_norm": True, "qk_norm_whole": True},
        write=lambda c: _experts(c) | {"intermediate_size": width_of(c), "attention_bias": False, "clip_qkv": None,
                                       "head_dim": None},
        read=_read_experts, keys=frozenset(EXPERT_KEYS), free=frozenset(EXPERTS_FREE | {"rope_scaling"}),
        allows=lambda c: c.experts > 0 and _square(c),
    ),
    "gemma": Family(
        "GemmaForCausalLM", {"feed_forward": "geglu_tanh", "embedding_scale": True},
        write=lambda c: {"hidden_act": GELU_TANH, "hidden_activation": GELU_TANH, "attention_bias": False},
        read=lambda hf: {}, keys=frozenset({"hidden_activation"}), free=frozenset({"rope_scaling"}),
        norms_from_one=True,
    ),
    "gemma2": Family(
        "Gemma2ForCausalLM", {"feed_forward": "geglu_tanh", "embedding_scale": True, "norm_placement": "sandwich"},
        write=_gemma2, read=_read_gemma2, norms_from_one=True,
        keys=frozenset({"hidden_activation", "query_pre_attn_scalar", "attn_logit_softcapping",
                        "final_logit_softcapping", "cache_implementation"}),
        free=frozenset({"sliding_window", "full_attention_every", "attention_scale", "attention_softcap",
                        "logit_softcap", "rope_scaling"}),
        allows=lambda c: not c.attention_scale or abs(round(c.attention_scale**-2) ** -0.5 - c.attention_scale) < 1e-9,
    ),
    "phi": Family(
        "PhiForCausalLM",
        {"norm": "layer", "parallel": True, "feed_forward": "gelu_tanh", "qkv_bias": True, "output_bias": True,
         "mlp_bias": True, "head_bias": True},
        write=_phi, read=_read_phi, keys=frozenset({"layer_norm_eps", "partial_rotary_factor"}),
        free=frozenset({"rope_fraction"}),
        names=((".self_attn.o_proj.", ".self_attn.dense."), (".mlp.up_proj.", ".mlp.fc1."),
               (".mlp.down_proj.", ".mlp.fc2."), ("model.norm.", "model.final_layernorm.")),
        allows=lambda c: _square(c) and not c.tie_embeddings,
    ),
    "phi3": Family(
        "Phi3ForCausalLM", {}, write=lambda c: {}, read=lambda hf: {"sliding_window": hf.get("sliding_window") or 0},
        keys=frozenset({"original_max_position_embeddings"}), free=frozenset({"sliding_window", "rope_scaling"}),
        exported=False,
    ),
    "minimind": Family(
        "MiniMindForCausalLM", {}, write=lambda c: {}, read=_read_minimind,
        keys=frozenset(EXPERT_KEYS | {"use_moe", "moe_intermediate_size", "n_routed_experts", "n_shared_experts"}),
        names=((".shared_experts.", ".shared_experts.0."),), exported=False,
    ),
}  # fmt: skip


# What some architecture has, whatever else it has.
KNOWN = PLAIN.union(*(one.free | one.fixed.keys() for one in FAMILIES.values() if one.exported))


def family_of(config: ModelConfig) -> str | None:
    """The row that a configuration with more options than llama's is stored as; None when there is none."""
    return next((kind for kind, one in FAMILIES.items() if one.exported and one.fits(config)), None)


def is_plain(config: ModelConfig) -> bool:
    """Whether a configuration has none of the options that only these families have."""
    return all(getattr(config, name) == DEFAULTS[name] for name in OPTIONS - PLAIN)


def to_family(kind: str, flat: Arrays) -> Arrays:
    """Our tensors by a family's names, as it stores them."""
    family, found = FAMILIES[kind], {}
    for name, array in flat.items():
        array = array - np.float32(1) if family.norms_from_one and _is_norm(name) else array
        for ours, theirs in family.names:
            name = name.replace(ours, theirs)
        found[name] = array
    return found


def from_family(kind: str, flat: Arrays, config: ModelConfig) -> Arrays:
    """A family's tensors by our names."""
    family, found = FAMILIES[kind], {}
    for name, array in flat.items():
        for ours, theirs in reversed(family.names):
            name = name.replace(theirs, ours)
        found |= _taken_apart(name, array, config)
        if family.norms_from_one and _is_norm(name):
            found[name] = array + np.float32(1)
    return found


def _is_norm(name: str) -> bool:
    return name.endswith("norm.weight")


def _taken_apart(name: str, array: np.ndarray, config: ModelConfig) -> Arrays:
    """Phi-3's matrices are several of ours one above the other."""
    q, k = config.n_head * config.head_dim, config.n_kv_head * config.head_dim
    for whole, parts, sizes in (
        ("qkv_proj", ("q_proj", "k_proj", "v_proj"), (q, k, k)),
        ("gate_up_proj", ("gate_proj", "up_proj"), (config.d_ff, config.d_ff)),
    ):
        if f".{whole}." in name and array.shape[0] == sum(sizes):
            pieces = np.split(array, np.cumsum(sizes)[:-1])
            return {name.replace(whole, part): piece for part, piece in zip(parts, pieces, strict=True)}
    return {name: array}
