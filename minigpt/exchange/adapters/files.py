"""Adapters as PEFT and as mlx-lm store them: a directory with adapter_config.json and a safetensors file.

Both hold two matrices per layer. PEFT: `lora_A` (r, in), `lora_B` (out, r), and alpha / r is the factor of their
product; mlx-lm: `lora_a` (in, r), `lora_b` (r, out), and `scale` is the factor. DoRA adds a magnitude (out,).
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from backends.tree import Tree, items, unflatten
from minigpt.errors import UsageError
from minigpt.exchange.adapters.names import Layers, from_theirs, is_fused, their_layers, to_theirs
from minigpt.exchange.hf.tensor_files import read_tensors, write_tensors
from minigpt.exchange.hf.tokenizer_files import write_json
from minigpt.model.lora import linear_layers
from minigpt.sections import ModelConfig

FORMATS = ("peft", "mlx-adapter")
CONFIG = "adapter_config.json"
PEFT_FILE, MLX_FILE = "adapter_model.safetensors", "adapters.safetensors"
PEFT_TENSOR = re.compile(r"base_model\.model\.(.+?)\.(lora_A|lora_B|lora_magnitude_vector)(\.weight)?")
MLX_TENSOR = re.compile(r"(.+)\.(lora_a|lora_b|m)")
LEAF = {"lora_A": "lora_a", "lora_B": "lora_b", "lora_magnitude_vector": "lora_magnitude", "m": "lora_magnitude"}

# Keys of PEFT's configuration that do not change what finished tensors compute, or that are read below.
PEFT_KNOWN = {
    "peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "bias",
    "init_lora_weights", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
    "inference_mode", "target_modules", "exclude_modules", "lora_dropout", "fan_in_fan_out", "layers_to_transform",
    "layers_pattern", "megatron_core", "qalora_group_size", "eva_config", "loftq_config",
}  # fmt: skip
STARTS = (True, False, "gaussian", "orthogonal", "eva")  # ways to begin that leave the base as it is


def layers_of(adapter: Tree) -> Layers:
    """The leaves of an adapter (with its scales) by layer."""
    layers: Layers = {}
    for name, leaf in items(adapter):
        layer, _, kind = name.rpartition(".")
        layers.setdefault(layer, {})[kind] = leaf
    return layers


def tree_of(layers: Layers) -> Tree:
    """The adapter's tree from its layers."""
    return unflatten({f"{layer}.{kind}": leaf for layer, leaves in layers.items() for kind, leaf in leaves.items()})


# ---- writing -----------------------------------------------------------------------------------------------


def write_adapter(directory: Path, to: str, layers: Layers, model: ModelConfig, dropout: float, dtype: str) -> None:
    """Write both files of format `to` into `directory`. Raises UsageError when the format cannot say it."""
    whole = {layer: leaves for layer, leaves in layers.items() if "lora_a" not in leaves}  # a head of its own
    theirs = to_theirs({layer: leaves for layer, leaves in layers.items() if layer not in whole}, model, to)
    if whole and to != "peft":
        raise UsageError("mlx-lm has no models that score.", "Export the adapter with --to peft.")
    {"peft": _write_peft, "mlx-adapter": _write_mlx}[to](directory, theirs | whole, model, dropout, dtype)


def _write_peft(directory: Path, layers: Layers, model: ModelConfig, dropout: float, dtype: str) -> None:
    names = {kind: theirs for theirs, kind in LEAF.items() if theirs != "m"}
    whole = {layer: leaves["weight"] for layer, leaves in layers.items() if "lora_a" not in leaves}
    tensors = {f"base_model.model.{layer}.weight": weight for layer, weight in whole.items()}
    layers = {layer: leaves for layer, leaves in layers.items() if layer not in whole}
    for layer, leaves in layers.items():
        for kind, theirs in names.items():
            if kind in leaves:
                ending = "" if kind == "lora_magnitude" else ".weight"
                tensors[f"base_model.model.{layer}.{theirs}{ending}"] = leaves[kind]
    ranks = {layer: leaves["lora_a"].shape[0] for layer, leaves in layers.items()}
    alphas = {layer: _number(ranks[layer] * float(leaves["lora_scale"])) for layer, leaves in layers.items()}
    rank, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
    config = {
        "peft_type": "LORA", "task_type": "SEQ_CLS" if whole else "CAUSAL_LM",
        "base_model_name_or_path": None, "inference_mode": True,
        "r": rank, "lora_alpha": alpha, "lora_dropout": dropout, "bias": "none", "use_dora": _is_dora(layers),
        "target_modules": _targets(layers, their_layers(model, "peft"), lambda layer: layer.rpartition(".")[2]),
        "rank_pattern": {layer: r for layer, r in ranks.items() if r != rank},
        "alpha_pattern": {layer: a for layer, a in alphas.items() if a != alpha},
        "fan_in_fan_out": is_fused(model), "modules_to_save": list(whole) or None, "init_lora_weights": True,
        "use_rslora": False,
    }  # fmt: skip
    write_json(directory / CONFIG, config)
    write_tensors(directory / PEFT_FILE, tensors.items(), dtype, {"format": "pt"})


