"""What steers the training of a run from outside while it goes on, beside its configuration."""

from dataclasses import dataclass, field

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

    def resting(self, report: Report) -> Report:
        """A report that also rests when work outside of training (data, measurements) says how far it is."""

        def rested(event: Event) -> None:
            report(event)
            if self.brake is not None and isinstance(event, Progress):
                self.brake.rest(LONG_REST)

        return rested

    @property
    def rested(self) -> float:
        """Seconds that were rested so far, to keep the CPU limit."""
        return self.brake.rested if self.brake is not None else 0.0


UNSTEERED = Control()
