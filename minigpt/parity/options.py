"""The model's options as rows: each is compared like every other model, and wrong_models plants mistakes in it."""

from minigpt.sections import RopeScaling

YARN = RopeScaling(kind="yarn", factor=4.0, original_context=8)

# Name -> (settings of the model, activation checkpointing, segments). Where options do not touch each other, one row
# has several.
OPTIONS: dict[str, tuple] = {
    "sinusoidal positions, ReLU²": (
        {"positions": "sinusoidal", "embedding_scale": True, "feed_forward": "relu2"}, False, True,
    ),
    "ALiBi, GeGLU": ({"positions": "alibi", "feed_forward": "geglu"}, False, True),
    "ALiBi, six heads": ({"positions": "alibi", "heads": 6, "groups": 3}, True),
    "no positions, ReGLU, value embeddings": (
        {"positions": "none", "feed_forward": "reglu", "value_embeddings": True}, True,
    ),
    "NTK, partial rotary, SiLU": (
        {"rope_scaling": RopeScaling(kind="ntk", factor=4.0), "rope_fraction": 0.5, "feed_forward": "silu"},
    ),
    "dynamic NTK, ReLU": (
        {"rope_scaling": RopeScaling(kind="dynamic", original_context=4), "feed_forward": "relu", "mlp_bias": True,
         "qk_norm": True, "qk_norm_whole": True},
    ),
    "YaRN": ({"rope_scaling": YARN},),
    "post-norm": ({"norm_placement": "post", "norm": "layer"},),
    "Gemma 2: sandwich norm, soft-caps, GeGLU, every second layer full": (
        {"norm_placement": "sandwich", "attention_softcap": 5.0, "logit_softcap": 4.0, "feed_forward": "geglu_tanh",
         "embedding_scale": True, "sliding_window": 3, "full_attention_every": 2, "attention_scale": 0.3},
    ),
    "Phi: parallel layers, LayerNorm, biases": (
        {"parallel": True, "norm": "layer", "feed_forward": "gelu_tanh", "qkv_bias": True, "output_bias": True,
         "mlp_bias": True, "head_bias": True, "tie_embeddings": False},
    ),
    "window 4 with two sinks": ({"sliding_window": 4, "attention_sinks": 2},),
    "shift of two tokens": ({"token_shift": 2}, True, True),
    "short convolution": ({"convolution": 3, "qk_norm": True}, False, True),
    "gates of heads, values from projections": ({"head_gate": True, "value_projection": True}, True, True),
    "skips, both blocks twice, window 3 in every first": (
        {"skips": True, "repeat_layers": 2, "sliding_window": 3, "full_attention_every": 2}, True,
    ),
}  # fmt: skip

# The same for options that add to the loss: its value and gradients are compared with them.
TRAINED_OPTIONS: dict[str, tuple] = {
    "experts, top 1": ({"experts": 4, "experts_per_token": 1, "expert_width": 16}, True, True),
    "experts, top 2, normalized, one shared": (
        {"experts": 4, "normalize_gates": True, "shared_experts": 1, "expert_width": 16, "balance_coefficient": 0.5,
         "router_z": 0.1}, False, True, True,
    ),
    "experts, sigmoid, balance by bias": (
        {"experts": 4, "router": "sigmoid", "normalize_gates": True, "balance": "bias", "balance_coefficient": 1.0,
         "expert_width": 16, "tie_embeddings": False},
    ),
    "experts, capacity": (
        {"experts": 4, "capacity_factor": 1.0, "feed_forward": "gelu", "mlp_bias": True, "expert_width": 16}, True,
    ),
    "experts, threshold": ({"experts": 4, "router": "threshold", "balance_coefficient": 1.0, "expert_width": 16},),
    "experts that choose": ({"experts": 4, "router": "expert_choice", "expert_width": 16}, False, True, True),
    "two tokens further ahead": ({"predict_ahead": 2, "ahead_weight": 0.7}, True, True),
}  # fmt: skip
