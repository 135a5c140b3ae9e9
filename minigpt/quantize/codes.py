"""Weights in 4 or 8 bits: a tree in, a tree out. On the host in NumPy, so that every backend gets the same codes.

A matrix's leaf `weight` (out, in) becomes three: `packed` uint32 (out, in * bits / 32), `scales` and `biases`
float16 (out, in / group_size), in the layout of `mlx.core.quantize` (see `Backend.quantize`). Vectors, positions
and matrices whose rows the groups do not divide stay as they are. "4 bits" are those of the layers: embeddings and
the output matrix get 8, since there four of them cost more than in all layers together.
"""

from collections.abc import Callable

import numpy as np

from backends.tree import Tree, items, leaves, unflatten
from minigpt.errors import UsageError
from minigpt.model.gpt import weight_shapes
from minigpt.model.linear import QUANTIZED
from minigpt.model.moe import ROUTER
from minigpt.sections import ModelConfig

BITS = (4, 8)
VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")  # always in 8 bits
GROUP_SIZES = (64, 32)  # the first that divides every matrix is the default
SMALLEST_STEP = 1e-7  # for a group of equal weights, or of zeros; float16 ends at 6e-8

Leaves = dict[str, np.ndarray]
Round = Callable[[str, np.ndarray], Leaves]  # (name, weight (out, in)) -> its quantized leaves


def quantize_weights(weights: Tree, bits: int, group_size: int = 0, rounding: Round | None = None) -> Tree:
    """A tree whose layers' matrices are in `bits` bits; NumPy leaves in and out.

    `group_size` 0 takes the largest that divides all matrices. `rounding` replaces `quantize_matrix` for single
    matrices (see `minigpt.quantize.gptq`). Raises UsageError when nothing can be quantized, or is quantized already.
    """
    group_size = check(weights, bits, group_size)
    flat: dict[str, np.ndarray] = {}
    for name, leaf in items(weights):
        if not fits(name, leaf, group_size):
            flat[name] = leaf
            continue
        found = quantize_matrix(leaf, bits_of(name, bits), group_size) if rounding is None else rounding(name, leaf)
        flat |= {f"{name.removesuffix('weight')}{part}": found[part] for part in QUANTIZED}
    return unflatten(flat)


def dequantize_weights(weights: Tree, config: ModelConfig) -> Tree:
    """The model's tree with float32 matrices in place of quantized ones; other leaves stay."""
    flat = dict(items(weights))
    for name, shape in weight_shapes(config).items():
        stem = name.removesuffix("weight")
        if f"{stem}packed" in flat:
            flat[name] = dequantize_matrix({part: flat.pop(stem + part) for part in QUANTIZED}, shape[1])
    return unflatten(flat)


def check(weights: Tree, bits: int, group_size: int = 0) -> int:
    """The group size that is meant. Raises UsageError when weights cannot be quantized like this."""
    if bits not in BITS:
        raise UsageError(f"Weights cannot be stored in {bits} bits.", "Choose --bits 4 or 8.")
    if group_size not in (0, *GROUP_SIZES):
        raise UsageError(f"There are no groups of {group_size}.", "Choose --group-size 32 or 64.")
    if is_quantized(weights):
        raise UsageError("These weights are quantized already.", "Start from the weights that they were made from.")
    matrices = [(name, leaf) for name, leaf in items(weights) if is_matrix(name, leaf)]
    for size in [group_size] if group_size else GROUP_SIZES:
        if all(fits(name, leaf, size) for name, leaf in matrices):
            return size
    size = group_size or GROUP_SIZES[-1]
    if not any(fits(name, leaf, size) for name, leaf in matrices):
        widths = ", ".join(sorted({str(leaf.shape[1]) for _, leaf in matrices}))
        raise UsageError(
            f"Groups of {size} divide no matrix of this model, whose rows have {widths} numbers.",
            _other_size(matrices, size) + "Only models whose d_model and d_ff are multiples of 32 can be stored in few "
            "bits; others stay in float32, float16 or bfloat16.",
        )
    return size


def _other_size(matrices: list[tuple[str, np.ndarray]], refused: int) -> str:
    """Which other group size would do, in words; "" when none does."""
    others = [size for size in GROUP_SIZES if size != refused and any(fits(n, leaf, size) for n, leaf in matrices)]
    return f"Choose --group-size {others[0]}. " if others else ""


