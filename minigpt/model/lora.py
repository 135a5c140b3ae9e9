"""LoRA (Hu et al. 2021) and DoRA (Liu et al. 2024): a few small leaves beside frozen weights.

A tree with an adapter is the base tree with `lora_a` (r, in), `lora_b` (out, r), `lora_scale` () and, for DoRA,
`lora_magnitude` (out,) beside a layer's `weight` (out, in). `minigpt.model.linear` computes with them. The base without
these leaves is the model as it was: no second copy is needed for a reference.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from backends.tree import Tree, items, unflatten
from minigpt.errors import UsageError
from minigpt.model.gpt import weight_shapes
from minigpt.model.heads import head_of
from minigpt.model.moe import ROUTER
from minigpt.sections import ModelConfig, TuneConfig

TRAINED = ("lora_a", "lora_b", "lora_magnitude")
LEAVES = (*TRAINED, "lora_scale")
Shape = tuple[int, ...]


def is_adapted(config: Any) -> bool:
    """Whether a stage's settings ask for an adapter instead of training all weights."""
    return isinstance(config, TuneConfig) and config.lora_rank > 0


def lora_shapes(model: ModelConfig, config: TuneConfig) -> dict[str, Shape]:
    """Name -> shape of every leaf that a stage with these settings trains; a head of its own is trained whole.

    Raises UsageError for a target that the model does not have, and for a rank that is larger than a layer.
    """
    shapes: dict[str, Shape] = {}
    for layer, (out, width) in target_layers(model, config.lora_targets).items():
        if config.lora_rank > min(out, width):
            raise UsageError(
                f"lora_rank = {config.lora_rank} is larger than {layer} is wide ({out} x {width}).",
                f"Choose at most {min(out, width)}, or other lora_targets.",
            )
        shapes[f"{layer}.lora_a"] = (config.lora_rank, width)
        shapes[f"{layer}.lora_b"] = (out, config.lora_rank)
        if config.dora:
            shapes[f"{layer}.lora_magnitude"] = (out,)
    return shapes | head_of(model).whole(model)


def beside_shapes(beside: Mapping[str, Shape], model: ModelConfig, config: TuneConfig) -> dict[str, Shape]:
    """The same for what stands beside a model under a name of its own ("value.model.layers.0.…"), by name and shape.

    Its layers get adapters where the model's do, the rest of its trunk stays as it is, all else is trained whole.
    """
    found: dict[str, Shape] = {}
    adapted = lora_shapes(model, config)
    for name, shape in beside.items():
        first, _, own = name.partition(".")
        leaves = (f"{own.rpartition('.')[0]}.{kind}" for kind in TRAINED)
        found |= {f"{first}.{leaf}": adapted[leaf] for leaf in leaves if leaf in adapted}
        if not own.startswith("model."):
            found[name] = shape
    return found


def trained_shapes(model: ModelConfig, config: Any, beside: Mapping[str, Shape] | None = None) -> dict[str, Shape]:
    """Name -> shape of all that a stage with these settings trains: an adapter, else all of the model, and what stands
    `beside` it.
    """
    if not is_adapted(config):
        return weight_shapes(model) | dict(beside or {})
    return lora_shapes(model, config) | beside_shapes(beside or {}, model, config)


def trained_count(model: ModelConfig, config: Any, beside: Mapping[str, Shape] | None = None) -> int:
    """The trainable parameters of a stage with these settings."""
    return sum(int(np.prod(shape)) for shape in trained_shapes(model, config, beside).values())


def target_layers(model: ModelConfig, targets: Sequence[str]) -> dict[str, Shape]:
    """Layer name -> (out, in) of the linear layers that end in one of `targets`; without targets all of the blocks'.

    Raises UsageError that names the known ones when the model has no such layer.
    """
    linear = linear_layers(model)
    known = list(dict.fromkeys(name.split(".")[-1] for name in linear))
    if unknown := [target for target in targets if target not in known]:
        message = f"The model has no layer {unknown[0]!r} for lora_targets."
        raise UsageError(message, f"Known are: {', '.join(known)}.")
    if not targets:
        return {name: shape for name, shape in linear.items() if ".layers." in name}
    return {name: shape for name, shape in linear.items() if name.split(".")[-1] in targets}