def _write_mlx(directory: Path, layers: Layers, model: ModelConfig, dropout: float, dtype: str) -> None:
    layers, rank, scale = _even(layers)
    tensors = {}
    for layer, leaves in layers.items():
        tensors |= {f"{layer}.lora_a": leaves["lora_a"].T, f"{layer}.lora_b": leaves["lora_b"].T}
        tensors |= {f"{layer}.m": leaves["lora_magnitude"]} if "lora_magnitude" in leaves else {}
    known = their_layers(model, "mlx-adapter")
    keys = _targets(layers, known, lambda layer: re.sub(r"^model\.(layers|h)\.\d+\.", "", layer))
    config = {
        "fine_tune_type": "dora" if _is_dora(layers) else "lora", "num_layers": model.n_layer,
        "lora_parameters": {"rank": rank, "scale": scale, "dropout": dropout, "keys": keys},
    }  # fmt: skip
    write_json(directory / CONFIG, config)
    write_tensors(directory / MLX_FILE, tensors.items(), dtype, {"format": "mlx"})


def _even(layers: Layers) -> tuple[Layers, int, float]:
    """The same function with one rank and scale for all layers: narrower ones get rows and columns of zeros."""
    rank = max(leaves["lora_a"].shape[0] for leaves in layers.values())
    scale = next(iter(layers.values()))["lora_scale"]
    even: Layers = {}
    for layer, leaves in layers.items():
        zeros = rank - leaves["lora_a"].shape[0]
        a, b = np.pad(leaves["lora_a"], [(0, zeros), (0, 0)]), np.pad(leaves["lora_b"], [(0, 0), (0, zeros)])
        even[layer] = leaves | {"lora_a": a, "lora_b": b * (leaves["lora_scale"] / scale), "lora_scale": scale}
    return even, rank, float(scale)


def _targets(layers: Layers, known: list[str], short: Callable[[str], str]) -> list[str]:
    """Names that mean just these layers: `short` ones when every layer of such a name is there, else whole ones."""
    wanted = {short(layer) for layer in layers}
    meant = {layer for layer in known if short(layer) in wanted}
    return sorted(wanted if meant == set(layers) else layers)


def _is_dora(layers: Layers) -> bool:
    return any("lora_magnitude" in leaves for leaves in layers.values())


def _number(x: float) -> float | int:
    """A float32 product as it was meant: 16, not 15.999999."""
    rounded = round(x, 4)
    return int(rounded) if rounded == int(rounded) else rounded


# ---- reading -----------------------------------------------------------------------------------------------


def read_adapter(directory: Path, model: ModelConfig) -> Layers:
    """The layers of PEFT's or mlx-lm's adapter in `directory`, fitted to a model.

    Raises UsageError that names what is missing, of another shape or not supported.
    """
    config = _read_config(directory)
    layers = {"peft": _read_peft, "mlx-adapter": _read_mlx}[format_of(directory)](directory, config)
    layers = from_theirs(layers, model, format_of(directory))
    _check_fit(layers, model, directory)
    return layers


def format_of(directory: Path) -> str:
    """Which of FORMATS the adapter in `directory` is in. Raises UsageError when it is none of them."""
    config = _read_config(directory)
    if "peft_type" in config:
        return "peft"
    if "lora_parameters" in config or "fine_tune_type" in config:
        return "mlx-adapter"
    message = f"{directory / CONFIG} is neither PEFT's nor mlx-lm's: it has no peft_type and no lora_parameters."
    raise UsageError(message, "Name the directory that peft or mlx_lm.lora wrote.")


def _read_config(directory: Path) -> dict[str, Any]:
    path = directory / CONFIG
    try:
        config = json.loads(path.read_text("utf-8"))
    except OSError as error:
        message = f"{directory} is no adapter: {CONFIG} cannot be read ({error.strerror})."
        raise UsageError(message, "Name the directory that peft or mlx_lm.lora wrote.") from None
    except ValueError as error:
        raise UsageError(f"{path} is no JSON: {error}.", "Copy the adapter again.") from None
    if not isinstance(config, dict):
        raise UsageError(f"{path} holds no settings.", "Copy the adapter again.")
    return config


