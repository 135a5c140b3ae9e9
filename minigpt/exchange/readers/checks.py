"""What independent readers find in an export, and what becomes of one that differs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from minigpt.errors import MiniGPTError


@dataclass(frozen=True)
class Check:
    """What an independent `reader` found: `found` must not be above `bound`. None: it was not asked, for a `reason`."""

    reader: str
    quantity: str
    found: float | None
    bound: float
    reason: str = ""

    @property
    def ok(self) -> bool:
        return self.found is None or self.found <= self.bound


Card = Callable[[list[Check]], str]  # the text of a model card that tells what was found


def refuse_differences(checks: Sequence[Check]) -> None:
    """Raises MiniGPTError that names the first check whose bound is broken (NaN breaks every bound)."""
    for check in checks:
        if not check.ok:
            message = f"The export is not what the run is: {check.reader} differs in {check.quantity}"
            hint = "Nothing was kept. Please report this: it is a mistake of minigpt or of the reader."
            raise MiniGPTError(f"{message} by {check.found:.3g}, the bound is {check.bound:g}.", hint)
