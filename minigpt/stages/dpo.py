"""Direct preference optimization: push the margin of log-probability towards the preferred answers."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from backends.base import Array
from backends.tree import Tree
from minigpt.data.batches import Batch, Batches, PairRows, stacked
from minigpt.data.forms import PAIRS
from minigpt.data.labelled import LabelledRows
from minigpt.errors import CheckpointError
from minigpt.events import Note, Progress, Report
from minigpt.model.gpt import GPT
from minigpt.sections import Section, TuneConfig
from minigpt.stages.stage import Job, Stage, Subject
from minigpt.store.checkpoint import load_checkpoint, save_checkpoint
from minigpt.train.loop import Loss, Objective
from minigpt.train.losses import sequence_logprobs
from minigpt.train.measure import evaluate_preferences
from minigpt.train.preferences import PREFERENCE_LOSSES, PreferenceSettings, preference_losses, preference_metrics

TARGET_MARGIN = 0.5


class PairedConfig(Section):
    """`loss` is a paired row of `train.preferences.PREFERENCE_LOSSES`, `beta` the strength of the tie to the reference
    model (Rafailov et al. 2023, eq. 7). simpo and orpo have no reference: there beta is the size of the margin (SimPO's
    authors use 2 to 10) and the weight of the odds ratio (ORPO's λ).
    """

    beta: float = Field(0.1, gt=0, description="strength of the tie to the reference; scale for simpo and orpo")
    loss: Literal["sigmoid", "ipo", "hinge", "cdpo", "robust", "simpo", "orpo", "apo_zero", "apo_down"] = Field(
        "sigmoid", description="sigmoid is DPO's own; simpo and orpo need no reference"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="share of wrong labels, for cdpo and robust")
    target_margin: float = Field(TARGET_MARGIN, ge=0, description="simpo's gamma: the margin that it wants")

    @model_validator(mode="after")
    def _settings_that_the_loss_reads(self) -> "PairedConfig":
        noisy = self.loss in ("cdpo", "robust")
        if noisy and not self.label_smoothing:
            raise ValueError(f"loss = {self.loss} with label_smoothing = 0 is sigmoid: set it, such as 0.1")
        if self.label_smoothing and not noisy:
            raise ValueError(f"loss = {self.loss} does not read label_smoothing: take the loss cdpo or robust")
        if self.target_margin != TARGET_MARGIN and self.loss != "simpo":
            raise ValueError(f"loss = {self.loss} does not read target_margin: take the loss simpo")
        return self


class DPOConfig(PairedConfig, TuneConfig):
    """The preference loss on given pairs."""


def settings_of(config: PairedConfig) -> PreferenceSettings:
    """The numbers of the loss."""
    return PreferenceSettings(config.beta, config.label_smoothing, config.target_margin)


def preferences(job: Job) -> Objective:
    """The loss of `preference_losses` on pairs of answers (Rafailov et al. 2023).

    The reference is the model that the stage starts from: its log-probabilities are computed once and kept.
    """
    config, settings = job.config, settings_of(job.config)
    training, held_out = (_pair_rows(job, shard) for shard in (job.training, job.held_out))

    def validate(weights):
        return evaluate_preferences(
            job.model, weights, held_out, config.loss, settings, job.rows_at_once, config.eval_rows
        )

    return Objective(paired_loss(job), Batches(training, config.batch_size, job.seed), validate)


def paired_loss(job: Job) -> Loss:
    """(weights, batch) -> (loss, metrics) of pairs. A loss without a reference is measured with one of probability 1:
    its rewards are β log π.
    """
    model, config, backend, settings = job.model, job.config, job.model.backend, settings_of(job.config)

    def loss(weights, batch):
        policy = sequence_logprobs(model, weights, batch)  # (B, P, 2)
        reference, spans = batch["reference"], batch["spans"]
        losses = preference_losses(backend, policy, reference, config.loss, settings, spans)  # (B, P)
        metrics = preference_metrics(backend, policy, reference, batch["weights"], config.beta)
        return (losses * batch["weights"]).sum(), metrics

    return loss


def _pair_rows(job: Job, shard) -> PairRows:
    """The pairs, with the reference's log-probabilities where the loss reads them."""
    rows = PairRows(shard, job.context, job.seed)
    if not needs_reference(job.config):
        return rows
    kept = None if job.directory is None else job.directory / f"reference_{shard.directory.name}"
    size = job.rows_at_once
    reference = reference_logprobs(job.model, job.weights, rows, kept, size, job.report, job.start)
    return PairRows(shard, job.context, job.seed, reference)


def reference_logprobs(
    model: GPT, weights: Tree, rows: PairRows | LabelledRows, path: Path | None, batch_size: int, report: Report,
    start: str = "", summed: Callable[[GPT, Tree, Batch], Array] = sequence_logprobs,
) -> np.ndarray:  # fmt: skip
    """(pairs, 2) summed log-probabilities under the starting weights, computed once and kept in directory `path`.

    `summed` gives those (B, P, 2) of a batch. With `start`, the fingerprint of those weights, what was computed with
    others is computed again.
    """
    pairs, group = len(rows.reference), model.backend.group
    if path is not None and group.first(path.exists):
        try:
            trees, state = load_checkpoint(path)
            stored = trees["reference"]["logprobs"]
            if stored.shape == (pairs, 2) and start in ("", state["start"]):
                return stored
        except (CheckpointError, KeyError):
            report(Note(f"The reference log-probabilities in {path} are damaged: computed again."))
    backend, found = model.backend, np.zeros((pairs, 2), np.float32)
    logprobs = backend.compile(lambda w, batch: summed(model, w, batch))

    def of_rows(weights: Tree, numbers: range) -> np.ndarray:
        arrays = {key: backend.array(x) for key, x in stacked([rows.row(0, i) for i in numbers]).items()}
        report(Progress("reference log-probabilities", numbers.stop, rows.count))
        return backend.numpy(logprobs(weights, arrays))  # (B, P, 2)

    batches = [range(first, min(first + batch_size, rows.count)) for first in range(0, rows.count, batch_size)]
    every = group.opened(lambda weights: group.map(partial(of_rows, weights), batches))(weights)
    for numbers, values in zip(batches, every, strict=True):
        for i, row in zip(numbers, values, strict=True):
            found[rows.rows[i]] = row[: len(rows.rows[i])]
    report(Progress("reference log-probabilities", rows.count, rows.count, finished=True))
    if path is not None and group.rank == 0:
        save_checkpoint(path, {"reference": {"logprobs": found}}, {"pairs": pairs, "start": start})
    return found


def measure_pairs(subject: Subject) -> dict[str, float]:
    """How often the chosen answer is the likelier one in itself, without a reference."""
    rows = PairRows(subject.shard, subject.model.config.context, subject.seed)
    found = evaluate_preferences(
        subject.model, subject.weights, rows, "sigmoid", PreferenceSettings(1.0), subject.batch_size, subject.limit
    )
    return {"pairs": found["pairs"], "chosen_is_likelier": found["accuracy"]}


def is_stuck(config: DPOConfig, loss: float) -> bool:
    """Whether a preference loss is still within 1 % of where it starts; one without a reference starts anywhere."""
    start_of = PREFERENCE_LOSSES[config.loss].start
    return start_of is not None and abs(loss - start_of(config.beta)) < 0.01 * start_of(config.beta)


def needs_reference(config: PairedConfig) -> bool:
    return PREFERENCE_LOSSES[config.loss].needs_reference


def _advice(config: DPOConfig, measured: dict[str, float]) -> str:
    if is_stuck(config, measured["loss"]):
        return "the loss did not leave its start: raise dpo.learning_rate or dpo.steps."
    return ""


DPO = Stage(
    name="dpo",
    summary="Learns to prefer one answer to another from pairs. Watch the margin rise from 0, and the accuracy.",
    taught="It was taught to answer, and to prefer some answers to others.",
    config=DPOConfig,
    form=PAIRS,
    objective=preferences,
    measure=measure_pairs,
    starts_from=("sft", "pretrain"),
    reads_first=needs_reference,
    advice=_advice,
    imported={"learning_rate": 2e-6, "batch_size": 4, "weight_decay": 0.0},
    checked={"learning_rate": 1e-4, "weight_decay": 0.0},
    variations=("LoRA of two layers", "dropout"),
)
