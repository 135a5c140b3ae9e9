"""The layers of an adapter as the other tool names them: as ours, but for GPT-2, whose query, key and value are one.

GPT-2's fused layer has one A for all three: ours are stacked into it, and B gets a block for each (its rank is the
sum). The other way round each part has the same A and its third of B.
"""

import re

import numpy as np

from minigpt.errors import UsageError
from minigpt.exchange.hf.architectures import model_type_of
from minigpt.exchange.hf.families import FAMILIES
from minigpt.model.lora import linear_layers
from minigpt.sections import ModelConfig

# Layer name -> lora_a (r, in), lora_b (out, r), lora_scale () and, for DoRA, lora_magnitude (out,).
Layers = dict[str, dict[str, np.ndarray]]
BLOCK = {"peft": "transformer.h", "mlx-adapter": "model.h"}
PARTS = ("q_proj", "k_proj", "v_proj")
INNER = {"self_attn.o_proj": "attn.c_proj", "mlp.up_proj": "mlp.c_fc", "mlp.down_proj": "mlp.c_proj"}
FUSED = "attn.c_attn"


def is_fused(model: ModelConfig) -> bool:
    return model_type_of(model) == "gpt2"


def their_layers(model: ModelConfig, to: str) -> list[str]:
    """The names of all linear layers as the tool of format `to` has them."""
    names = linear_layers(model)
    return list(dict.fromkeys(_their_name(name, to) for name in names)) if is_fused(model) else list(names)


def to_theirs(layers: Layers, model: ModelConfig, to: str) -> Layers:
    """Our layers under the tool's names. Raises UsageError for a DoRA of only one of query, key and value."""
    if not is_fused(model):
        kind = model_type_of(model)
        if kind in FAMILIES and (FAMILIES[kind].names or model.experts):
            message = f"Other tools have no adapter format for the layers of a {kind} model under names like ours."
            raise UsageError(message, "Export the merged model instead: minigpt export RUN.")
        return layers
    found: Layers = {}
    for name, leaves in layers.items():
        theirs = _their_name(name, to)
        if not theirs.endswith(FUSED):
            found[theirs] = leaves
        elif theirs not in found:
            stem = name.rpartition(".")[0]
            found[theirs] = _stacked([layers.get(f"{stem}.{part}") for part in PARTS], model.d_model)
    return found


def from_theirs(layers: Layers, model: ModelConfig, to: str) -> Layers:
    """The tool's layers under our names; one that we do not know keeps its name."""
    if not is_fused(model):
        return layers
    ours = {_their_name(name, to): name for name in linear_layers(model)}
    found: Layers = {}
    for name, leaves in layers.items():
        if not name.endswith(FUSED):
            found[ours.get(name, name)] = leaves
            continue
        stem = ours.get(name, name).rpartition(".")[0]
        for number, part in enumerate(PARTS):
            found[f"{stem}.{part}"] = _third(leaves, number)
    return found


def _their_name(layer: str, to: str) -> str:
    block = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", layer)
    if block is None:
        return layer
    return f"{BLOCK[to]}.{block[1]}.{INNER.get(block[2], FUSED)}"


def _stacked(parts: list[dict | None], width: int) -> dict[str, np.ndarray]:
    """The fused layer of up to three parts (width, …): what is not there adds nothing."""
    present = [part for part in parts if part is not None]
    dora = any("lora_magnitude" in part for part in present)
    if dora and len(present) < len(parts):
        raise UsageError(
            "A DoRA of a GPT-2 model must have q_proj, k_proj and v_proj or none of them: they are one layer there.",
            "Export the merged model with --to hf.",
        )
    scale, ranks = present[0]["lora_scale"], [part["lora_a"].shape[0] for part in present]
    b = np.zeros((width * len(parts), sum(ranks)), np.float32)
    column = 0
    for number, part in enumerate(parts):
        if part is not None:
            end = column + part["lora_a"].shape[0]
            b[number * width : (number + 1) * width, column:end] = part["lora_b"] * (part["lora_scale"] / scale)
            column = end
    stacked = {"lora_a": np.concatenate([part["lora_a"] for part in present]), "lora_b": b, "lora_scale": scale}
    magnitudes = {"lora_magnitude": np.concatenate([part["lora_magnitude"] for part in present])} if dora else {}
    return stacked | magnitudes


def _third(leaves: dict[str, np.ndarray], number: int) -> dict[str, np.ndarray]:
    rows = len(leaves["lora_b"]) // len(PARTS)
    own = slice(number * rows, (number + 1) * rows)
    cut = {kind: leaves[kind][own] for kind in ("lora_b", "lora_magnitude") if kind in leaves}
    return leaves | {kind: np.ascontiguousarray(leaf) for kind, leaf in cut.items()}
