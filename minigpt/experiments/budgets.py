"""What a budget buys: the best model for seconds, operations or money on a machine."""

from dataclasses import dataclass

from minigpt.errors import check_name
from minigpt.experiments.laws import Law


@dataclass(frozen=True)
class Rate:
    """Operations per second that a training reaches, and dollars per hour (0: one's own machine)."""

    flops: float
    dollars: float = 0.0


# Dense bfloat16 peak × 40 %, which good single-GPU trainings reach; typical prices of rented ones (2026), to be
# replaced by the offer at hand. Apple's are 40 % of the GPU's float32 peak.
MACHINES: dict[str, Rate] = {
    "h100": Rate(0.4 * 989e12, 2.5), "a100": Rate(0.4 * 312e12, 1.5), "rtx4090": Rate(0.4 * 165e12, 0.5),
    "m1": Rate(0.4 * 2.6e12), "m4": Rate(0.4 * 3.8e12), "m4-max": Rate(0.4 * 17.2e12),
}  # fmt: skip


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
    law: Law, rate: Rate, compute: float = 0.0, seconds: float = 0.0, dollars: float = 0.0, gpus: int = 1
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
    return Bought(compute, parameters, tokens, law.loss(parameters, tokens), seconds, price)
