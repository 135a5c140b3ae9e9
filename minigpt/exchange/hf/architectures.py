"""Our ModelConfig as Hugging Face's config.json: which architecture it is, and its keys."""

from typing import Any

from minigpt.errors import UsageError
from minigpt.exchange.hf.families import DEFAULTS, FAMILIES, KNOWN, OPTIONS, TRAINING, family_of, is_plain
from minigpt.model.heads import WRITES
from minigpt.model.rope import rope_base
from minigpt.sections import ModelConfig, RopeScaling

HF = dict[str, Any]

# Keys whose null is a value: another default would take its place.
NONE_MEANS = {"attn_logit_softcapping", "final_logit_softcapping", "sliding_window", "clip_qkv"}
# model_type -> class name of the causal language model
CLASSES = {
    "llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM",
    "mistral": "MistralForCausalLM", "gpt2": "GPT2LMHeadModel",
} | {kind: family.cls for kind, family in FAMILIES.items()}  # fmt: skip
# and of the model that scores
SCORING_CLASSES = {
    "llama": "LlamaForSequenceClassification", "qwen2": "Qwen2ForSequenceClassification",
    "qwen3": "Qwen3ForSequenceClassification", "mistral": "MistralForSequenceClassification",
    "gpt2": "GPT2ForSequenceClassification",
}  # fmt: skip


def model_type_of(config: ModelConfig) -> str:
    """The Hugging Face architecture that computes what this configuration says; UsageError when there is none."""
    c = portable(config)
    biases = (c.qkv_bias, c.output_bias, c.mlp_bias)
    if not is_plain(c):
        found = family_of(c) if config.head == WRITES else None
    elif (c.norm, c.positions) == ("layer", "learned") and c.feed_forward != "swiglu":
        fits = all(biases) and c.n_kv_head == c.n_head and c.head_dim * c.n_head == c.d_model
        found = "gpt2" if fits and not (c.qk_norm or c.sliding_window) else None
    elif (c.norm, c.positions, c.feed_forward) != ("rms", "rope", "swiglu"):
        found = None
    elif c.qk_norm:
        found = "qwen3" if c.qkv_bias == c.output_bias and not (c.mlp_bias or c.sliding_window) else None
    elif c.sliding_window:
        found = None if any(biases) else "mistral"
    elif c.qkv_bias and not (c.output_bias or c.mlp_bias):
        found = "qwen2"
    else:
        found = "llama" if c.qkv_bias == c.output_bias else None
    if found is None:
        ours = ", ".join(sorted(name for name in OPTIONS - KNOWN if getattr(c, name) != DEFAULTS[name]))
        combination = "this combination of norm, positions, feed_forward, biases and options"
        raise UsageError(
            f"No Hugging Face architecture has {ours or combination}.", f"Those that are written: {', '.join(CLASSES)}."
        )
    return found


def portable(config: ModelConfig) -> ModelConfig:
    """The same model without what only training reads, and with stretched positions as a base of their own."""
    changes = {name: DEFAULTS[name] for name in TRAINING - {"balance_coefficient"}}
    if config.rope_scaling.kind in ("ntk", "dynamic"):
        changes |= {"rope_theta": rope_base(config), "rope_scaling": RopeScaling()}
    return config.model_copy(update=changes)


def config_json(config: ModelConfig, dtype: str, stop: int | list[int]) -> HF:
    """The content of config.json for weights stored as `dtype`; `stop` are the ids that end a text.

    A model that scores takes the last token of a row that is no padding, which must be no id that ends an answer.
    """
    kind, config = model_type_of(config), portable(config)
    shape = _gpt2_shape(config) if kind == "gpt2" else _llama_shape(config, kind)
    common = {"vocab_size": config.vocab_size, "tie_word_embeddings": config.tie_embeddings, "eos_token_id": stop}
    scores = config.head != WRITES
    if scores:
        ends = [stop] if isinstance(stop, int) else stop
        padding = next(token for token in range(config.vocab_size) if token not in ends)
        common |= {"pad_token_id": padding, "num_labels": 1, "id2label": {"0": "reward"}, "label2id": {"reward": 0}}
    name = (SCORING_CLASSES if scores else CLASSES)[kind]
    return {"architectures": [name], "model_type": kind, "dtype": dtype, "torch_dtype": dtype} | common | shape


def _llama_shape(c: ModelConfig, kind: str) -> HF:
    shape = {
        "hidden_size": c.d_model, "intermediate_size": c.d_ff, "num_hidden_layers": c.n_layer,
        "num_attention_heads": c.n_head, "num_key_value_heads": c.n_kv_head, "head_dim": c.head_dim,
        "hidden_act": "silu", "max_position_embeddings": c.max_positions or c.context, "rms_norm_eps": c.norm_eps,
        # both spellings: mlx-lm reads the flat key, transformers 5 the section
        "rope_theta": c.rope_theta, "rope_parameters": {"rope_theta": c.rope_theta} | _scaling_json(c.rope_scaling),
    }  # fmt: skip
    if c.rope_scaling.kind != "none":
        shape["rope_scaling"] = _scaling_json(c.rope_scaling)
    if kind in ("llama", "qwen3"):
        shape["attention_bias"] = c.qkv_bias
    if kind == "llama":
        shape["mlp_bias"] = c.mlp_bias
    if kind in ("qwen2", "qwen3"):
        shape["use_sliding_window"] = False
    if kind == "mistral":
        shape["sliding_window"] = c.sliding_window
    more = FAMILIES[kind].write(c) if kind in FAMILIES else {}
    return {key: value for key, value in (shape | more).items() if value is not None or key in NONE_MEANS}


def _scaling_json(s: RopeScaling) -> HF:
    if s.kind == "none":
        return {"rope_type": "default"}
    found: HF = {"rope_type": s.kind, "factor": s.factor}
    if s.kind == "llama3":
        found |= {"low_freq_factor": s.low_freq_factor, "high_freq_factor": s.high_freq_factor}
    if s.kind == "yarn":
        found |= {"beta_fast": s.beta_fast, "beta_slow": s.beta_slow}
        found |= {"attention_factor": s.attention_factor} if s.attention_factor else {}
    return found if s.kind == "linear" else found | {"original_max_position_embeddings": s.original_context}


def _gpt2_shape(c: ModelConfig) -> HF:
    positions = c.max_positions or c.context
    return {
        "n_embd": c.d_model, "n_layer": c.n_layer, "n_head": c.n_head, "n_inner": c.d_ff,
        "n_positions": positions, "n_ctx": positions, "layer_norm_epsilon": c.norm_eps,
        "activation_function": {"gelu_tanh": "gelu_new", "gelu": "gelu"}[c.feed_forward],
        "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
    }  # fmt: skip