def bits_of(name: str, bits: int) -> int:
    """The bits of one matrix in a model that is stored in `bits` bits."""
    return 8 if name in VOCABULARY else bits


def is_quantized(weights: Tree) -> bool:
    return any(name.endswith(".packed") for name, _ in items(weights))


def is_matrix(name: str, leaf: np.ndarray) -> bool:
    """Whether a leaf is the matrix of a linear layer or the token embeddings."""
    kept = "position" in name or name.endswith(ROUTER)
    return name.endswith(".weight") and len(leaf.shape) == 2 and min(leaf.shape) > 1 and not kept


def fits(name: str, leaf: np.ndarray, group_size: int) -> bool:
    return is_matrix(name, leaf) and leaf.shape[1] % group_size == 0


# ---- one matrix --------------------------------------------------------------------------------------------


def quantize_matrix(weight: np.ndarray, bits: int, group_size: int) -> Leaves:
    """The leaves of a float matrix (out, in), each number rounded to the nearest of its group's 2^bits values.

    Raises UsageError when a number is not finite or beyond float16.
    """
    scales, biases = steps(weight.reshape(weight.shape[0], -1, group_size), bits)
    return {"packed": pack(encode(weight, scales, biases, bits), bits), "scales": scales, "biases": biases}


def steps(groups: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """(scales, biases) float16 (…, groups) for groups (…, groups, group_size); mlx.core.quantize's formula.

    The edge that is further from 0 is a code's value, and so is 0 when both signs occur.
    """
    groups = groups.astype(np.float32)
    high, low = groups.max(axis=-1), groups.min(axis=-1)
    if not max(high.max(initial=0), -low.min(initial=0)) <= np.finfo(np.float16).max:
        raise UsageError("A weight is not finite, or larger than 65,504: it cannot be quantized.", "Train it again.")
    scale = np.maximum((high - low) / (2**bits - 1), SMALLEST_STEP)
    downwards = np.abs(low) <= np.abs(high)
    scale, edge = np.where(downwards, -scale, scale), np.where(downwards, high, low)
    count = np.rint(edge / scale)
    scale = np.where(count != 0, edge / np.where(count != 0, count, 1), scale)
    return scale.astype(np.float16), np.where(count != 0, edge, 0).astype(np.float16)


def encode(weight: np.ndarray, scales: np.ndarray, biases: np.ndarray, bits: int) -> np.ndarray:
    """The nearest codes (out, in) of a matrix (out, in) for given steps (out, groups)."""
    groups = weight.astype(np.float32).reshape(*scales.shape, -1)
    codes = np.rint((groups - biases[..., None].astype(np.float32)) / scales[..., None].astype(np.float32))
    return np.clip(codes, 0, 2**bits - 1).astype(np.uint32).reshape(weight.shape)


def decode(codes: np.ndarray, scales: np.ndarray, biases: np.ndarray) -> np.ndarray:
    """The float32 matrix (out, in) that codes (out, in) stand for."""
    groups = codes.astype(np.float32).reshape(*scales.shape, -1)
    groups = groups * scales[..., None].astype(np.float32) + biases[..., None].astype(np.float32)
    return groups.reshape(codes.shape)


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes (out, in) -> uint32 (out, in * bits / 32), the first code of a word in its lowest bits."""
    words = codes.astype(np.uint32).reshape(codes.shape[0], -1, 32 // bits) << _shifts(bits)
    return np.bitwise_or.reduce(words, axis=-1)


def unpack(packed: np.ndarray, bits: int) -> np.ndarray:
    """What `pack` packed: codes uint32 (out, in)."""
    codes = (packed.astype(np.uint32)[..., None] >> _shifts(bits)) & np.uint32(2**bits - 1)
    return codes.reshape(packed.shape[0], -1)


def _shifts(bits: int) -> np.ndarray:
    return np.arange(0, 32, bits, dtype=np.uint32)


def dequantize_matrix(leaves: Leaves, width: int) -> np.ndarray:
    """The float32 matrix (out, width) of quantized leaves."""
    bits = 32 * leaves["packed"].shape[1] // width
    return decode(unpack(leaves["packed"], bits), leaves["scales"], leaves["biases"])


def size_in_bytes(weights: Tree) -> int:
    """Bytes of all leaves of a tree of NumPy arrays."""
    return sum(leaf.nbytes for leaf in leaves(weights))
