"""Weights that mlx-lm stores in few bits, read as the floats that they stand for."""

from typing import Any

import numpy as np

from minigpt.errors import UsageError
from minigpt.exchange.hf.architectures import HF
from minigpt.exchange.hf.tensors import Arrays

# What a config.json of somebody else says of its bits, and how they become floats.
TO_FLOATS = "Make floats of it first: mlx_lm.convert --hf-path DIR --dequantize, or dequantize() in transformers."


def taken_apart(config: HF, where: str) -> tuple[HF, HF | None]:
    """(config.json without what it says of mlx's quantization, that; None for a model in floats).

    Raises UsageError for bits that are stored in another way than mlx's groups with a scale and a bias.
    """
    plain, found = dict(config), config.get("quantization")
    if found is None:
        return plain, None
    if not isinstance(found, dict) or not isinstance(found.get("group_size"), int):
        raise UsageError(f"{where}: quantization = {found!r} is not that of mlx.", TO_FLOATS)
    if found.get("mode", "affine") != "affine":
        raise UsageError(f"{where}: quantization of mode {found['mode']!r} is not supported.", TO_FLOATS)
    if config.get("model_type") == "gpt2":
        raise UsageError(f"{where}: a quantized GPT-2 is not supported.", TO_FLOATS)
    del plain["quantization"]
    if plain.get("quantization_config") == found:  # mlx-lm writes it twice
        del plain["quantization_config"]
    return plain, found


def in_floats(tensors: Arrays, quantization: HF, where: str) -> Arrays:
    """The tensors with a float32 matrix in place of each packed one, its scales and its biases.

    Raises UsageError for parts that do not belong together.
    """
    found: Arrays = {}
    for name, array in tensors.items():
        stem, _, leaf = name.rpartition(".")
        if leaf == "biases" or (leaf == "scales" and f"{stem}.weight" in tensors):
            continue
        packed = leaf == "weight" and array.dtype == np.uint32
        found[name] = _matrix(tensors, stem, _group_size(quantization, stem), where) if packed else array
    return found


def _group_size(quantization: HF, layer: str) -> Any:
    own = quantization.get(layer)
    return own.get("group_size") if isinstance(own, dict) else quantization["group_size"]


def _matrix(tensors: Arrays, stem: str, group_size: Any, where: str) -> np.ndarray:
    packed, scales, biases = (tensors.get(f"{stem}.{part}") for part in ("weight", "scales", "biases"))
    if scales is None or biases is None or scales.shape != biases.shape or len(scales) != len(packed):
        raise UsageError(f"{where}: {stem} has packed weights without fitting scales and biases.", "Is it whole?")
    groups = scales.shape[1]
    bits, rest = divmod(32 * packed.shape[1], groups * group_size) if isinstance(group_size, int) else (0, 1)
    if rest or not 2 <= bits <= 8:
        raise UsageError(f"{where}: {stem} does not hold groups of {group_size!r} numbers.", "Is config.json its own?")
    codes = unpacked(packed, bits).reshape(len(packed), groups, group_size).astype(np.float32)
    return (codes * scales[..., None] + biases[..., None]).reshape(len(packed), -1)


def unpacked(packed: np.ndarray, bits: int) -> np.ndarray:
    """Codes (out, in) of mlx's words (out, in * bits / 32): one stream of bits, the lowest bit of a code first."""
    stream = np.unpackbits(packed.astype("<u4").view(np.uint8), axis=1, bitorder="little")
    places = stream.reshape(len(packed), -1, bits)  # (out, in, bits)
    return (places << np.arange(bits, dtype=np.uint8)).sum(axis=2, dtype=np.uint32)
