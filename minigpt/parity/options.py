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
        {"rope_scaling": RopeScaling(kind="dynamic", original_context=4), "feed_forward": "relu", "mlp_bias": True},
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
}  # fmt: skip
