"""KTO: answers that are called good become likelier, those that are called bad less likely, without any pairs.

Kahneman–Tversky optimization (Ethayarajh et al. 2024).
"""

from typing import Any

import numpy as np
from pydantic import Field

from backends.base import Array
from backends.tree import Tree
from minigpt.data.batches import Batch, Batches, in_order, normalized, stacked
from minigpt.data.forms import LABELLED
from minigpt.data.labelled import OTHER, LabelledRows
from minigpt.model.gpt import GPT
from minigpt.sections import TuneConfig
from minigpt.stages.dpo import reference_logprobs
from minigpt.stages.micro_batches import Reader
from minigpt.stages.stage import Job, Stage, Subject
from minigpt.train.loop import Objective
from minigpt.train.losses import answer_logprobs
from minigpt.train.preferences import Answers, PreferenceSettings, answer_losses, kto_baseline

LOSS = "kto"  # the row of PREFERENCE_LOSSES
START = 0.5  # the loss while policy and reference are equal, with weights of 1


class KTOConfig(TuneConfig):
    """The authors keep desirable_weight · desirable answers between 1 and 1.33 times undesirable_weight · the others.

    A batch should hold several answers: its mismatched pairs are made of them.
    """

    beta: float = Field(0.1, gt=0, description="strength of the tie to the starting model")
    desirable_weight: float = Field(1.0, ge=0, description="how much answers count that are called good")
    undesirable_weight: float = Field(1.0, ge=0, description="and those that are called bad")

    @property
    def needs_weights(self) -> bool:
        return True  # KTO's baseline is a divergence of them


def settings_of(config: KTOConfig) -> PreferenceSettings:
    """The numbers of the loss."""
    return PreferenceSettings(
        config.beta, desirable_weight=config.desirable_weight, undesirable_weight=config.undesirable_weight
    )


def prospects(job: Job) -> Objective:
    """KTO's loss on single answers (Ethayarajh et al. 2024, eq. 7); the reference is the model that it starts from."""
    model, config, backend, settings = job.model, job.config, job.model.backend, settings_of(job.config)
    training, held_out = (_rows(job, shard) for shard in (job.training, job.held_out))

    def loss(weights, batch):
        policy, reference = answer_logprobs(model, weights, batch), batch["reference"][..., 0]  # (B, S) each
        baseline = batch["baseline"]  # (B, 1): one number, the whole step's
        losses = answer_losses(backend, LOSS, Answers(policy, reference, None, batch["labels"], baseline), settings)
        return (losses * batch["weights"]).sum(), _metrics(config.beta, policy - reference, batch)

    def validate(weights):
        return evaluate_labelled(model, weights, held_out, config.beta, settings, job.rows_at_once,
                                 config.eval_rows)  # fmt: skip

    return Objective(loss, WithBaseline(job, Batches(training, config.batch_size, job.seed)), validate)


class WithBaseline:
    """Batches with KTO's baseline: the divergence that the weights show on the step's mismatched pairs."""

    def __init__(self, job: Job, batches: Batches):
        self._batches = batches
        self._logprobs = Reader(
            job.model.backend, lambda weights, batch: answer_logprobs(job.model, weights, batch),
            ("ids", "targets", "segments", "spans"), job.rows_at_once,
        )  # (B, S)

    def __call__(self, step: int, weights: Tree) -> Batch:
        batch = self._batches(step)
        other = {name.removeprefix(OTHER): batch.pop(name) for name in list(batch) if name.startswith(OTHER)}
        there = batch["weights"] > 0  # (B, S)
        baseline = kto_baseline(self._logprobs(weights, other)[there], batch["reference"][..., 1][there])
        shares = {name: normalized({"weights": batch["weights"] * wanted})["weights"]
                  for name, wanted in (("good", batch["labels"] > 0), ("bad", batch["labels"] == 0))}  # fmt: skip
        return batch | shares | {"baseline": np.full((len(there), 1), baseline, np.float32)}


