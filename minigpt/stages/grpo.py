"""Group relative policy optimization: of several sampled answers to a prompt the better become likelier.

Shao et al. 2024 (GRPO) and its relatives, which are settings of one loss (see `minigpt.train.policy_losses`).
"""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from backends.tree import Tree
from minigpt.data.batches import Batch
from minigpt.data.forms import QUESTIONS
from minigpt.errors import MiniGPTError
from minigpt.stages.packed import laid_out, once, packed
from minigpt.stages.questions import measure_questions, questions_of, rewards_of, validated
from minigpt.stages.reference import Reference
from minigpt.stages.rollouts import Make, Rollouts, Sampled, figures_of, scored, token_logprobs
from minigpt.stages.sampled import GroupedConfig, advice_on_answers, check_rewards
from minigpt.stages.stage import Job, Stage
from minigpt.stages.warnings import Warnings
from minigpt.train.advantages import answer_advantages
from minigpt.train.kl import kl_estimate
from minigpt.train.loop import Objective
from minigpt.train.losses import of_rows
from minigpt.train.policy_losses import (
    PolicySettings,
    policy_losses,
    policy_metrics,
    token_weights,
    without_unfinished,
)

FIRST_LOSS = (
    "grpo: the loss begins at about 0 and stays near it, which is right: the advantages of a group add up to 0, and "
    "only their gradient counts. Watch the reward instead."
)


class GRPOConfig(GroupedConfig):
    """`advantages` is a row of `train.advantages.ADVANTAGES`, the other settings are those of
    `train.policy_losses.PolicySettings`. `batch_size` counts answers.
    """

    rows_are_answers: ClassVar[bool] = True

    advantages: Literal["group", "dr_grpo", "rloo", "batch", "group_batch"] = Field(
        "group", description="group divides by the group's spread; dr_grpo does not"
    )
    loss: Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo"] = Field("dapo", description="how tokens are averaged")
    ratio: Literal["token", "sequence"] = Field("token", description="sequence: GSPO")
    clip_low: float = Field(0.2, ge=0, lt=1, description="ratios below 1 - this learn nothing more")
    clip_high: float = Field(0.2, ge=0, description="ratios above 1 + this likewise; more than clip_low: clip-higher")
    delta: float = Field(0.0, ge=0, description="bound of ratios that count against a token, above 1; 0: none")
    kl: Literal["k2", "k3", "k3c"] = Field("k3", description="estimator of the divergence from the reference")
    kl_coefficient: float = Field(0.02, ge=0, description="strength of the tie to the reference; 0: none")
    entropy_coefficient: float = Field(0.0, ge=0, description="reward for keeping answers varied")
    mask_unfinished: bool = Field(False, description="answers that were cut off teach nothing")

    @model_validator(mode="after")
    def _fits_together(self) -> "GRPOConfig":
        try:
            settings_of(self).check()
        except MiniGPTError as error:
            raise ValueError(error.message.rstrip(".")) from None
        return self


def settings_of(config: GRPOConfig) -> PolicySettings:
    """The settings of the loss."""
    return PolicySettings(
        config.loss, config.ratio, config.clip_low, config.clip_high, config.delta or None, config.kl,
        config.kl_coefficient, config.entropy_coefficient,
    )  # fmt: skip


def policy_gradient(job: Job) -> Objective:
    """The clipped policy gradient on answers that the model itself gave to the prompts (Shao et al. 2024, eq. 3)."""
    model, settings, rewards = job.model, settings_of(job.config), rewards_of(job)
    backend, rollouts = model.backend, Rollouts(job, rewards, policy_batches(job))
    held_out = questions_of(job, job.held_out)

    def loss(weights, batch):
        hidden = model.hidden(weights, batch["ids"], **of_rows(batch))  # (R, W, d)
        logprobs, entropy = scored(job, weights, hidden, batch)  # (R, W)
        old = batch["old"] if "old" in batch else backend.stop_gradient(logprobs)  # sampled by these very weights
        mask, reference, advantages = batch["mask"], batch.get("reference"), batch["advantages"]
        segments = batch.get("segments")
        losses = policy_losses(backend, logprobs, old, advantages, mask, settings, reference, entropy, segments)
        shares = batch["shares"]  # (R, W) sums to 1: metrics are means over all tokens, whatever the loss
        metrics = policy_metrics(backend, logprobs, old, advantages, mask, shares, settings, segments)
        metrics["entropy"] = -(logprobs * shares).sum(axis=-1).sum()  # estimated from the sampled tokens
        if reference is not None:
            apart = backend.where(mask > 0, kl_estimate(backend, "k3", logprobs, reference), 0.0)
            metrics["kl"] = (apart * shares).sum(axis=-1).sum()
        return (losses * batch["weights"]).sum(axis=-1).sum(), metrics | figures_of(rollouts.figures, batch["told"])

    job.note(FIRST_LOSS)
    return Objective(loss, rollouts, lambda weights: validated(job, rewards, held_out, weights),
                     hooks=(Warnings("grpo", job, rollouts),))  # fmt: skip


def policy_batches(job: Job) -> Make:
    """What makes a batch of the answers of a step: packed rows of them, with each token's advantage and weight."""
    config, logprobs = job.config, token_logprobs(job)
    reference = Reference(job) if config.kl_coefficient else None

    def made(step: int, weights: Tree, found: Sampled) -> Batch:
        prompts = [one.ids for one in found.questions for _ in found.answers[0]]
        answers = [answer for group in found.answers for answer in group]
        rows = laid_out(prompts, answers)  # (N, T)
        ended = np.array([one.reason == "stop" for one in answers])
        mask = (without_unfinished(rows["mask"], ended) if config.mask_unfinished else rows["mask"]).astype(np.float32)
        advantages = answer_advantages(config.advantages, found.rewards).reshape(-1, 1) * np.ones(mask.shape)
        single = rows | {
            "mask": mask, "advantages": advantages.astype(np.float32),
            "weights": token_weights(mask, config.loss, config.max_tokens + 1), "shares": token_weights(mask, "dapo"),
        }  # fmt: skip
        single = once(single, together=len(found.answers[0]))
        batch = packed(job.model, single, together=len(found.answers[0])).rows(single)  # (R, W)
        if config.updates > 1:
            batch["old"] = logprobs(weights, batch)
        return batch if reference is None else batch | {"reference": logprobs(reference.at(step, weights), batch)}

    return made


GRPO = Stage(
    name="grpo",
    summary="Learns from rewards for its own answers (grpo.rewards). Watch the reward rise; the loss stays near 0.",
    taught="It was taught to give answers that earn a reward.",
    config=GRPOConfig,
    form=QUESTIONS,
    objective=policy_gradient,
    measure=measure_questions,
    starts_from=("dpo", "kto", "distill", "sft", "pretrain"),
    optional=True,
    check=check_rewards,
    advice=advice_on_answers("grpo", "kl_coefficient"),
    imported={"learning_rate": 1e-6, "batch_size": 32, "weight_decay": 0.0},
    checked={"learning_rate": 1e-3, "weight_decay": 0.0, "group_size": 2, "rewards": ["length:20"], "max_tokens": 12,
             "updates": 2},
    variations=("LoRA of two layers",),
)  # fmt: skip
