"""A config.json from elsewhere as our ModelConfig, and nothing guessed.

A key that is not known here is refused by name: it may change what the weights mean.
"""

from typing import Any

from pydantic import ValidationError

from minigpt.errors import UsageError
from minigpt.exchange.hf.architectures import CLASSES, HF, SCORING_CLASSES
from minigpt.exchange.hf.families import FAMILIES
from minigpt.exchange.hf.quantized import TO_FLOATS
from minigpt.model.heads import JUDGES, WRITES, with_head
from minigpt.sections import ModelConfig, RopeScaling

ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}

ACTS = {"geglu_tanh": ("gelu_pytorch_tanh", "gelu_new"), "gelu_tanh": ("gelu_new", "gelu_pytorch_tanh")}
HEADS = {"qwen3": 128, "gemma": 256, "gemma2": 256}  # head_dim where config.json has none
# Keys that say nothing about what the weights compute.
SILENT = {
    "architectures", "model_type", "torch_dtype", "dtype", "transformers_version", "use_cache", "initializer_range",
    "bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "sep_token_id", "decoder_start_token_id",
    "_name_or_path", "name_or_path", "attention_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop", "hidden_dropout",
    "pretraining_tp", "gradient_checkpointing", "task_specific_params", "summary_type", "summary_use_proj",
    "summary_activation", "summary_proj_to_labels", "summary_first_dropout", "is_llama_config", "n_ctx",
    "return_dict", "output_attentions", "output_hidden_states", "use_return_dict", "id2label", "label2id",
    "_attn_implementation", "_attn_implementation_autoset", "attn_implementation", "transformers.js_config",
    "chunk_size_feed_forward", "problem_type", "tokenizer_class", "prefix", "max_window_layers",
    "unsloth_version", "unsloth_fixed", "_num_labels", "num_labels", "finetuning_task",
    # how to generate, which older files keep here
    "router_aux_loss_coef", "output_router_logits", "dropout", "flash_attn", "aux_loss_alpha", "seq_aux",
    "max_length", "min_length", "do_sample", "temperature", "top_k", "top_p", "num_beams", "repetition_penalty",
}  # fmt: skip
# Keys that are fine with one value only.
FIXED: dict[str, tuple] = {
    "is_encoder_decoder": (False,), "is_decoder": (False, True), "add_cross_attention": (False,),
    "cross_attention_hidden_size": (None,), "tie_encoder_decoder": (False,), "pruned_heads": ({}, None),
    "rope_interleaved": (False,), "partial_rotary_factor": (1, 1.0, None), "use_qk_norm": (False,),
    "quantization_config": (None,), "quantization": (None,), "use_sliding_window": (False,), "use_mrope": (False,),
    "scale_attn_weights": (True,), "scale_attn_by_inverse_layer_idx": (False,), "reorder_and_upcast_attn": (False,),
    "attention_multiplier": (1, 1.0), "residual_multiplier": (1, 1.0), "embedding_multiplier": (1, 1.0),
    "decoder_sparse_step": (1,), "mlp_only_layers": ([], None), "clip_qkv": (None,), "router_jitter_noise": (0, 0.0),
    "qk_layernorm": (False,), "inference_rope_scaling": (False,), "n_shared_experts": (0, 1),
    "scoring_func": ("softmax",), "use_bidirectional_attention": (None, False),
    "logits_scaling": (1, 1.0), "no_rope_layers": (None, []), "torchscript": (False,), "use_bfloat16": (False, True),
}  # fmt: skip
SHAPE = {
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "rms_norm_eps", "rope_theta",
    "rope_scaling", "rope_parameters", "tie_word_embeddings", "attention_bias", "mlp_bias", "sliding_window",
    "layer_types",
}  # fmt: skip
GPT2_SHAPE = {
    "vocab_size", "n_embd", "n_layer", "n_head", "n_inner", "n_positions", "activation_function",
    "layer_norm_epsilon", "tie_word_embeddings",
}  # fmt: skip