def linear_layers(model: ModelConfig) -> dict[str, Shape]:
    """Layer name -> (out, in) of every linear layer: the matrices but for the embeddings, which are looked up."""
    return {
        name.removesuffix(".weight"): shape
        for name, shape in weight_shapes(model).items()
        if len(shape) == 2 and (".layers." in name or name == "lm_head.weight") and not name.endswith(ROUTER)
    }


def init_adapter(weight_of: Callable[[str], np.ndarray], shapes: Mapping[str, Shape], seed: int) -> Tree:
    """NumPy leaves of an adapter that changes nothing yet, as in PEFT and mlx-lm.

    B is 0, A uniform in ±1/√in from Philox with a stream per leaf, a magnitude the norm of its row of the weight
    (out, in) that `weight_of` gives for a layer's name. A leaf `weight` is that weight itself.
    """

    def first_values(name: str, shape: Shape) -> np.ndarray:
        layer, _, kind = name.rpartition(".")
        if kind == "weight":
            return weight_of(layer).astype(np.float32)
        if kind == "lora_magnitude":
            return np.linalg.norm(weight_of(layer), axis=1).astype(np.float32)
        return np.zeros(shape, np.float32) if kind == "lora_b" else _uniform(name, shape, seed)

    return unflatten({name: first_values(name, shape) for name, shape in shapes.items()})


def _uniform(name: str, shape: Shape, seed: int) -> np.ndarray:
    stream = np.random.Generator(np.random.Philox(key=[seed, zlib.crc32(name.encode())]))
    bound = np.float32(shape[1] ** -0.5)
    return (2 * stream.random(shape, np.float32) - 1) * bound


def scales(adapter: Tree, scale: float) -> Tree:
    """The leaf `lora_scale` of every layer of an adapter: alpha / r for all."""
    return unflatten({
        name.replace(".lora_a", ".lora_scale"): np.float32(scale)
        for name, _ in items(adapter)
        if name.endswith(".lora_a")
    })  # fmt: skip


def layer_at(tree: Tree, layer: str) -> Tree:
    """The leaves of the layer of that name, such as model.layers.0.mlp.up_proj."""
    for key in layer.split("."):
        tree = tree[int(key) if isinstance(tree, list) else key]
    return tree


def join(base: Tree, more: Tree) -> Tree:
    """A tree with the leaves of both; `more` wins, its lists may have gaps. No array is copied."""
    if isinstance(base, dict):
        return base | {key: join(base[key], child) if key in base else child for key, child in more.items()}
    if isinstance(base, list):
        children = dict(enumerate(more)) if isinstance(more, list) else {int(key): child for key, child in more.items()}
        return [join(child, children[i]) if i in children else child for i, child in enumerate(base)]
    return more


def merge(tree: Tree) -> Tree:
    """NumPy weights of the same function without adapter leaves: W + scale · B A, its rows scaled as DoRA says."""
    if isinstance(tree, list):
        return [merge(child) for child in tree]
    if not isinstance(tree, dict):
        return tree
    if "lora_a" not in tree:
        return {key: merge(child) for key, child in tree.items()}
    kept = {key: leaf for key, leaf in tree.items() if key not in LEAVES}
    return kept | {"weight": merged_weight(tree).astype(np.float32)}


def merged_weight(w: Tree) -> np.ndarray:
    """The weight (out, in) that a layer with adapter leaves acts as, in float64."""
    weight = w["weight"].astype(np.float64)
    weight = weight + float(w["lora_scale"]) * (w["lora_b"].astype(np.float64) @ w["lora_a"].astype(np.float64))
    if "lora_magnitude" in w:
        weight *= (w["lora_magnitude"] / np.linalg.norm(weight, axis=1))[:, None]
    return weight
