"""The settings of all stages that learn from their model's own answers, and what is asked of them in common."""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, model_validator

from minigpt.sections import TuneConfig
from minigpt.train.rewards import make_rewards


class SampledConfig(TuneConfig):
    """How answers are sampled, and what judges them."""

    rewards: list[str] = Field(["exact"], description="exact, arithmetic, …, FILE.py:NAME, or run: a reward model")
    reward_weights: list[float] = Field([], description="one for each reward; none: all count the same")
    max_tokens: int = Field(64, ge=1, description="longest answer")
    temperature: float = Field(1.0, gt=0, description="of sampling, and of the probabilities that are trained")

    @property
    def samples(self) -> bool:
        return True


class GroupedConfig(SampledConfig):
    """Several answers to each prompt are compared.

    `batch_size` counts prompts, each with `group_size` answers, or, in a stage whose `rows_are_answers`, the answers
    to batch_size / group_size prompts. `updates` is how many steps learn from one sampling.
    """

    rows_are_answers: ClassVar[bool] = False

    group_size: int = Field(8, ge=2, description="answers to one prompt that are compared")
    updates: int = Field(1, ge=1, description="steps that learn from the same answers")
    redraws: int = Field(0, ge=0, description="times that prompts whose answers all earn the same are replaced")
    reference_every: int = Field(
        0, ge=0, description="steps after which the reference becomes the model of that step; 0: it stays the first"
    )

    @model_validator(mode="after")
    def _groups_fit(self) -> "GroupedConfig":
        if self.rows_are_answers and self.batch_size % self.group_size:
            raise ValueError(
                f"batch_size = {self.batch_size} answers must be a multiple of group_size = {self.group_size}"
            )
        if self.reference_every % self.updates:
            raise ValueError(
                f"reference_every = {self.reference_every} must be a multiple of updates = {self.updates}: the "
                "reference changes when new answers are sampled"
            )
        return self

    @property
    def groups(self) -> tuple[int, int]:
        """(prompts of a step, answers to each)."""
        if not self.rows_are_answers:
            return self.batch_size, self.group_size
        size = min(self.group_size, self.batch_size)  # a measurement of speed may take fewer rows
        return self.batch_size // size, size


def check_rewards(config: SampledConfig) -> None:
    """Raises UsageError for rewards that do not exist."""
    make_rewards(config.rewards, config.reward_weights)


def advice_on_answers(stage: str, tie: str) -> Callable[[Any, dict[str, float]], str]:
    """What to say after a training whose answers became empty, or their reward no number.

    `tie` is the setting that holds the model near the one it started from.
    """

    def advice(config: SampledConfig, measured: dict[str, float]) -> str:
        if measured.get("length", 1.0) < 1.0:
            return f"most answers have become empty: look at the rewards, and raise {stage}.{tie}."
        if not np.isfinite(measured.get("reward", 0.0)):
            return f"the reward is no number: lower {stage}.learning_rate."
        return ""

    return advice
