"""The stages as recipes: data + loss + starting weights, handed to the one training loop."""

import contextlib
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from backends.base import Backend
from backends.tree import Tree
from minigpt.config import DPOConfig, StageConfig
from minigpt.data.batches import (
    Batches,
    PackedRows,
    PairRows,
    TextRows,
    ValidationText,
    stacked,
    with_dropout_keys,
)  # fmt: skip
from minigpt.errors import CheckpointError
from minigpt.evaluate.language import evaluate_language, evaluate_preferences
from minigpt.events import Note, Progress, Report, StageFinished, StageStarted
from minigpt.machine import choose_dtype
from minigpt.machine.formats import dtype_note
from minigpt.model.gpt import GPT, parameter_count, to_backend
from minigpt.model.lora import is_adapted
from minigpt.plan.actual import Peak, compare
from minigpt.plan.fit import DIVISION
from minigpt.plan.plan import StagePlan
from minigpt.runs.run import Run
from minigpt.stages.adapter import Base, adapter_note, adapter_recipe, completion
from minigpt.stages.start import stage_before, start_fingerprint, starting_weights
from minigpt.store.checkpoint import load_checkpoint, save_checkpoint, verify_checkpoint
from minigpt.store.durable import write_whole
from minigpt.store.stage import StageStore
from minigpt.train.control import UNSTEERED, Control, smaller
from minigpt.train.loop import Loss, Validate, train
from minigpt.train.losses import language_loss, preference_losses, preference_metrics, sequence_logprobs


def train_stage(run: Run, stage: str, backend: Backend, report: Report, control: Control = UNSTEERED) -> Path:
    """Train one stage of a run whose data is prepared; returns the directory of its final weights.

    A finished stage is left as it is; an interrupted one goes on from its last checkpoint.
    """
    store = run.store(stage)
    if store.finished():
        _make_whole(run, stage, report)
        report(StageFinished(stage, store.final, 0.0, skipped=True))
        return store.final
    planned = control.plan.of(stage) if control.plan is not None else None
    config = fitted(store, getattr(run.config, stage), control.less_memory, planned and planned.division)
    config = config.model_copy(update={"dtype": choose_dtype(backend, config.dtype, run.model_config.d_model)})
    backend.repeat_exactly(config.repeatable)
    model = GPT(run.model_config, backend, config.dtype, config.checkpointing, config.loss_chunk, config.dropout)
    parameters = parameter_count(run.model_config)
    report(StageStarted(stage, config.steps, parameters, backend.name, backend.device, model.dtype))
    if (before := stage_before(run, stage)) and not store.steps_kept():
        report(Note(f"{stage}: starts from the weights of {before} ({run.store(before).final})."))
    divided = _divided(run, stage, config, planned)
    slow = dtype_note(backend, getattr(run.config, stage).dtype, run.model_config.d_model)
    for note in (_rate_of_zero(stage, config), divided, adapter_note(run.model_config, stage, config), slow):
        if note:
            report(Note(note))

    began, rested, kept, peak = time.perf_counter(), control.rest(), store.steps_kept(), Peak(backend)
    weights = to_backend(backend, starting_weights(run, stage, config))
    recipe = {"pretrain": pretrain, "sft": sft, "dpo": dpo}[stage]
    loss, batches, validate = recipe(run, model, weights, config, report)
    if config.dropout or (is_adapted(config) and config.lora_dropout):
        batches = with_dropout_keys(batches, run.config.seed)
    base = None
    if is_adapted(config):
        fingerprint = start_fingerprint(run, stage, weights, backend.numpy)
        whole = (loss, validate)
        frozen, weights, loss, validate = adapter_recipe(
            backend, run.model_config, config, weights, run.config.seed, whole
        )
        base = Base(frozen, fingerprint)
    train(backend, stage, config, weights, loss, batches, validate, store, report, control, base)
    report(StageFinished(stage, store.finish(stage, report, completion(run, stage)), time.perf_counter() - began))
    if planned is not None:
        seconds = time.perf_counter() - began - (control.rest() - rested)
        report(compare(store.directory, planned, peak.bytes(), seconds, config.steps - kept))
    if stage == "dpo" and is_stuck(run.config.dpo, store.last_state()["metrics"]["loss"]):
        report(Note("dpo: the loss did not leave its start: raise dpo.learning_rate or dpo.steps."))
    return store.final


