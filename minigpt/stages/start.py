"""What a stage starts from: random weights, or the final ones of the stage before it, whole or in few bits."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from backends.tree import Tree, leaves
from minigpt.config import StageConfig
from minigpt.errors import UsageError
from minigpt.model.gpt import init_weights
from minigpt.model.lora import is_adapted
from minigpt.quantize.codes import is_quantized
from minigpt.runs.quantized import quantized_weights
from minigpt.runs.run import Run


def starting_weights(run: Run, stage: str, config: StageConfig) -> Tree:
    """NumPy weights: random ones for pretraining, else the final ones of the stage before.

    For an adapter with `lora_bits` their matrices are quantized: the ones that `minigpt quantize` saved, if it did.
    """
    before = stage_before(run, stage)
    if before is None:
        return init_weights(run.model_config, run.config.seed)
    if is_adapted(config) and config.lora_bits:
        return quantized_weights(run, before, config.lora_bits)[0]
    return run.weights(before)[0]


def start_fingerprint(run: Run, stage: str, weights: Tree, numpy: Callable[[Any], np.ndarray] = np.asarray) -> str:
    """What tells the weights that a stage starts from, which `starting_weights` returned, from all others (SHA-256)."""
    before = stage_before(run, stage)
    if before is None or not is_quantized(weights):
        return "" if before is None else run.fingerprint(before)
    digest = hashlib.sha256()
    for leaf in leaves(weights):
        digest.update(np.ascontiguousarray(numpy(leaf)).tobytes())
    return digest.hexdigest()


def stage_before(run: Run, stage: str, planned: Sequence[str] = ()) -> str | None:
    """The stage whose weights `stage` starts from: a finished or `planned` one. None for pretraining.

    DPO may start from pretraining. Raises UsageError when there is nothing to start from.
    """
    if stage == "pretrain":
        return None
    for before in {"sft": ["pretrain"], "dpo": ["sft", "pretrain"]}[stage]:
        if before in planned or run.store(before).finished():
            return before
    raise UsageError(
        f"{stage} needs a pretrained model in {run.directory}, and there is none.",
        f"Pretrain it first: minigpt train pretrain --run {run.directory} --data FILE.",
    )