def evaluate_labelled(
    model: GPT, weights: Tree, rows: LabelledRows, beta: float, settings: PreferenceSettings, batch_size: int,
    limit: int | None = None,
) -> dict[str, float]:  # fmt: skip
    """Means over the answers: `loss`, the rewards β log(π/π_ref) of good and bad ones, and their `margin`. `kl` is the
    baseline, of all these answers together.
    """
    backend = model.backend

    def part(numbers: list[int]) -> list[np.ndarray]:
        batch = stacked([rows.row(0, i) for i in numbers])
        arrays = {name: backend.array(x) for name, x in batch.items()}
        there = batch["weights"] > 0  # (B, S)
        ratios = (backend.numpy(both_logprobs(model, weights, arrays)) - batch["reference"])[there]
        return [ratios, batch["labels"][there]]

    logprobs, labels = zip(*backend.group.map(part, in_order(rows, batch_size, limit)), strict=True)
    ratios, good = np.concatenate(logprobs).astype(np.float64), np.concatenate(labels) > 0  # (N, 2), (N,)
    baseline = kto_baseline(ratios[:, 1], 0 * ratios[:, 1])
    policy, labels = (backend.array(x[None].astype(np.float32)) for x in (ratios[:, 0], good))  # (1, N) each
    answers = Answers(policy, 0.0 * policy, None, labels, baseline)
    sides = {"reward_good": ratios[good, 0], "reward_bad": ratios[~good, 0]}
    means = {name: beta * float(x.mean()) if len(x) else 0.0 for name, x in sides.items()}
    loss = float(answer_losses(backend, LOSS, answers, settings).mean())
    return {"loss": loss, **means, "margin": means["reward_good"] - means["reward_bad"], "kl": baseline,
            "answers": len(good)}  # fmt: skip


def both_logprobs(model: GPT, weights: Tree, batch: dict[str, Array]) -> Array:
    """(B, S, 2): of the rows' own answers and of the mismatched ones."""
    other = {name.removeprefix(OTHER): x for name, x in batch.items() if name.startswith(OTHER)}
    found = [answer_logprobs(model, weights, one)[..., None] for one in (batch, other)]
    return model.backend.concat(found, -1)


def _rows(job: Job, shard: Any) -> LabelledRows:
    """The answers, with the reference's log-probabilities."""
    rows = LabelledRows(shard, job.context, job.seed)
    kept = None if job.directory is None else job.directory / f"reference_{shard.directory.name}"
    size = job.rows_at_once
    reference = reference_logprobs(job.model, job.weights, rows, kept, size, job.report, job.start, both_logprobs)
    return LabelledRows(shard, job.context, job.seed, reference)


def _metrics(beta: float, ratios: Array, batch: dict[str, Array]) -> dict[str, Array]:
    """Means of the rewards over the step's good and bad answers; the baseline is the same in each row."""
    good, bad = ((beta * ratios * batch[name]).sum() for name in ("good", "bad"))
    return {"reward_good": good, "reward_bad": bad, "margin": good - bad,
            "kl": (batch["baseline"] * batch["weights"]).sum()}  # fmt: skip


def measure_labelled(subject: Subject) -> dict[str, float]:
    """How much likelier the good answers are than the bad ones, per answer and in itself, without a reference."""
    rows = LabelledRows(subject.shard, subject.model.config.context, subject.seed)
    found = evaluate_labelled(
        subject.model, subject.weights, rows, 1.0, PreferenceSettings(1.0), subject.batch_size, subject.limit
    )
    return {"answers": found["answers"], "logprob_good": found["reward_good"], "logprob_bad": found["reward_bad"]}


def _advice(config: KTOConfig, measured: dict[str, float]) -> str:
    weights = config.desirable_weight, config.undesirable_weight
    if weights == (1.0, 1.0) and abs(measured["loss"] - START) < 0.01 * START:
        return "the loss did not leave its start: raise kto.learning_rate or kto.steps."
    return ""


KTO = Stage(
    name="kto",
    summary="Learns from single answers called good or bad, without pairs. Watch the margin rise from 0.",
    taught="It was taught to answer, and to prefer answers that were called good.",
    config=KTOConfig,
    form=LABELLED,
    objective=prospects,
    measure=measure_labelled,
    starts_from=("sft", "pretrain"),
    optional=True,
    reads_first=lambda config: True,
    advice=_advice,
    imported={"learning_rate": 2e-6, "batch_size": 4, "weight_decay": 0.0},
    checked={"learning_rate": 1e-4, "weight_decay": 0.0},
)
