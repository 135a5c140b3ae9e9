"""How a stage trains an adapter: the base is an argument of the loss, only the adapter's leaves are trained and saved.

A checkpoint of such a stage holds the adapter, its moments and the fingerprint of the base that it belongs to. The
final weights are the merged model, so that everything that uses a stage finds a plain one, and the adapter beside it.
"""

import zlib
from dataclasses import replace
from typing import Any

import numpy as np

from backends.base import Array, Backend
from backends.tree import Tree, items, unflatten
from minigpt.data.batches import Batch
from minigpt.model.gpt import parameter_count, to_backend
from minigpt.model.linear import matrix
from minigpt.model.lora import (
    beside_shapes,
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
)
from minigpt.sections import ModelConfig, StageConfig, TuneConfig
from minigpt.train.loop import Objective

FROZEN = "frozen"  # what the loss of a stage reads beside its weights


def adapted(
    backend: Backend, model: ModelConfig, config: TuneConfig, weights: Tree, seed: int, whole: Objective
) -> tuple[Tree, Objective]:
    """(adapter, objective) for a stage that trains an adapter of `weights`.

    `whole` is the stage's objective over whole trees. The loss returned takes the base as a third argument: a traced
    function must not close over it. A base that `whole` has itself is in it, as `FROZEN`.
    """
    layers, beside = linear_layers(model), dict(items(whole.beside or {}))

    def weight_of(layer: str) -> np.ndarray:
        width = layers[layer][1] if layer in layers else 0  # only the model's own are ever quantized
        return backend.numpy(matrix(backend, layer_at(weights, layer), width))

    more = beside_shapes({name: tuple(leaf.shape) for name, leaf in beside.items()}, model, config)
    adapter = init_adapter(weight_of, lora_shapes(model, config) | more, seed)
    base = join(weights, to_backend(backend, scales(adapter, config.lora_alpha / config.lora_rank)))
    rate, salts = backend.array(np.float32(config.lora_dropout)), dropout_salts(adapter)

    frozen = {} if whole.base is None else {FROZEN: whole.base}

    def loss(adapter, batch, base):
        keys = batch.get("dropout")
        tree = join(base, adapter)
        tree = tree if keys is None else join(tree, dropout_leaves(salts, keys, rate))
        return whole.loss(tree, batch, *(base[name] for name in frozen))

    def validate(adapter):
        return whole.validate(join(base, adapter))

    return to_backend(backend, adapter), replace(
        whole, loss=loss, batches=_OverBase(whole.batches, base), validate=validate, base=base | frozen
    )


class _OverBase:
    """Batches that are made with the base and the adapter together."""

    def __init__(self, batches: Any, base: Tree):
        self._batches, self._base = batches, base

    def __call__(self, step: int, adapter: Tree | None = None) -> Batch:
        return self._batches(step, None if adapter is None else join(self._base, adapter))


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


def adapter_note(model: ModelConfig, stage: str, config: StageConfig) -> str:
    """How much of the model an adapter trains; which settings of one are not used. "" without an adapter."""
    if not is_adapted(config):
        named = [f"{stage}.{name}" for name in ("dora", "lora_bits", "lora_targets") if getattr(config, name, None)]
        return f"{stage}.lora_rank is 0, so all weights are trained; not used: {', '.join(named)}." if named else ""
    layers = len(target_layers(model, config.lora_targets))
    trained, whole = trained_count(model, config), parameter_count(model)
    kind = "DoRA" if config.dora else "LoRA"
    what = f"{kind} of rank {config.lora_rank} in {layers} layers: {trained:,} trainable parameters"
    bits = f", in {config.lora_bits} bits" if config.lora_bits else ""
    return f"{stage}: {what}, the model's {whole:,} stay as they are{bits}."
