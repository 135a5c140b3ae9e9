"""How a step fits a memory budget: in micro-batches, with activation checkpointing, with a chunked loss. The global
batch, and so the result, stays the same."""

from collections.abc import Callable, Iterator

from minigpt.errors import ResourceError
from minigpt.sections import StageConfig

DIVISION = ("grad_accumulation", "activation_checkpointing", "loss_chunk")  # they change memory, not the result
CHUNK = 256  # tokens of a chunked loss: small beside everything else, and large enough for a fast matrix product


def fit(config: StageConfig, fits: Callable[[StageConfig], bool]) -> StageConfig | None:
    """The cheapest settings with which a step `fits`; None when even the thriftiest do not."""
    return next((divided for divided in divisions(config) if fits(divided)), None)


def divisions(config: StageConfig) -> Iterator[StageConfig]:
    """The settings as they are, then those that need less and less memory, the cheapest first.

    A chunked loss costs a second product with the output matrix; more micro-batches cost little until one is too small
    to keep the machine busy; activation checkpointing costs a third of the time.
    """
    counts = [n for n in range(config.grad_accumulation, config.batch_size + 1) if config.batch_size % n == 0]
    for checkpointing in (False, True) if not config.activation_checkpointing else (True,):
        for count in counts:
            for chunk in (config.loss_chunk, CHUNK) if not config.loss_chunk else (config.loss_chunk,):
                yield config.model_copy(update=dict(zip(DIVISION, (count, checkpointing, chunk), strict=True)))


def smaller(config: StageConfig) -> StageConfig:
    """The settings that need less memory for the same result: more micro-batches, then activation checkpointing.

    Raises ResourceError when there is nothing left to divide.
    """
    more = [n for n in range(config.grad_accumulation + 1, config.batch_size + 1) if config.batch_size % n == 0]
    if not more and config.activation_checkpointing:
        raise ResourceError(
            "The memory runs out even with one row at a time and activation checkpointing.",
            "Lower model.context or take a smaller model (--preset), or close other programs.",
        )
    return config.model_copy(update={"grad_accumulation": more[0]} if more else {"activation_checkpointing": True})
