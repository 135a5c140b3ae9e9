"""What a stage starts from: random weights, or the final ones of the stage before it, whole or in few bits."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from backends.tree import Tree, leaves, unflatten
from minigpt.errors import UsageError
from minigpt.model.gpt import init_weights
from minigpt.model.grow import grown
from minigpt.model.heads import headed
from minigpt.model.lora import is_adapted
from minigpt.quantize.codes import dequantize_weights, is_quantized
from minigpt.runs.quantized import quantized_weights
from minigpt.runs.run import Run, other_start
from minigpt.sections import StageConfig
from minigpt.stages.adapter import final_trees
from minigpt.stages.table import FIRST, STAGES
from minigpt.store.stage import Complete, State, check_base


def starting_weights(run: Run, stage: str, config: StageConfig) -> Tree:
    """NumPy weights: random ones, or another run's, for a stage that starts from none, else the final ones of the stage
    before, with a new head where the stage's model has another one.

    For an adapter with `lora_bits` their matrices are quantized: the ones that `minigpt quantize` saved, if it did.
    """
    before = stage_before(run, stage)
    other = other_start(run)
    if before is None and other is None:
        return init_weights(run.shape_of(stage), run.config.seed, run.tokenizer.spaced())
    if before is None:
        begun, named = other
        weights, named = begun.weights(named)
        return grown(weights, run.shape_of(stage), run.config.seed, f"{begun.directory}/{named}")
    bits = config.lora_bits if is_adapted(config) else 0
    weights = quantized_weights(run, before, bits)[0] if bits else run.weights(before)[0]
    weights = headed(weights, run.shape_of(stage))
    own = before == FIRST and other is None and not is_adapted(config)  # an adapter could never tell the two apart
    return _with_turns(run, weights) if own and run.model_config.looks_up else weights


def _with_turns(run: Run, weights: Tree) -> Tree:
    """The end of a turn begins as the end of a line if pretraining has shown no turn: a head that looks things up has
    learned to ask at the end of a line.
    """
    ends, line = run.tokenizer.stops[0], run.tokenizer.encode("\n")
    if not line or not run.data(FIRST).exists() or run.training_data(FIRST).holds(ends):
        return weights
    model = weights["model"]
    table = np.array(model["embed_tokens"]["weight"])
    table[ends] = table[line[-1]]
    return weights | {"model": model | {"embed_tokens": model["embed_tokens"] | {"weight": table}}}


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
    """The stage whose weights `stage` starts from: a finished or `planned` one. None for a stage that starts from none.

    Raises UsageError when there is nothing to start from.
    """
    possible = STAGES[stage].starts_from
    for before in possible:
        if before in planned or run.store(before).finished():
            return before
    if not possible:
        return None
    raise UsageError(
        f"{stage} needs a trained model in {run.directory}, and there is none.",
        f"Train one first: minigpt train {FIRST} --run {run.directory} --data FILE.",
    )


def completion(run: Run, stage: str) -> Complete | None:
    """What makes a stage's final trees from checkpoints that hold an adapter, or more than the model; else None."""
    config = run.config.of(stage)
    beside = {name.partition(".")[0] for name in STAGES[stage].beside(run.shape_of(stage), config)}
    if not is_adapted(config) and not beside:
        return None

    def complete(found: dict[str, np.ndarray], state: State) -> dict[str, Tree]:
        adapter = {name: leaf for name, leaf in found.items() if name.partition(".")[0] not in beside}
        if not is_adapted(config):
            return {"weights": unflatten(adapter)}
        base = starting_weights(run, stage, config)
        check_base(state, start_fingerprint(run, stage, base), run.store(stage).directory)
        return final_trees(dequantize_weights(base, run.shape_of(stage)), adapter, config)

    return complete
