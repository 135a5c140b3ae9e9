"""What a budget buys: the best model for seconds, operations or money on a machine."""

from collections.abc import Mapping
from dataclasses import dataclass

from backends.base import Backend
from minigpt.config import PRESETS, load_config
from minigpt.errors import ResourceError, check_name
from minigpt.experiments.laws import FLOPS, Allocation, Law
from minigpt.machine.limits import Limits
from minigpt.model.gpt import parameter_count
from minigpt.plan.choose import place_of, plan_for
from minigpt.plan.plan import Plan, model_with_vocabulary
from minigpt.stages.table import FIRST


@dataclass(frozen=True)
class Rate:
    """Operations per second that a training reaches, and dollars per hour (0: one's own machine)."""

    flops: float
    dollars: float = 0.0


# Dense bfloat16 peak × 40 %, which good single-GPU trainings reach; typical prices of rented ones (2026), to be
# replaced by the offer at hand. Apple's are 40 % of the GPU's float32 peak.
MACHINES: dict[str, Rate] = {
    "h100": Rate(0.4 * 989e12, 2.5), "a100": Rate(0.4 * 312e12, 1.5), "rtx4090": Rate(0.4 * 165e12, 0.5),
    "m1": Rate(0.4 * 2.6e12), "m2": Rate(0.4 * 3.6e12), "m3": Rate(0.4 * 3.6e12), "m4": Rate(0.4 * 3.8e12),
    "m4-max": Rate(0.4 * 17.2e12),
}  # fmt: skip
HERE = "here"  # this machine, whose speed is measured


@dataclass(frozen=True)
class Bought:
    """The compute-optimal model and data for a budget, the loss that the law expects, seconds and dollars."""

    compute: float
    parameters: float
    tokens: float
    loss: float
    seconds: float
    dollars: float


def rate_of(machine: str) -> Rate:
    """Raises UsageError for a machine that is not in the table."""
    check_name("machine", machine, tuple(MACHINES))
    return MACHINES[machine]


def bought(
    law: Law | Allocation, rate: Rate, compute: float = 0.0, seconds: float = 0.0, dollars: float = 0.0, gpus: int = 1
) -> Bought:
    """What one of operations, seconds or dollars buys. Raises ValueError unless one of them is given.

    Money buys nothing on a machine without a price.
    """
    if (compute > 0) + (seconds > 0) + (dollars > 0) != 1:
        raise ValueError("give one of compute, seconds and dollars")
    if dollars:
        if not rate.dollars:
            raise ValueError("this machine has no price")
        seconds = dollars / rate.dollars / gpus * 3600
    compute = compute or seconds * rate.flops * gpus
    seconds = compute / rate.flops / gpus
    parameters, tokens = law.optimum(compute)
    price = seconds / 3600 * rate.dollars * gpus
    return Bought(compute, parameters, tokens, law.lowest(compute), seconds, price)


# ---- which preset ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Offer:
    """A preset trained for a budget: how many tokens it sees, and the loss that the law expects of it.

    `steps` are those of its own batches.
    """

    preset: str
    parameters: int
    tokens: float
    steps: int
    loss: float


def offers(law: Law | Allocation, seconds: float, rate: Rate, gpus: int = 1) -> list[Offer]:
    """What each preset would reach in so many seconds on a machine with this rate."""
    found = []
    for name in PRESETS:
        config = load_config(name)
        size = parameter_count(model_with_vocabulary(config))
        tokens = seconds * rate.flops * gpus / FLOPS / size
        batch = config.of(FIRST).batch_size * config.model.context
        found.append(Offer(name, size, tokens, int(tokens / batch), law.loss(size, tokens)))
    return found


def plans_here(framework: Backend, limits: Limits) -> dict[str, Plan]:
    """Preset -> the plan of its first stage on this machine, measured."""
    place = place_of(framework, limits)
    return {name: plan_for(load_config(name), {FIRST: 0}, framework, place) for name in PRESETS}


def rate_here(plans: Mapping[str, Plan]) -> Rate:
    """The highest rate that one of the presets reaches on this machine. Raises ResourceError when none fits it."""
    paces = [_pace(plan) for plan in plans.values()]
    rates = [FLOPS * plan.parameters / one for plan, one in zip(plans.values(), paces, strict=True) if one]
    if not rates:
        raise ResourceError("No preset fits this machine's memory.", "Give --machine or --flops-per-second.")
    return Rate(max(rates))


def offers_here(law: Law | Allocation, seconds: float, plans: Mapping[str, Plan]) -> list[Offer]:
    """What each preset would reach in so many seconds with the measured time of its steps."""
    found = []
    for name, plan in plans.items():
        pace, stage = _pace(plan), plan.of(FIRST)
        if pace and (steps := int(seconds / pace / stage.tokens * stage.steps)):
            tokens = steps * stage.tokens / stage.steps
            found.append(Offer(name, plan.parameters, tokens, steps, law.loss(plan.parameters, tokens)))
    return found


def _pace(plan: Plan) -> float | None:
    """Seconds of a token in training, with its share of the update; None for what is too large and was not measured."""
    stage = plan.of(FIRST)
    if stage is None or stage.step is None or stage.update is None or not stage.steps:
        return None
    return (stage.step + stage.update) * stage.steps / stage.tokens


def best(found: list[Offer]) -> Offer:
    """The offer with the lowest loss."""
    return min(found, key=lambda offer: offer.loss)
