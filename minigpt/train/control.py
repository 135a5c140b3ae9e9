"""What steers a training from outside while it runs, beside its configuration."""

from dataclasses import dataclass, field

from minigpt.config import StageConfig
from minigpt.errors import OutOfMemory, ResourceError, says_out_of_memory
from minigpt.events import Event, Progress, Report
from minigpt.machine.brake import Brake
from minigpt.plan.plan import Plan
from minigpt.train.stop import Stop

LONG_REST = 3.0  # seconds: what one piece of work that cannot be interrupted took beyond that is forgiven


@dataclass(frozen=True)
class Control:
    """`stop` is asked after each step; `less_memory` says that the last try ended for want of memory.

    `brake` keeps the run within its limits; without one it takes what it gets. `plan` says how
    a step is divided to fit the memory, and what was expected.
    """

    stop: Stop = field(default_factory=Stop)
    less_memory: bool = False
    brake: Brake | None = None
    plan: Plan | None = None

    def rest(self) -> float:
        """Sleep for as long as the brake says; returns the seconds that it has rested so far."""
        if self.brake is None:
            return 0.0
        self.brake.rest()
        return self.brake.rested

    def resting(self, report: Report) -> Report:
        """A report that also rests when work outside of training (data, measurements) says how far it is."""

        def rested(event: Event) -> None:
            report(event)
            if self.brake is not None and isinstance(event, Progress):
                self.brake.rest(LONG_REST)

        return rested


UNSTEERED = Control()


def smaller(config: StageConfig) -> StageConfig:
    """The settings that need less memory for the same result: more parts per step, then gradient checkpointing.

    Raises ResourceError when there is nothing left to divide.
    """
    more = [n for n in range(config.accumulation + 1, config.batch_size + 1) if config.batch_size % n == 0]
    if not more and config.checkpointing:
        raise ResourceError(
            "The memory runs out even with one row at a time and gradient checkpointing.",
            "Lower model.context or take a smaller model (--preset), or close other programs.",
        )
    return config.model_copy(update={"accumulation": more[0]} if more else {"checkpointing": True})


def out_of_memory(error: BaseException) -> OutOfMemory | None:
    """The error of a framework that found no memory, in our words; None for any other error."""
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and says_out_of_memory(str(error))):
        first = (str(error).splitlines() or ["MemoryError"])[0]
        return OutOfMemory(
            f"The memory ran out during training: {first[:200].rstrip('.')}.",
            "Raise accumulation (more parts per step, the same result) or take a smaller preset.",
        )
    return None