def model_config(hf: HF, context: int | None, where: str) -> ModelConfig:
    """Our configuration for a config.json; `context` is how many tokens are seen in training (default: its own).

    Raises UsageError that names an architecture or key that is not supported, or a value that does not fit.
    """
    kind = hf.get("model_type")
    if not isinstance(kind, str) or kind not in CLASSES:
        raise UsageError(f"{where}: the architecture {kind!r} is not supported.", f"Known are {', '.join(CLASSES)}.")
    for key, value in hf.items():
        own = FAMILIES[kind].keys if kind in FAMILIES else frozenset()
        _check_key(key, value, GPT2_SHAPE if kind == "gpt2" else SHAPE | own, where)
    values = _from_gpt2(hf, where) if kind == "gpt2" else _from_llama(hf, kind, where)
    values["tie_embeddings"] = hf.get("tie_word_embeddings", kind in ("gpt2", "gemma", "gemma2"))
    values["context"] = min(context or values["max_positions"], values["max_positions"])
    try:
        return with_head(ModelConfig(**values), _head(hf, where))
    except ValidationError as error:
        raise _misfit(error, where) from None


def _head(hf: HF, where: str) -> str:
    """What the model has on top. Raises UsageError for a classifier of several labels."""
    if hf.get("architectures") != [SCORING_CLASSES.get(hf["model_type"])]:
        return WRITES
    labels = hf.get("num_labels", len(hf.get("id2label") or "ab"))  # transformers writes no 2, the default
    if labels != 1:
        raise UsageError(f"{where}: a classifier of {labels} labels is not supported, only a score (num_labels 1).")
    return JUDGES


def _check_key(key: str, value: Any, known: set[str], where: str) -> None:
    if key in known or key in SILENT:
        return
    if key not in FIXED:
        raise UsageError(
            f"{where}: the key {key!r} (= {str(value)[:60]}) is unknown, and it may change what the weights mean.",
            "If you know that it does not, remove it from a copy of the file.",
        )
    if value not in FIXED[key]:
        hint = TO_FLOATS if key.startswith("quantization") else ""
        raise UsageError(f"{where}: {key} = {str(value)[:60]} is not supported, only {FIXED[key][0]}.", hint)


