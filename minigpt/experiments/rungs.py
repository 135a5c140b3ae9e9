"""The runs of a ladder: small models of many sizes, each trained for several budgets of operations (iso-FLOP curves).

    largest budget C   →   C / 8, C / 4, C / 2, C, and for each the sizes with 1.5 to 150 tokens per parameter
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from minigpt.errors import ResourceError
from minigpt.experiments.laws import FLOPS, TOKENS_PER_PARAMETER
from minigpt.experiments.trials import Trial
from minigpt.model.gpt import parameter_count
from minigpt.units import duration

BATCH, CONTEXT, HEAD = 8, 128, 16
VOCABULARY = 288  # of the byte tokenizer: the losses of all sizes are of the same tokens
# (width, layers), the smallest first: from 8,000 to some 25 million parameters.
SHAPES = (
    (16, 1), (16, 2), (32, 1), (32, 2), (48, 2), (48, 3), (64, 3), (80, 3), (96, 4), (128, 5), (160, 6), (192, 8),
    (256, 8), (320, 9), (384, 10), (512, 8),
)  # fmt: skip
RATIOS = 1.5, 150.0  # tokens per parameter, the fewest and the most that are tried
FEWEST_STEPS, MOST = 40, 5  # of a run; sizes of a budget
BUDGETS = (0.125, 0.25, 0.5, 1.0)  # of the largest
COMPUTE = 4.2  # the test's operations / the largest budget's: at least four, also when steps are rounded
LEAST, MOST_COMPUTE, STEP = 1e9, 1e21, 2**0.25  # the largest budgets among which one is chosen
PILOT_STEPS = 60
SHARE = 0.85  # of the time that is planned with: measured times vary


def rung(width: int, layers: int, steps: int) -> Trial:
    """A run of the ladder. The rate falls to its end within the run, so that each is a finished one."""
    settings = {
        "model.d_model": width, "model.n_layer": layers, "model.n_head": width // HEAD,
        "model.n_kv_head": width // HEAD, "model.d_ff": 8 * round(width / 3), "model.context": CONTEXT,
        "pretrain.steps": steps, "pretrain.eval_every": steps, "pretrain.save_every": steps,
    }  # fmt: skip
    return Trial(f"{layers} layers of {width}, {steps} steps", settings, 0)


def base() -> dict[str, Any]:
    """What all runs have in common."""
    return {
        "tokenizer.kind": "byte", "model.qk_norm": True, "pretrain.batch_size": BATCH, "pretrain.warmup_steps": 10,
        "pretrain.eval_rows": 256,
    }  # fmt: skip


def size_of(trial: Trial) -> float:
    """The parameters of a trial's model."""
    return _size(tuple((name, value) for name, value in trial.settings.items() if name.startswith("model.")))


@cache  # a plan asks hundreds of times
def _size(settings: tuple[tuple[str, Any], ...]) -> float:
    from minigpt.sections import ModelConfig

    values = {name.removeprefix("model."): value for name, value in settings}
    return float(parameter_count(ModelConfig(**values, vocab_size=VOCABULARY, qk_norm=True)))


def body_of(trial: Trial) -> float:
    """The parameters without the embeddings, as Kaplan et al. count them."""
    return size_of(trial) - VOCABULARY * trial.settings["model.d_model"]


def tokens_of(trial: Trial) -> float:
    return float(trial.settings["pretrain.steps"] * BATCH * CONTEXT)


def candidates(compute: float) -> list[Trial]:
    """A run of each size that has neither far too many nor far too few tokens with so many operations."""
    found = []
    for width, layers in SHAPES:
        size = size_of(rung(width, layers, 1))
        steps = math.ceil(compute / FLOPS / size / BATCH / CONTEXT)
        if RATIOS[0] <= compute / FLOPS / size**2 <= RATIOS[1] and steps >= FEWEST_STEPS:
            found.append(rung(width, layers, steps))
    return found


def sizes_for(compute: float) -> list[Trial]:
    """The candidates nearest to the size that published laws would take, which is in the middle of the curve."""
    expected = math.sqrt(compute / FLOPS / TOKENS_PER_PARAMETER)
    nearest = sorted(candidates(compute), key=lambda trial: _apart(size_of(trial), expected))[:MOST]
    return sorted(nearest, key=size_of)


def ladder(largest: float) -> list[Trial]:
    """All runs for a largest budget, the cheapest first."""
    return [trial for share in BUDGETS for trial in sizes_for(share * largest)]


def larger_run(largest: float, size: float) -> Trial:
    """The run that tests the law: more than four times the largest budget, with the size nearest to `size`."""
    return min(candidates(COMPUTE * largest), key=lambda trial: _apart(size_of(trial), size))


def _apart(size: float, other: float) -> float:
    return abs(math.log(size / other))


# ---- what fits a time --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pace:
    """Seconds of a run here: once for each, for each step, and for each operation."""

    start: float
    step: float
    operation: float

    def seconds(self, trial: Trial) -> float:
        return self.start + trial.settings["pretrain.steps"] * (self.step + self.operation * _operations(trial))


def pilots() -> list[Trial]:
    """Two short runs, of a small and of a large size, whose times tell the pace."""
    return [rung(*SHAPES[2], PILOT_STEPS), rung(*SHAPES[8], PILOT_STEPS)]


def pace_of(runs: Sequence[Trial], seconds: Sequence[float], steps: Sequence[float]) -> Pace:
    """The pace from the seconds of two whole runs and those of one of their steps."""
    small, large = (_operations(trial) for trial in runs)
    operation = max(0.0, steps[1] - steps[0]) / (large - small)
    fixed = max(0.0, steps[0] - operation * small)
    start = min(all_ - PILOT_STEPS * one for all_, one in zip(seconds, steps, strict=True))
    return Pace(max(0.0, start), fixed, operation)


def _operations(trial: Trial) -> float:
    """Of a step, by the rule that scaling laws count with."""
    return FLOPS * size_of(trial) * BATCH * CONTEXT


def seconds_of(largest: float, pace: Pace, jobs: int) -> float:
    """Of a ladder, `jobs` runs at a time, and of its test, which is alone at the end."""
    runs = ladder(largest)
    test = max(pace.seconds(trial) for trial in sizes_for(COMPUTE * largest))
    return sum(map(pace.seconds, runs)) / jobs + test


def largest_for(seconds: float, pace: Pace, jobs: int) -> float:
    """The largest budget of a ladder that fits the time together with its test.

    Raises ResourceError when none does.
    """
    best, tried = 0.0, LEAST
    while tried < MOST_COMPUTE and candidates(COMPUTE * tried):
        if seconds_of(tried, pace, jobs) <= SHARE * seconds and len(ladder(tried)) >= 8:
            best = tried
        tried *= STEP
    if not best:
        least = next(one for n in range(200) if len(ladder(one := LEAST * STEP**n)) >= 8)
        need = duration(seconds_of(least, pace, jobs) / SHARE)
        raise ResourceError(f"A ladder and its test need at least about {need} here.", "Give more with --budget.")
    return best
