"""Proximal policy optimization (Schulman et al. 2017) of a language model, with a value model (Ziegler et al. 2019).

The model answers prompts, rewards judge the answers, and several epochs of updates make tokens likelier that turned out
better than the value model expected. A divergence from the starting model is taken from the reward of each token.
"""

from typing import Literal

from pydantic import Field, model_validator

from minigpt.data.forms import PAIR_QUESTIONS
from minigpt.stages.experience import Experience
from minigpt.stages.questions import measure_questions, questions_of, rewards_of, validated
from minigpt.stages.rollouts import figures_of, scored
from minigpt.stages.sampled import SampledConfig, advice_on_answers, check_rewards
from minigpt.stages.stage import Job, Stage
from minigpt.stages.value import OWN, first_values, value_shapes, values
from minigpt.stages.warnings import Warnings
from minigpt.train.loop import Objective
from minigpt.train.losses import of_rows
from minigpt.train.policy_losses import (
    PolicySettings,
    policy_losses,
    policy_metrics,
    value_losses,
)
from minigpt.train.rewards import RUN, run_of

FIRST_LOSS = (
    "ppo: the loss says little: its policy part is about 0 after each sampling, its value part falls while the value "
    "model learns what answers earn. Watch the reward rise, and kl: how far the model has moved for it."
)


class PPOConfig(SampledConfig):
    """`batch_size` counts answers of one update; batch_size · `mini_batches` are sampled at once, and learned from
    `epochs` times.
    """

    spike: float = Field(0.0, ge=0, description="a loss above spike x the median of the last 50 + 0.5; 0: never")
    rewards: list[str] = Field([RUN], description="run: this run's reward model; run:PATH, exact, FILE.py:NAME, …")
    mini_batches: int = Field(2, ge=1, description="updates that one epoch over the sampled answers has")
    epochs: int = Field(2, ge=1, description="times that the sampled answers are learned from")
    gamma: float = Field(1.0, gt=0, le=1, description="what a reward one token later is worth")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="0: trust the value model; 1: trust what was earned")
    clip: float = Field(0.2, gt=0, lt=1, description="a token's probability gains nothing beyond 1 ± this")
    value_clip: float = Field(0.2, ge=0, description="a value moves at most so far from that at sampling; 0: freely")
    value_coefficient: float = Field(0.1, ge=0, description="weight of the value model's loss")
    value_model: Literal["own", "shared"] = Field("own", description="shared: a head on the policy's own trunk")
    value_start: str = Field("", description="run or run:PATH: an own value model begins as that reward model")
    whiten_rewards: bool = Field(False, description="scale the tokens' rewards to variance 1")
    kl_coefficient: float = Field(0.05, ge=0, description="strength of the tie to the starting model; 0: none")
    kl_target: float = Field(0.0, ge=0, description="nats per answer that kl_coefficient is adapted to; 0: it is fixed")
    kl_horizon: int = Field(10_000, ge=1, description="answers in which kl_coefficient may change by a fifth")
    target_kl: float = Field(0.0, ge=0, description="nats per token from the sampling model that end epochs; 0: none")
    entropy_coefficient: float = Field(0.0, ge=0, description="reward for keeping answers varied")
    missing_eos_penalty: float = Field(1.0, ge=0, description="taken from the score of an answer that was cut off")

    @model_validator(mode="after")
    def _fits_together(self) -> "PPOConfig":
        if self.value_start and self.value_model != OWN:
            raise ValueError("value_start needs value_model = 'own': a shared trunk is the policy's")
        if self.value_start and self.value_start.partition(":")[0] != RUN:
            raise ValueError(f"value_start = {self.value_start} is neither run nor run:PATH")
        return self


def settings_of(config: PPOConfig) -> PolicySettings:
    """The settings of the policy's loss; the tie to the starting model is in the rewards."""
    return PolicySettings("dapo", "token", config.clip, config.clip, entropy_coefficient=config.entropy_coefficient)


def proximal(job: Job) -> Objective:
    """The clipped policy gradient and the clipped value loss (Schulman et al. 2017, eq. 9)."""
    model, config, backend, settings = job.model, job.config, job.model.backend, settings_of(job.config)
    rewards = rewards_of(job)
    experience = Experience(job, rewards, job.starting_weights())
    held_out = questions_of(job, job.held_out)

    def loss(weights, batch):
        mask, shares = batch["mask"], batch["weights"]  # (R, W) each; shares sum to 1
        hidden = model.hidden(weights, batch["ids"], **of_rows(batch))  # (R, W, d)
        logprobs, entropy = scored(job, weights, hidden, batch)  # (R, W)
        old, advantages = batch["old"], batch["advantages"]
        policy = policy_losses(backend, logprobs, old, advantages, mask, settings, entropy=entropy)
        told = values(model, weights, batch, hidden)
        critic = value_losses(backend, told, batch["values"], batch["returns"], mask, config.value_clip)
        parts = {"policy_loss": policy, "value_loss": critic, "entropy": -logprobs}
        metrics = {name: (part * shares).sum(axis=-1).sum() for name, part in parts.items()}
        metrics |= policy_metrics(backend, logprobs, old, advantages, mask, shares, settings)
        metrics |= figures_of(experience.figures, batch["told"])
        return metrics["policy_loss"] + config.value_coefficient * metrics["value_loss"], metrics

    job.note(FIRST_LOSS)
    return Objective(
        loss, experience, lambda weights: validated(job, rewards, held_out, weights), beside=first_values(job),
        hooks=(Warnings("ppo", job, experience, per="answer"),),
    )  # fmt: skip


def _check(config: PPOConfig) -> None:
    check_rewards(config)
    if config.value_start:
        run_of(config.value_start)


PPO = Stage(
    name="ppo",
    summary="Learns from scores for its own answers, such as a reward model's. Watch the reward rise and kl stay low.",
    taught="It was taught to give answers that a reward model or a rule scores highly.",
    config=PPOConfig,
    form=PAIR_QUESTIONS,
    objective=proximal,
    measure=measure_questions,
    starts_from=("sft", "distill", "pretrain"),
    optional=True,
    check=_check,
    beside=value_shapes,
    advice=advice_on_answers("ppo", "kl_coefficient"),
    imported={"learning_rate": 1e-6, "batch_size": 32, "weight_decay": 0.0},
    checked={"learning_rate": 1e-3, "weight_decay": 0.0, "rewards": ["length:20"], "max_tokens": 12, "epochs": 2},
)
