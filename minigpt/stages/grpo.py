"""Group relative policy optimization: of several sampled answers to a prompt the better become likelier.

Shao et al. 2024 (GRPO) and its relatives, which are settings of one loss (see `minigpt.train.policy_losses`).
"""

from typing import Literal

from pydantic import Field, model_validator

from minigpt.data.forms import QUESTIONS
from minigpt.errors import MiniGPTError
from minigpt.events import Note
from minigpt.sections import TuneConfig
from minigpt.stages.rollouts import Rollouts, answered, judged, questions_of, rewards_of
from minigpt.stages.stage import Job, Stage, Subject
from minigpt.train.kl import kl_estimate
from minigpt.train.loop import Objective
from minigpt.train.losses import token_losses
from minigpt.train.policy_losses import PolicySettings, policy_losses, policy_metrics, token_entropy
from minigpt.train.rewards import make_rewards, score

FIRST_LOSS = (
    "grpo: the loss begins at about 0 and stays near it, which is right: the advantages of a group add up to 0, and "
    "only their gradient counts. Watch the reward instead."
)


class GRPOConfig(TuneConfig):
    """`batch_size` counts answers: `group_size` for each of batch_size / group_size prompts.

    `updates` is how many steps learn from one sampling; clipping matters from the second one on. `advantages` is a row
    of `train.advantages.ADVANTAGES`, the other settings are those of `train.policy_losses.PolicySettings`.
    """

    rewards: list[str] = Field(["exact"], description="exact, arithmetic, …, FILE.py:NAME, or run: a reward model")
    reward_weights: list[float] = Field([], description="one for each reward; none: all count the same")
    group_size: int = Field(8, ge=2, description="answers to one prompt that are compared")
    updates: int = Field(1, ge=1, description="steps that learn from the same answers")
    redraws: int = Field(0, ge=0, description="times that prompts whose answers all earn the same are replaced")
    max_tokens: int = Field(64, ge=1, description="longest answer")
    temperature: float = Field(1.0, gt=0, description="of sampling, and of the probabilities that are trained")
    advantages: Literal["group", "dr_grpo", "rloo", "batch", "group_batch"] = Field(
        "group", description="group divides by the group's spread; dr_grpo does not"
    )
    loss: Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo"] = Field("dapo", description="how tokens are averaged")
    ratio: Literal["token", "sequence"] = Field("token", description="sequence: GSPO")
    clip_low: float = Field(0.2, ge=0, lt=1, description="ratios below 1 - this learn nothing more")
    clip_high: float = Field(0.2, ge=0, description="ratios above 1 + this likewise; more than clip_low: clip-higher")
    delta: float = Field(0.0, ge=0, description="bound of ratios that count against a token, above 1; 0: none")
    kl: Literal["k2", "k3", "k3c"] = Field("k3", description="estimator of the divergence from the starting model")
    kl_coefficient: float = Field(0.02, ge=0, description="strength of the tie to the starting model; 0: none")
    entropy_coefficient: float = Field(0.0, ge=0, description="reward for keeping answers varied")
    mask_unfinished: bool = Field(False, description="answers that were cut off teach nothing")

    @model_validator(mode="after")
    def _fits_together(self) -> "GRPOConfig":
        if self.batch_size % self.group_size:
            raise ValueError(
                f"batch_size = {self.batch_size} answers must be a multiple of group_size = {self.group_size}"
            )
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
    model, config, settings = job.model, job.config, settings_of(job.config)
    backend, rewards = model.backend, rewards_of(job)
    rollouts = Rollouts(job, rewards, job.starting_weights() if config.kl_coefficient else None)
    held_out = questions_of(job, job.held_out)

    def loss(weights, batch):
        logprobs, entropy = _scored(job, weights, batch)  # (N, T)
        old = batch["old"] if "old" in batch else backend.stop_gradient(logprobs)  # sampled by these very weights
        mask, reference, advantages = batch["mask"], batch.get("reference"), batch["advantages"]
        losses = policy_losses(backend, logprobs, old, advantages, mask, settings, reference, entropy)
        shares = batch["shares"]  # (N, T) sums to 1: metrics are means over all tokens, whatever the loss
        metrics = policy_metrics(backend, logprobs, old, advantages, mask, shares, settings)
        metrics["entropy"] = -(logprobs * shares).sum(axis=-1).sum()  # estimated from the sampled tokens
        if reference is not None:
            metrics["kl"] = (kl_estimate(backend, "k3", logprobs, reference) * shares).sum(axis=-1).sum()
        told = batch["told"].sum(axis=0)  # (M,)
        metrics |= {name: told[i] for i, name in enumerate(rollouts.figures)}
        return (losses * batch["weights"]).sum(axis=-1).sum(), metrics

    def validate(weights):
        some = [held_out[i * len(held_out) // config.eval_rows] for i in range(config.eval_rows)]
        some = some if len(held_out) > config.eval_rows else held_out
        answers = answered(job, weights, some, config.max_tokens)
        total, _ = judged(job, rewards, some, answers)
        lengths = sum(len(answer.ids) for answer in answers)
        return {"loss": -float(total.mean()), "reward": float(total.mean()), "length": lengths / len(some),
                "prompts": len(some)}  # fmt: skip

    if job.load is not None:
        job.report(Note(FIRST_LOSS))
    return Objective(loss, rollouts, validate)


def _scored(job: Job, weights, batch):
    """(log-probabilities of the sampled tokens, entropies or None), (N, T) each, at the sampling temperature."""
    model, config, backend = job.model, job.config, job.model.backend
    if not config.entropy_coefficient:
        return -token_losses(model, weights, batch, batch["mask"] > 0, config.temperature), None
    hidden = model.hidden(weights, batch["ids"], dropout_keys=batch.get("dropout"))  # (N, T, d)
    logits = backend.cast(model.logits(weights, hidden), "float32") * (1.0 / config.temperature)
    return -backend.token_nll(logits, batch["targets"]), token_entropy(backend, logits)


def measure_questions(subject: Subject) -> dict[str, float]:
    """The share of held-out prompts whose greedy answer is the given one."""
    questions = questions_of(subject, subject.shard)
    some = questions[: subject.limit or len(questions)]
    answers = answered(subject, subject.weights, some, MEASURED)
    right, _ = score(make_rewards(["exact"]), [one.text for one in some], [answer.text for answer in answers],
                     [one.row for one in some])  # fmt: skip
    return {"prompts": len(some), "right": float(right.mean()),
            "length": sum(len(answer.ids) for answer in answers) / len(some)}  # fmt: skip


MEASURED = 64  # tokens of an answer that is measured


def _advice(config: GRPOConfig, measured: dict[str, float]) -> str:
    if measured.get("length", 1.0) < 1.0:
        return "most answers have become empty: look at the rewards, and raise grpo.kl_coefficient."
    return ""


GRPO = Stage(
    name="grpo",
    summary="Learns from rewards for its own answers (grpo.rewards). Watch the reward rise; the loss stays near 0.",
    taught="It was taught to give answers that earn a reward.",
    config=GRPOConfig,
    form=QUESTIONS,
    objective=policy_gradient,
    measure=measure_questions,
    starts_from=("dpo", "distill", "sft", "pretrain"),
    optional=True,
    check=lambda config: make_rewards(config.rewards, config.reward_weights) and None,
    advice=_advice,
    imported={"learning_rate": 1e-6, "batch_size": 32, "weight_decay": 0.0},
    checked={"learning_rate": 1e-3, "weight_decay": 0.0, "group_size": 2, "rewards": ["length:20"], "max_tokens": 12,
             "updates": 2},
    variations=("LoRA of two layers",),
)  # fmt: skip
