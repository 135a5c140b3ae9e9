"""The stages as recipes: data + loss + starting weights, handed to the one training loop."""

import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from backends.base import Backend
from backends.tree import Tree
from minigpt.config import DPOConfig, StageConfig
from minigpt.data.batches import Batches, PackedRows, PairRows, TextRows, ValidationText, stacked
from minigpt.errors import UsageError
from minigpt.evaluate.language import evaluate_language, evaluate_preferences
from minigpt.events import Note, Progress, Report, StageFinished, StageStarted
from minigpt.losses import language_loss, preference_losses, preference_metrics, sequence_logprobs
from minigpt.machine import choose_dtype
from minigpt.model import GPT, init_weights, parameter_count, to_backend
from minigpt.train.loop import Loss, Validate, train
from minigpt.train.run import Run


def train_stage(run: Run, stage: str, backend: Backend, report: Report) -> Path:
    """Train one stage of a run whose data is prepared; returns the directory of its final weights.

    A finished stage is left as it is; an interrupted one goes on from its last checkpoint.
    """
    store = run.store(stage)
    if store.finished():
        report(StageFinished(stage, store.final, 0.0, skipped=True))
        return store.final
    config: StageConfig = getattr(run.config, stage)
    model = GPT(run.model_config, backend, choose_dtype(backend, config.dtype), config.checkpointing)
    start = store.steps_kept()
    parameters = parameter_count(run.model_config)
    report(StageStarted(stage, start, config.steps, parameters, backend.name, backend.device, model.dtype))
    if (before := stage_before(run, stage)) and not start:
        report(Note(f"{stage}: starts from the weights of {before} ({run.store(before).final})."))

    began = time.perf_counter()
    weights = starting_weights(run, stage, backend)
    recipe = {"pretrain": pretrain, "sft": sft, "dpo": dpo}[stage]
    loss, batches, validate = recipe(run, model, weights, config, report)
    train(backend, stage, config, weights, loss, batches, validate, store, report)
    report(StageFinished(stage, store.finish(stage), time.perf_counter() - began))
    if stage == "dpo" and is_stuck(run.config.dpo, store.last_metrics()["loss"]):
        report(Note("dpo: the loss did not leave its start: raise dpo.learning_rate or dpo.steps."))
    return store.final


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
    rows = []
    for shard in run.shards("dpo"):
        bare = PairRows(shard, context, seed)
        path = run.store("dpo").directory / f"reference_{shard.directory.name}.npy"
        rows.append(PairRows(shard, context, seed, reference_logprobs(model, weights, bare, path, config, report)))
    batches = Batches(rows[0], config.batch_size, seed)

    def loss(weights, batch):
        policy = sequence_logprobs(model, weights, batch)  # (B, P, 2)
        losses = preference_losses(backend, policy, batch["reference"], config.beta, config.loss)  # (B, P)
        metrics = preference_metrics(backend, policy, batch["reference"], batch["weights"], config.beta)
        return (losses * batch["weights"]).sum(), metrics

    def validate(weights):
        return evaluate_preferences(model, weights, rows[1], config.beta, config.loss, part(config), config.eval_rows)

    return loss, batches, validate


def reference_logprobs(
    model: GPT, weights: Tree, rows: PairRows, path: Path, config: DPOConfig, report: Report
) -> np.ndarray:
    """(pairs, 2) summed log-probabilities under the starting weights, computed once and kept at `path`."""
    pairs = len(rows.reference)
    if path.exists():
        stored = np.load(path, allow_pickle=False)
        if stored.shape == (pairs, 2):
            return stored
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
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")  # np.save would append a second .npy to another ending
    np.save(temporary, found)
    temporary.rename(path)
    return found


def starting_weights(run: Run, stage: str, backend: Backend) -> Tree:
    """Random weights for pretraining, else the final weights of the stage before."""
    before = stage_before(run, stage)
    if before is None:
        return to_backend(backend, init_weights(run.model_config, run.config.seed))
    return run.weights(before, backend)[0]


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


def part(config: StageConfig) -> int:
    """Rows that are computed at once."""
    return config.batch_size // config.accumulation


