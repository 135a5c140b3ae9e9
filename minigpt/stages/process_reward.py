"""A process reward model: each step of an answer gets a score of its own (Lightman et al. 2023)."""

from dataclasses import asdict
from typing import Any

import numpy as np

from backends.tree import Tree
from minigpt.data.batches import Batches
from minigpt.data.forms import STEPS as FORM
from minigpt.data.scored import StepScores
from minigpt.generate.scorer import STEPS
from minigpt.model.gpt import GPT
from minigpt.model.heads import JUDGES
from minigpt.sections import TuneConfig
from minigpt.stages.scoring import held_out_scores
from minigpt.stages.stage import Job, Stage, Subject
from minigpt.train.calibration import calibration_error, reliability
from minigpt.train.loop import Objective
from minigpt.train.reward_losses import answer_scores, step_losses


def judging(job: Job) -> Objective:
    """Cross-entropy of each step's label (Lightman et al. 2023, section 2.6)."""
    model, config, backend = job.model, job.config, job.model.backend
    training, held_out = (StepScores(shard, job.context, job.seed) for shard in (job.training, job.held_out))

    def loss(weights, batch):
        scores, labels, counted = answer_scores(model, weights, batch), batch["labels"], batch["weights"]  # (B, S)
        right = (scores > 0) == (labels > 0)
        metrics = {"accuracy": backend.where(right, counted, 0.0 * counted).sum()}
        return (step_losses(backend, scores, labels) * counted).sum(), metrics

    def validate(weights):
        return figures(*scored_steps(model, weights, held_out, job.rows_at_once, config.eval_rows))

    return Objective(loss, Batches(training, config.batch_size, job.seed), validate)


def scored_steps(
    model: GPT, weights: Tree, rows: StepScores, batch_size: int, limit: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """(scores, labels) (N,) of the steps of all rows, or of `limit` of them."""
    found = []
    for scores, batch in held_out_scores(model, weights, rows, batch_size, limit):
        real = batch["weights"] > 0
        found.append(np.stack([scores[real], batch["labels"][real]]))
    scores, labels = np.concatenate(found, axis=1)
    return scores, labels


def figures(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """How well steps (N,) are judged; `accuracy_right` and `accuracy_wrong` are the shares of either kind."""
    right = (scores > 0) == (labels > 0)
    kinds = {f"accuracy_{name}": right[labels == label] for name, label in (("right", 1), ("wrong", 0))}
    return {
        "loss": float(np.logaddexp(0.0, np.where(labels > 0, -scores, scores)).mean()), "accuracy": float(right.mean()),
        **{name: float(found.mean()) for name, found in kinds.items() if len(found)},
        "calibration_error": calibration_error(reliability(_chances(scores), labels)), "steps": len(scores),
    }  # fmt: skip


def measure_steps(subject: Subject) -> dict[str, Any]:
    """The figures of held-out steps, and the reliability table."""
    rows = StepScores(subject.shard, subject.model.config.context, subject.seed)
    found = scored_steps(subject.model, subject.weights, rows, subject.batch_size, subject.limit)
    return figures(*found) | {"reliability": [asdict(line) for line in reliability(_chances(found[0]), found[1])]}


def _chances(scores: np.ndarray) -> np.ndarray:
    """What the model says of each step: the probability that it is right."""
    return 1.0 / (1.0 + np.exp(-np.clip(scores, -700, 700)))


PROCESS_REWARD = Stage(
    name="process_reward",
    summary="Learns to score each step of an answer, right or wrong. Watch the accuracy; the loss begins at 0.69.",
    taught="It does not write: it gives each step of an answer a score, above 0 where it takes it to be right.",
    config=TuneConfig,
    form=FORM,
    objective=judging,
    measure=measure_steps,
    starts_from=("sft", "pretrain"),
    head=JUDGES,
    scored_at=STEPS,
    answers=False,
    optional=True,
    imported={"learning_rate": 1e-5, "batch_size": 8, "weight_decay": 0.0},
    checked={"learning_rate": 1e-3, "weight_decay": 0.0},
)
