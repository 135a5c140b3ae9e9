"""The division of a step that fits a memory budget. The global batch, and so the result, stays the same."""

from collections.abc import Callable, Iterator

from minigpt.config import StageConfig

DIVISION = ("accumulation", "checkpointing", "loss_chunk")  # settings that change memory and time, not the result
CHUNK = 256  # tokens of a chunked loss: small beside everything else, and large enough for a fast matrix product


def fit(config: StageConfig, fits: Callable[[StageConfig], bool]) -> StageConfig | None:
    """The cheapest division of a step that `fits`; None when even the finest does not."""
    return next((divided for divided in divisions(config) if fits(divided)), None)


def divisions(config: StageConfig) -> Iterator[StageConfig]:
    """The settings as they are, then those that need less and less memory, the cheapest first.

    A chunked loss costs a second product with the output matrix; more parts cost little until a part is too small to
    keep the machine busy; gradient checkpointing costs a third of the time.
    """
    parts = [n for n in range(config.accumulation, config.batch_size + 1) if config.batch_size % n == 0]
    for checkpointing in (False, True) if not config.checkpointing else (True,):
        for accumulation in parts:
            for chunk in (config.loss_chunk, CHUNK) if not config.loss_chunk else (config.loss_chunk,):
                changed = {"accumulation": accumulation, "checkpointing": checkpointing, "loss_chunk": chunk}
                yield config.model_copy(update=changed)