def fitted(
    store: StageStore, config: StageConfig, less_memory: bool, planned: dict[str, Any] | None = None
) -> StageConfig:
    """The settings with the `planned` division of a step, the one that an earlier try ended with, or a finer one.

    It is kept in the stage's memory.json, so that the same command fits at once the next time.
    """
    config = config.model_copy(update=planned or {})
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # there is none, or it is for another batch
        kept = json.loads(store.memory.read_text("utf-8"))
        kept = {name: kept[name] for name in DIVISION if name in kept}
        found = type(config).model_validate(config.model_dump() | kept)
        if (found.checkpointing, found.accumulation) >= (config.checkpointing, config.accumulation):
            config = found
    if less_memory:
        config = smaller(config)
        store.directory.mkdir(parents=True, exist_ok=True)
        write_whole(store.memory, json.dumps({name: getattr(config, name) for name in DIVISION}))
    return config


def _make_whole(run: Run, stage: str, report: Report) -> None:
    """Make damaged final weights again from the best checkpoint. Raises CheckpointError when that is gone, too."""
    store = run.store(stage)
    try:
        verify_checkpoint(store.final)
    except CheckpointError as error:
        store.finish(stage, report, completion(run, stage))
        report(Note(f"{error.message} It was made again from the best checkpoint."))


def _rate_of_zero(stage: str, config: StageConfig) -> str | None:
    """A warning when nothing, or only a part, can be learned."""
    rates = {"learning_rate": config.learning_rate}
    if config.optimizer == "muon":
        rates["matrix_learning_rate"] = config.matrix_learning_rate
    zero = [f"{stage}.{name}" for name, rate in rates.items() if rate == 0]
    what = "nothing is learned" if len(zero) == len(rates) else "a part of the weights stays as it is"
    return f"{' and '.join(zero)} = 0: {what}." if zero else None


def _divided(run: Run, stage: str, config: StageConfig, planned: StagePlan | None) -> str | None:
    """What was changed for want of memory."""
    asked = getattr(run.config, stage)
    if all(getattr(config, name) == getattr(asked, name) for name in DIVISION):
        return None
    if planned is not None and planned.division == {name: getattr(config, name) for name in DIVISION}:
        return None  # the plan has said so
    checkpointing = " and gradient checkpointing" if config.checkpointing and not asked.checkpointing else ""
    return (
        f"{stage}: a step is computed in {config.accumulation} parts{checkpointing}, since earlier tries with fewer "
        "died; the batch, and so the result, stays the same."
    )


def is_stuck(config: DPOConfig, loss: float) -> bool:
    """Whether a preference loss is still within 1 % of where it starts: ln 2, or 1 / (4 β²) for IPO."""
    start = math.log(2) if config.loss == "sigmoid" else 1 / (4 * config.beta**2)
    return abs(loss - start) < 0.01 * start


def pretrain(
    run: Run, model: GPT, weights: Tree, config: StageConfig, report: Report
) -> tuple[Loss, Batches, Validate]:
    """Predict the next token of plain text (Radford et al. 2018)."""
    text, held_out = run.shards("pretrain")
    context = run.config.model.context
    batches = Batches(TextRows(text, context, run.config.seed), config.batch_size, run.config.seed)
    return language_recipe(run, model, config, batches, ValidationText(held_out, context))


