"""Online DPO: the model answers each prompt several times, and learns to prefer its best answer to its worst.

Guo et al. 2024 (OAIF) with any of the preference losses; sampling, judging and learning are one stage.
"""

from dataclasses import replace

import numpy as np

from backends.tree import Tree
from minigpt.data.batches import Batch, normalized
from minigpt.data.forms import QUESTIONS
from minigpt.stages.dpo import PairedConfig, needs_reference, paired_loss
from minigpt.stages.micro_batches import Reader
from minigpt.stages.packed import READ, Packed, laid_out, packed
from minigpt.stages.questions import measure_questions, questions_of, rewards_of, validated
from minigpt.stages.reference import Reference
from minigpt.stages.rollouts import Make, Rollouts, Sampled, figures_of
from minigpt.stages.sampled import GroupedConfig, advice_on_answers, check_rewards
from minigpt.stages.stage import Job, Stage
from minigpt.stages.warnings import Warnings
from minigpt.train.loop import Objective
from minigpt.train.losses import sequence_logprobs
from minigpt.train.preferences import PREFERENCE_LOSSES


class OnlineDPOConfig(PairedConfig, GroupedConfig):
    """Each prompt's answers become one pair: that with the highest reward and that with the lowest. Prompts whose
    answers earn the same teach nothing. `batch_size` counts pairs.
    """


def online_preferences(job: Job) -> Objective:
    """A preference loss on pairs that the model itself has written (Guo et al. 2024, algorithm 1)."""
    rewards, of_pairs = rewards_of(job), paired_loss(job)
    rollouts, held_out = Rollouts(job, rewards, pair_batches(job)), questions_of(job, job.held_out)

    def loss(weights, batch):
        value, metrics = of_pairs(weights, batch)
        return value, metrics | figures_of(rollouts.figures, batch["told"])

    start = PREFERENCE_LOSSES[job.config.loss].start
    if start is not None:
        job.note(f"online_dpo: the loss begins at {start(job.config.beta):.4g}, as policy and reference are "
                        "equal. Watch the reward, and the margin rise from 0.")  # fmt: skip
    return Objective(loss, rollouts, lambda weights: validated(job, rewards, held_out, weights),
                     hooks=(Warnings("online_dpo", job, rollouts, tie="beta"),))  # fmt: skip


def pair_batches(job: Job) -> Make:
    """What makes a batch of the answers of a step: packed rows of prompts, each with its best and its worst answer."""
    reference = Reference(job) if needs_reference(job.config) else None
    logprobs = Reader(
        job.model.backend, lambda weights, batch: sequence_logprobs(job.model, weights, batch),
        (*READ, "spans"), job.rows_at_once,
    )  # (R, P, 2): of both answers of each pair

    def made(step: int, weights: Tree, found: Sampled) -> Batch:
        best, worst = found.rewards.argmax(axis=1), found.rewards.argmin(axis=1)  # (G,)
        answers = [group[i] for group, *pair in zip(found.answers, best, worst, strict=True) for i in pair]
        single = laid_out([question.ids for question in found.questions for _ in range(2)], answers)  # (2 G, T)
        differ = found.rewards.max(axis=1) > found.rewards.min(axis=1)  # (G,): the other pairs teach nothing
        single["mask"] *= np.repeat(differ, 2).astype(np.float32)[:, None]
        batch = paired(packed(job.model, single, together=2, pairs=True), single)
        batch["reference"] = np.zeros((*batch["weights"].shape, 2), np.float32)
        if reference is not None:
            batch["reference"] = logprobs(reference.at(step, weights), batch)
        return normalized(batch)

    return made


def paired(where: Packed, single: Batch) -> Batch:
    """The packed rows of answers that stand in pairs, with `spans` (R, 2 P, W) and `weights` (R, P)."""
    assert all(len(held) % 2 == 0 for held in where.held), "a pair has two answers"
    batch, most = where.rows(single), max(1, *(len(held) // 2 for held in where.held))
    mask, answer = batch.pop("mask"), where.source // where.shape[1]  # (R, W)
    batch["spans"] = np.zeros((len(mask), 2 * most, mask.shape[1]), np.float32)
    batch["weights"] = np.zeros((len(mask), most), np.float32)
    for row, held in enumerate(where.held):
        batch["weights"][row, : len(held) // 2] = 1.0
        for place, n in enumerate(held):
            batch["spans"][row, place] = mask[row] * (answer[row] == n)
    return batch


ONLINE_DPO = Stage(
    name="online_dpo",
    summary="Prefers its own better answers, by rewards, to its worse ones. Watch the reward and the margin rise.",
    taught="It was taught to prefer those of its answers that earn a reward.",
    config=OnlineDPOConfig,
    form=replace(QUESTIONS, width=2),  # a row holds two answers
    objective=online_preferences,
    measure=measure_questions,
    starts_from=("dpo", "kto", "distill", "sft", "pretrain"),
    optional=True,
    check=check_rewards,
    advice=advice_on_answers("online_dpo", "beta"),
    imported={"learning_rate": 1e-6, "batch_size": 4, "weight_decay": 0.0},
    checked={"learning_rate": 1e-3, "weight_decay": 0.0, "group_size": 3, "rewards": ["length:20"], "max_tokens": 12},
)  # fmt: skip