def _read_peft(directory: Path, config: dict[str, Any]) -> Layers:
    where = directory / CONFIG
    for key, value in config.items():
        if key not in PEFT_KNOWN and value:
            raise UsageError(f"{where}: {key} = {str(value)[:60]} is not supported.", "Merge that adapter with peft.")
    if config["peft_type"] != "LORA":
        raise UsageError(f"{where}: peft_type = {config['peft_type']!r} is not supported, only 'LORA'.")
    if config.get("bias", "none") != "none":
        raise UsageError(f"{where}: bias = {config['bias']!r} is not supported, only 'none'.")
    if config.get("init_lora_weights", True) not in STARTS:
        message = f"{where}: init_lora_weights = {config['init_lora_weights']!r} changed the weights of the base."
        raise UsageError(message, "Convert it with peft (path_initial_model_for_weight_conversion) first.")
    layers = _layers(read_tensors(directory / PEFT_FILE), PEFT_TENSOR, directory / PEFT_FILE)
    for layer, leaves in layers.items():
        rank = leaves["lora_a"].shape[0]
        alpha = _of_pattern(config.get("alpha_pattern"), layer, config.get("lora_alpha", 8))
        leaves["lora_scale"] = np.float32(alpha / (rank**0.5 if config.get("use_rslora") else rank))
    return layers


def _of_pattern(patterns: dict[str, Any] | None, layer: str, default: Any) -> Any:
    """The value of the first pattern that ends a layer's name, as PEFT matches them."""
    for pattern, value in (patterns or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", layer):
            return value
    return default


def _read_mlx(directory: Path, config: dict[str, Any]) -> Layers:
    where = directory / CONFIG
    kind = config.get("fine_tune_type", "lora")
    if kind not in ("lora", "dora"):
        raise UsageError(f"{where}: fine_tune_type = {kind!r} is not supported, only 'lora' and 'dora'.")
    scale = (config.get("lora_parameters") or {}).get("scale")
    if isinstance(scale, bool) or not isinstance(scale, (int, float)):
        raise UsageError(f"{where}: lora_parameters has no scale.", "Copy the adapter again.")
    layers = _layers(read_tensors(directory / MLX_FILE), MLX_TENSOR, directory / MLX_FILE)
    for leaves in layers.values():
        leaves |= {part: np.ascontiguousarray(leaves[part].T) for part in ("lora_a", "lora_b")}
        leaves["lora_scale"] = np.float32(scale)
    return layers


def _layers(tensors: dict[str, np.ndarray], pattern: re.Pattern, where: Path) -> Layers:
    """The tensors by layer under our names for them. Raises UsageError for one that is unknown or missing."""
    layers: Layers = {}
    for name, tensor in tensors.items():
        found = pattern.fullmatch(name)
        if found is None:
            raise UsageError(f"{where} has a tensor that is no part of a LoRA adapter: {name}.")
        layers.setdefault(found[1], {})[LEAF.get(found[2], found[2])] = tensor
    if not layers:
        raise UsageError(f"{where} has no tensors.", "Copy the adapter again.")
    kinds = {kind for leaves in layers.values() for kind in leaves} | {"lora_a", "lora_b"}
    for layer, leaves in layers.items():
        if missing := sorted(kinds - leaves.keys()):
            raise UsageError(f"{where} lacks {missing[0]} of {layer}.", "Copy the adapter again.")
    return layers


def _check_fit(layers: Layers, model: ModelConfig, where: Path) -> None:
    known = linear_layers(model)
    for layer, leaves in layers.items():
        if layer not in known:
            hint = f"Adapters fit the layers {', '.join(dict.fromkeys(name.split('.')[-1] for name in known))}."
            raise UsageError(f"The adapter in {where} is for {layer}, which this model does not have.", hint)
        out, width = known[layer]
        rank = leaves["lora_a"].shape[0] if leaves["lora_a"].ndim == 2 else 0
        expected = {"lora_a": (rank, width), "lora_b": (out, rank), "lora_magnitude": (out,)}
        for kind, shape in expected.items():
            if kind in leaves and (leaves[kind].shape != shape or not rank):
                message = f"The adapter in {where} is for another model: {kind} of {layer} is {leaves[kind].shape}"
                raise UsageError(f"{message}, not {shape}.", "Use the base that it was trained on.")
