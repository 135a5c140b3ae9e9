"""How a stage trains an adapter: the base is an argument of the loss, only the adapter's leaves are trained and saved.

A checkpoint of such a stage holds the adapter, its moments and the fingerprint of the base that it belongs to. The
final weights are the merged model, so that everything that uses a stage finds a plain one, and the adapter beside it.
"""

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.base import Array, Backend
from backends.tree import Tree, items, unflatten
from minigpt.config import ModelConfig, StageConfig, TuneConfig
from minigpt.errors import CheckpointError
from minigpt.model.gpt import parameter_count, to_backend
from minigpt.model.linear import matrix
from minigpt.model.lora import (
    init_adapter,
    is_adapted,
    join,
    layer_at,
    linear_layers,
    lora_shapes,
    merge,
    scales,
    target_layers,
    trained_count,
)  # fmt: skip
from minigpt.quantize.codes import dequantize_weights
from minigpt.runs.run import Run
from minigpt.stages.start import start_fingerprint, starting_weights
from minigpt.store.stage import Complete, State

if TYPE_CHECKING:
    from minigpt.train.loop import Loss, Validate


@dataclass(frozen=True)
class Base:
    """Weights that a loss needs and no step changes, and what tells them from all others (a SHA-256)."""

    weights: Tree
    fingerprint: str

    def check(self, state: dict[str, Any], where: Path) -> None:
        """Raises CheckpointError when a checkpoint's `state` says that its adapter belongs to another base."""
        check_base(state, self.fingerprint, where)


def check_base(state: dict[str, Any], fingerprint: str, where: Path) -> None:
    """Raises CheckpointError when the adapter in `where` was trained on other weights than those of `fingerprint`."""
    if state.get("base") != fingerprint:
        raise CheckpointError(
            f"The adapter in {where} was trained on weights that the stage before it does not have any more.",
            f"Restore them from a copy, or delete {where} to train this stage again.",
        )


def adapter_recipe(
    backend: Backend, model: ModelConfig, config: TuneConfig, weights: Tree, seed: int, recipe: tuple
) -> tuple[Tree, Tree, "Loss", "Validate"]:
    """(base, adapter, loss, validate) for a stage that trains an adapter of `weights`.

    `recipe` is the stage's (loss, validate) over whole trees. The loss returned takes the base as a third
    argument: a traced function must not close over it.
    """
    whole_loss, whole_validate = recipe
    layers = linear_layers(model)

    def weight_of(layer: str) -> np.ndarray:
        return backend.numpy(matrix(backend, layer_at(weights, layer), layers[layer][1]))

    adapter = init_adapter(weight_of, lora_shapes(model, config), seed)
    base = join(weights, to_backend(backend, scales(adapter, config.lora_alpha / config.lora_rank)))
    rate, salts = backend.array(np.float32(config.lora_dropout)), dropout_salts(adapter)

    def loss(adapter, batch, base):
        keys = batch.get("dropout")
        tree = join(base, adapter)
        tree = tree if keys is None else join(tree, dropout_leaves(salts, keys, rate))
        return whole_loss(tree, batch)

    def validate(adapter):
        return whole_validate(join(base, adapter))

    return base, to_backend(backend, adapter), loss, validate


def dropout_salts(adapter: Tree) -> dict[str, int]:
    """What tells the layers of an adapter apart in `dropout_leaves`: an int32 for each by its name."""
    layers = (name.removesuffix(".lora_a") for name, _ in items(adapter) if name.endswith(".lora_a"))
    return {layer: zlib.crc32(layer.encode()) - 2**31 for layer in layers}


def dropout_leaves(salts: dict[str, int], keys: Array, rate: Array) -> Tree:
    """`dropout_keys` (B,) and `dropout_rate` () for each layer of an adapter; every layer has keys of its own."""
    flat = {}
    for layer, salt in salts.items():
        flat[f"{layer}.dropout_keys"] = keys ^ salt
        flat[f"{layer}.dropout_rate"] = rate
    return unflatten(flat)


def final_trees(base: Tree, flat: dict[str, np.ndarray], config: TuneConfig) -> dict[str, Tree]:
    """What a finished stage keeps, in NumPy: `weights`, the merged model, and `adapter`, its leaves and scales."""
    adapter = unflatten(flat)
    adapter = join(adapter, scales(adapter, config.lora_alpha / config.lora_rank))
    return {"weights": merge(join(base, adapter)), "adapter": adapter}


def completion(run: Run, stage: str) -> Complete | None:
    """For a stage that trained an adapter: what makes its final trees from a checkpoint, else None."""
    config = getattr(run.config, stage)
    if not is_adapted(config):
        return None

    def complete(adapter: dict[str, np.ndarray], state: State) -> dict[str, Tree]:
        base = starting_weights(run, stage, config)
        check_base(state, start_fingerprint(run, stage, base), run.store(stage).directory)
        return final_trees(dequantize_weights(base, run.model_config), adapter, config)

    return complete


def adapter_note(model: ModelConfig, stage: str, config: StageConfig) -> str | None:
    """How much of the model an adapter trains; which settings of one are not used."""
    if not is_adapted(config):
        named = [f"{stage}.{name}" for name in ("dora", "lora_bits", "lora_targets") if getattr(config, name, None)]
        return f"{stage}.lora_rank is 0, so all weights are trained; not used: {', '.join(named)}." if named else None
    layers = len(target_layers(model, config.lora_targets))
    trained, whole = trained_count(model, config), parameter_count(model)
    kind = "DoRA" if config.dora else "LoRA"
    what = f"{kind} of rank {config.lora_rank} in {layers} layers: {trained:,} numbers are trained"
    bits = f", in {config.lora_bits} bits" if config.lora_bits else ""
    return f"{stage}: {what}, the model's {whole:,} stay as they are{bits}."
