"""A reward model: of two answers the preferred one is to get the higher score (Bradley & Terry 1952).

Its model is that of the stage before under a head with one score per token, of which the answer's last one counts.
"""

import json
from dataclasses import asdict
from typing import Any

import numpy as np
from pydantic import Field

from minigpt.data.batches import Batches
from minigpt.data.forms import SCORED_PAIRS
from minigpt.data.scored import PairScores
from minigpt.data.shards import MemoryShard
from minigpt.generate.scorer import END
from minigpt.model.heads import JUDGES
from minigpt.sections import TuneConfig
from minigpt.stages.scoring import held_out_scores
from minigpt.stages.stage import Job, Stage, Subject
from minigpt.train.calibration import calibration_error
from minigpt.train.loop import Objective
from minigpt.train.reward_losses import answer_scores, pair_losses, pair_metrics, pair_reliability


class RewardConfig(TuneConfig):
    """The loss is -log σ(r_chosen - r_rejected - margin) + centering · (r_chosen + r_rejected)²."""

    margins: bool = Field(True, description="ask for the margin that a row has (its key margin), 0 without one")
    centering: float = Field(0.0, ge=0, description="pulls scores to 0, such as 0.01; differences alone decide nothing")
    spoiled: float = Field(
        0.0, ge=0, le=1, description="share of the pairs that come once more, with the chosen answer spoiled as "
        "the rejected one: empty, cut short, with a wrong token, or to another prompt"
    )


def ranking(job: Job) -> Objective:
    """The Bradley–Terry loss on pairs of answers (Ouyang et al. 2022, eq. 1)."""
    model, config, backend = job.model, job.config, job.model.backend
    training, held_out = pair_rows(job, job.training, config.spoiled), pair_rows(job, job.held_out)

    def loss(weights, batch):
        scores = answer_scores(model, weights, batch)  # (B, 2 P)
        pairs = scores.reshape(scores.shape[0], -1, 2)
        chosen, rejected = pairs[..., 0], pairs[..., 1]  # (B, P) each
        losses = pair_losses(backend, chosen, rejected, batch["margins"], config.centering)
        metrics = pair_metrics(backend, chosen, rejected, batch["weights"])
        return (losses * batch["weights"]).sum(), metrics

    def validate(weights):
        chosen, rejected, margins = scored_pairs(model, weights, held_out, job.rows_at_once, config.eval_rows)
        gap = chosen - rejected - margins
        losses = np.logaddexp(0.0, -gap) + config.centering * (chosen + rejected) ** 2
        return {"loss": float(losses.mean())} | figures(chosen, rejected)

    return Objective(loss, Batches(training, config.batch_size, job.seed), validate)


def pair_rows(owner: Any, shard: MemoryShard, spoiled: float = 0.0) -> PairScores:
    """The pairs of a shard, with the margins of their rows where the settings ask for them."""
    context, asked = owner.model.config.context, getattr(owner, "config", None)  # a Subject has no settings
    if owner.made_up or asked is None or not asked.margins:
        return PairScores(shard, context, owner.seed, spoiled=spoiled)
    texts = [owner.tokenizer.decode(map(int, shard.sequence(i)[0])) for i in range(2, len(shard), PairScores.group)]
    margins = np.array([json.loads(text) or 0.0 for text in texts], np.float32)
    return PairScores(shard, context, owner.seed, margins, spoiled)


def scored_pairs(model, weights, rows: PairScores, batch_size: int, limit: int | None) -> tuple[np.ndarray, ...]:
    """(scores of the chosen answers, of the rejected ones, margins) (N,) each, of all rows or of `limit` of them."""
    found = []
    for scores, batch in held_out_scores(model, weights, rows, batch_size, limit):
        pairs, real = scores.reshape(len(scores), -1, 2), batch["weights"] > 0  # (B, P, 2), (B, P)
        found.append(np.stack([pairs[..., 0][real], pairs[..., 1][real], batch["margins"][real]]))
    chosen, rejected, margins = np.concatenate(found, axis=1)
    return chosen, rejected, margins


def figures(chosen: np.ndarray, rejected: np.ndarray) -> dict[str, float]:
    """How well pairs (N,) are ranked, and how far the probabilities σ(margin) are from the truth."""
    gap = chosen - rejected
    return {
        "accuracy": float((gap > 0).mean()), "margin": float(gap.mean()),
        "reward_chosen": float(chosen.mean()), "reward_rejected": float(rejected.mean()),
        "calibration_error": calibration_error(pair_reliability(gap)), "pairs": len(gap),
    }  # fmt: skip


def measure_ranking(subject: Subject) -> dict[str, Any]:
    """The figures of held-out pairs, and the reliability table."""
    rows = pair_rows(subject, subject.shard)
    chosen, rejected, _ = scored_pairs(subject.model, subject.weights, rows, subject.batch_size, subject.limit)
    loss = float(np.logaddexp(0.0, rejected - chosen).mean())
    table = [asdict(line) for line in pair_reliability(chosen - rejected)]
    return {"loss": loss} | figures(chosen, rejected) | {"reliability": table}


REWARD = Stage(
    name="reward",
    summary="Learns to score answers from pairs: the chosen one higher. Watch the accuracy; the loss begins at 0.69.",
    taught="It does not write: it gives an answer a score, and of two scores only the difference means something.",
    config=RewardConfig,
    form=SCORED_PAIRS,
    objective=ranking,
    measure=measure_ranking,
    starts_from=("sft", "pretrain"),
    head=JUDGES,
    scored_at=END,
    answers=False,
    optional=True,
    imported={"learning_rate": 1e-5, "batch_size": 8, "weight_decay": 0.0},
    checked={"learning_rate": 1e-3, "weight_decay": 0.0, "centering": 0.01},
    variations=("LoRA of two layers",),
)