def _from_llama(hf: HF, kind: str, where: str) -> HF:
    heads = _number(hf, "num_attention_heads", where)
    width = _number(hf, "hidden_size", where)
    family = FAMILIES.get(kind)
    acts = ACTS.get(family.fixed.get("feed_forward", "") if family else "", ("silu", "swish"))
    for key in ("hidden_act", "hidden_activation"):
        if hf.get(key) is not None and hf[key] not in acts:
            raise UsageError(f"{where}: {key} = {hf[key]!r} is not supported, only {acts[0]!r}.")
    window = hf.get("sliding_window") if kind == "mistral" else None
    if kind != "gemma2":
        _check_layer_types(hf, hf.get("sliding_window") if kind == "phi3" else window, where)
    theta, scaling = _rope(_whole_heads(hf) if kind == "phi" else hf, where)
    bias = bool(hf.get("attention_bias", False)) and kind in ("llama", "qwen3")
    more = family.fixed | family.read(hf) if family else {}
    return {
        "vocab_size": _number(hf, "vocab_size", where), "d_model": width, "n_head": heads,
        "d_ff": _number(hf, "intermediate_size", where), "n_layer": _number(hf, "num_hidden_layers", where),
        "n_kv_head": hf.get("num_key_value_heads") or heads,
        "head_dim": hf.get("head_dim") or HEADS.get(kind, width // heads),
        "max_positions": _number(hf, "max_position_embeddings", where),
        "norm_eps": _real(hf, "rms_norm_eps", where, 1e-6), "rope_theta": theta, "rope_scaling": scaling,
        "qk_norm": kind == "qwen3", "qkv_bias": bias or kind == "qwen2", "output_bias": bias,
        "mlp_bias": bool(hf.get("mlp_bias", False)) and kind == "llama", "sliding_window": window or 0,
    } | more  # fmt: skip


def _whole_heads(hf: HF) -> HF:
    """The same without the share of a head that rotates, which its family reads."""
    section = hf.get("rope_parameters") or {}
    return hf | {"rope_parameters": {key: x for key, x in section.items() if key != "partial_rotary_factor"}}


def _check_layer_types(hf: HF, window: int | None, where: str) -> None:
    wanted = "sliding_attention" if window else "full_attention"
    types = hf.get("layer_types") or []
    for found in types if isinstance(types, list) else [types]:
        if found != wanted:
            raise UsageError(f"{where}: layer_types has {found!r}; only layers that are all {wanted!r} are supported.")


def _from_gpt2(hf: HF, where: str) -> HF:
    width = _number(hf, "n_embd", where)
    activation = hf.get("activation_function", "gelu_new")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        reason = f"only {', '.join(ACTIVATIONS)} are"
        raise UsageError(f"{where}: activation_function = {activation!r} is not supported, {reason}.")
    return {
        "vocab_size": _number(hf, "vocab_size", where), "d_model": width, "n_layer": _number(hf, "n_layer", where),
        "n_head": _number(hf, "n_head", where), "n_kv_head": _number(hf, "n_head", where),
        "d_ff": hf.get("n_inner") or 4 * width, "max_positions": _number(hf, "n_positions", where),
        "norm_eps": _real(hf, "layer_norm_epsilon", where, 1e-5), "norm": "layer", "positions": "learned",
        "feed_forward": ACTIVATIONS[activation], "qkv_bias": True, "output_bias": True, "mlp_bias": True,
    }  # fmt: skip


def _rope(hf: HF, where: str) -> tuple[float, RopeScaling]:
    """(theta, scaling) from the flat keys or the section of transformers 5, which must not contradict each other."""
    section, scaling = (hf.get(key) or {} for key in ("rope_parameters", "rope_scaling"))
    if not isinstance(section, dict) or not isinstance(scaling, dict):
        raise UsageError(f"{where}: rope_parameters and rope_scaling must be objects.", "Is the file damaged?")
    given = {_real(keys, "rope_theta", where) for keys in (hf, section) if keys.get("rope_theta") is not None}
    if len(given) > 1:
        raise UsageError(f"{where} has two values of rope_theta: {' and '.join(f'{x:g}' for x in sorted(given))}.")
    return (given or {10000.0}).pop(), _scaling(scaling or section, where)


def _scaling(found: HF, where: str) -> RopeScaling:
    kind = found.get("rope_type", found.get("type", "default"))
    keys = {
        "default": {}, "linear": {"factor": "factor"},
        "llama3": {"factor": "factor", "low_freq_factor": "low_freq_factor", "high_freq_factor": "high_freq_factor",
                   "original_max_position_embeddings": "original_context"},
        "yarn": {"factor": "factor", "beta_fast": "beta_fast", "beta_slow": "beta_slow",
                 "attention_factor": "attention_factor", "original_max_position_embeddings": "original_context"},
    }  # fmt: skip
    if not isinstance(kind, str) or kind not in keys:
        raise UsageError(f"{where}: the rope scaling {kind!r} is not supported, only {', '.join(keys)}.")
    values: HF = {}
    for key, value in found.items():
        if key in ("rope_type", "type", "rope_theta") or value is None:
            continue
        if key == "partial_rotary_factor" and value == 1:
            continue
        if key not in keys[kind]:
            raise UsageError(f"{where}: the key {key!r} of rope scaling {kind!r} is not supported.")
        whole = key.startswith("original")
        values[keys[kind][key]] = _number(found, key, where) if whole else _real(found, key, where)
    if kind in ("llama3", "yarn") and "original_context" not in values:
        raise UsageError(f"{where}: the rope scaling {kind!r} lacks original_max_position_embeddings.")
    try:
        return RopeScaling(kind="none" if kind == "default" else kind, **values)
    except ValidationError as error:
        raise _misfit(error, where) from None


def _misfit(error: ValidationError, where: str) -> UsageError:
    reason = "; ".join(f"{'.'.join(map(str, e['loc']))} {e['msg']}".strip() for e in error.errors())
    return UsageError(f"{where} has values that do not fit: {reason}.", "Is the file damaged?")


def _real(hf: HF, key: str, where: str, default: float | None = None) -> float:
    value = hf.get(key, default)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise UsageError(f"{where}: {key} must be a number, not {value!r}.")
    return float(value)


def _number(hf: HF, key: str, where: str) -> int:
    value = hf.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UsageError(f"{where}: {key} must be a whole number above 0, not {value!r}.")
    return value
