"""Weights under Hugging Face's names: ours are those of llama and its kin; GPT-2 has names and layouts of its own."""

import re

import numpy as np

from minigpt.errors import UsageError
from minigpt.exchange.hf.families import FAMILIES, from_family, to_family
from minigpt.model.gpt import weight_shapes
from minigpt.model.heads import ScoreHead
from minigpt.sections import ModelConfig

Arrays = dict[str, np.ndarray]

# Buffers that old checkpoints carry along; they are computed, not learned.
BUFFERS = re.compile(r"(.*\.)?(rotary_emb\.inv_freq|attn\.bias|attn\.masked_bias)")
GPT2_TOP = {
    "model.embed_tokens": "wte", "model.embed_positions": "wpe", "model.norm": "ln_f",
}  # fmt: skip
GPT2_LAYER = {
    "input_layernorm": "ln_1", "post_attention_layernorm": "ln_2", "self_attn.o_proj": "attn.c_proj",
    "mlp.up_proj": "mlp.c_fc", "mlp.down_proj": "mlp.c_proj",
}  # fmt: skip
SCORE = ScoreHead.leaf
AHEAD = "model.ahead."  # heads that only training has
CONV1D = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")  # stored (in, out), the other way round


def to_hugging_face(kind: str, flat: Arrays) -> Arrays:
    """Our weights by name as the architecture `kind` stores them."""
    flat = {name: array for name, array in flat.items() if not name.startswith(AHEAD)}
    if kind in FAMILIES:
        return to_family(kind, flat)
    if kind != "gpt2":
        return flat
    found: Arrays = {}
    for name, array in flat.items():
        if ".q_proj." in name:  # query, key and value are one matrix there
            parts = [flat[name.replace(".q_proj.", f".{part}_proj.")] for part in "qkv"]
            name, array = name.replace("self_attn.q_proj", "attn.c_attn"), np.concatenate(parts)
        elif ".k_proj." in name or ".v_proj." in name:
            continue
        name = _gpt2_name(name)
        found[name] = np.ascontiguousarray(array.T) if name.endswith(CONV1D) else array
    if SCORE in found:  # GPT-2's classifier has the prefix that its language model does without
        return {name if name == SCORE else f"transformer.{name}": array for name, array in found.items()}
    return found


def from_hugging_face(kind: str, found: Arrays, config: ModelConfig, where: str) -> Arrays:
    """The tensors of a checkpoint under our names and in our order.

    Raises UsageError that names the first tensor that is missing, unknown or of another shape.
    """
    flat = {name: array for name, array in found.items() if not BUFFERS.fullmatch(name)}
    flat = _from_gpt2(flat, where) if kind == "gpt2" else flat
    flat = from_family(kind, flat, config) if kind in FAMILIES else flat
    if config.tie_embeddings and "lm_head.weight" in flat:
        head = flat.pop("lm_head.weight")
        if not np.array_equal(head, flat.get("model.embed_tokens.weight")):
            raise UsageError(f"{where}: lm_head.weight differs from the embeddings although config.json ties them.")
    expected = weight_shapes(config)
    for name, shape in expected.items():
        if name not in flat:
            raise UsageError(f"{where} lacks the tensor {name} {shape}.", "Is it the whole checkpoint?")
        if flat[name].shape != shape:
            raise UsageError(f"{where}: {name} has the shape {flat[name].shape}, but config.json asks for {shape}.")
    for name in flat:
        if name not in expected:
            raise UsageError(f"{where} has a tensor that this architecture does not: {name}.")
    return {name: flat[name] for name in expected}


def _from_gpt2(found: Arrays, where: str) -> Arrays:
    ours = {theirs: name for name, theirs in GPT2_TOP.items()}
    inner = {theirs: name for name, theirs in GPT2_LAYER.items()}
    flat: Arrays = {}
    for full, array in found.items():
        name = full.removeprefix("transformer.")
        array = array.T if name.endswith(CONV1D) else array
        layer = re.fullmatch(r"h\.(\d+)\.(.+)\.(weight|bias)", name)
        stem, _, leaf = name.rpartition(".")
        if layer and layer[2] == "attn.c_attn":
            if array.shape[0] % 3:
                raise UsageError(f"{where}: {full} has {array.shape[0]} rows, which are not three equal parts.")
            for part, third in zip("qkv", np.split(array, 3), strict=True):
                flat[f"model.layers.{layer[1]}.self_attn.{part}_proj.{layer[3]}"] = third
        elif layer and layer[2] in inner:
            flat[f"model.layers.{layer[1]}.{inner[layer[2]]}.{layer[3]}"] = array
        else:
            flat[f"{ours[stem]}.{leaf}" if stem in ours else full] = array
    return flat


def _gpt2_name(name: str) -> str:
    """Without the prefix "transformer.", as in OpenAI's own checkpoint: mlx-lm knows no other, transformers both."""
    stem, _, leaf = name.rpartition(".")
    if stem in GPT2_TOP:
        return f"{GPT2_TOP[stem]}.{leaf}"
    layer = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", stem)
    return f"h.{layer[1]}.{GPT2_LAYER.get(layer[2], layer[2])}.{leaf}" if layer else name