def sft(run: Run, model: GPT, weights: Tree, config: StageConfig, report: Report) -> tuple[Loss, Batches, Validate]:
    """Predict the assistant's turns of conversations; everything else is context only."""
    conversations, held_out = run.shards("sft")
    context, seed = run.config.model.context, run.config.seed
    batches = Batches(PackedRows(conversations, context, seed), config.batch_size, seed)
    return language_recipe(run, model, config, batches, PackedRows(held_out, context, seed))


def language_recipe(run: Run, model: GPT, config: StageConfig, batches: Batches, held_out):
    """What pretraining and SFT share: cross-entropy on the rows' weighted tokens."""
    tokenizer = run.tokenizer

    def loss(weights, batch):
        return language_loss(model, weights, batch), {}

    def validate(weights):
        return evaluate_language(model, weights, held_out, tokenizer, part(config), config.eval_rows)

    return loss, batches, validate


def dpo(run: Run, model: GPT, weights: Tree, config: DPOConfig, report: Report) -> tuple[Loss, Batches, Validate]:
    """Push the log-probability margin towards the chosen answers (Rafailov et al. 2023).

    The reference is the model that the stage starts from: its log-probabilities are computed once and stored.
    """
    backend, seed, context = model.backend, run.config.seed, run.config.model.context
    start = "" if run.store("dpo").begun() else start_fingerprint(run, "dpo", weights, backend.numpy)
    rows = []
    for shard in run.shards("dpo"):
        bare = PairRows(shard, context, seed)
        path = run.store("dpo").directory / f"reference_{shard.directory.name}"
        reference = reference_logprobs(model, weights, bare, path, config, report, start)
        rows.append(PairRows(shard, context, seed, reference))
    batches = Batches(rows[0], config.batch_size, seed)

    def loss(weights, batch):
        policy = sequence_logprobs(model, weights, batch)  # (B, P, 2)
        reference, spans = batch["reference"], batch["spans"]
        losses = preference_losses(backend, policy, reference, config.beta, config.loss, spans)  # (B, P)
        metrics = preference_metrics(backend, policy, reference, batch["weights"], config.beta)
        return (losses * batch["weights"]).sum(), metrics

    def validate(weights):
        return evaluate_preferences(model, weights, rows[1], config.beta, config.loss, part(config), config.eval_rows)

    return loss, batches, validate


def reference_logprobs(
    model: GPT, weights: Tree, rows: PairRows, path: Path, config: DPOConfig, report: Report, start: str = ""
) -> np.ndarray:
    """(pairs, 2) summed log-probabilities under the starting weights, computed once and kept in directory `path`.

    With `start`, the fingerprint of those weights, what was computed with others is computed again.
    """
    pairs = len(rows.reference)
    if path.exists():
        try:
            trees, state = load_checkpoint(path)
            stored = trees["reference"]["logprobs"]
            if stored.shape == (pairs, 2) and start in ("", state["start"]):
                return stored
        except (CheckpointError, KeyError):
            report(Note(f"The reference log-probabilities in {path} are damaged: computed again."))
    backend, found = model.backend, np.zeros((pairs, 2), np.float32)
    logprobs = backend.compile(lambda w, batch: sequence_logprobs(model, w, batch))
    size = part(config)
    for first in range(0, rows.count, size):
        numbers = range(first, min(first + size, rows.count))
        arrays = {key: backend.array(x) for key, x in stacked([rows.row(0, i) for i in numbers]).items()}
        values = backend.numpy(logprobs(weights, arrays))  # (B, P, 2)
        for i, row in zip(numbers, values, strict=True):
            found[rows.rows[i]] = row[: len(rows.rows[i])]
        report(Progress("reference log-probabilities", first + len(numbers), rows.count))
    report(Progress("reference log-probabilities", rows.count, rows.count, finished=True))
    save_checkpoint(path, {"reference": {"logprobs": found}}, {"pairs": pairs, "start": start})
    return found


def part(config: StageConfig) -> int:
    """Rows that are computed at once."""
    return config.batch_size // config.accumulation


