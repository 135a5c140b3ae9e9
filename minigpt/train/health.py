"""Is a training well? Losses that are not finite, and losses that leave the path of those before them."""

import math
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

WINDOW = 50  # losses that say what is normal
SETTLED = 10  # fewer say nothing yet
HIGH_IN_A_ROW = 3  # one odd batch is no spike

Verdict = Literal["good", "skip", "failing"]


@dataclass
class Health:
    """What the losses so far tell; part of a checkpoint's state, so that a resumed run judges as it would have.

    `offset` is how many batches earlier rollbacks jumped over.
    """

    recent: list[float] = field(default_factory=list)  # the last normal losses
    skipped: int = 0  # steps without an update, in all
    streak: int = 0  # of them in a row until now
    high: int = 0  # losses far above the recent ones in a row until now
    rollbacks: int = 0
    offset: int = 0

    def judge(self, loss: float, norm: float, learns: bool, bad_steps: int, spike: float) -> Verdict:
        """What to do with a step of this loss and gradient norm: use it, skip it, or go back.

        A batch without anything to learn (`learns` is false) is skipped. Not finite: skipped, and failing after
        `bad_steps` in a row. Above `spike` × the median of the recent losses + 0.5: counted, and failing when that
        happens three times in a row (`spike` 0 turns this off).
        """
        if not learns:
            self.skipped += 1
            return "skip"
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self.skipped += 1
            self.streak += 1
            return "failing" if self.streak >= bad_steps else "skip"
        self.streak = 0
        if spike and len(self.recent) >= SETTLED and loss > spike * median(self.recent) + 0.5:
            self.high += 1
            return "failing" if self.high >= HIGH_IN_A_ROW else "good"
        self.high = 0
        self.recent = [*self.recent[1 - WINDOW :], loss]
        return "good"

    def reason(self, loss: float) -> str:
        """Why a step is failing, as the beginning of a sentence."""
        if self.streak:
            return f"the loss or its gradient was not finite in {self.streak} steps in a row"
        return f"the loss jumped to {loss:.3g} from about {median(self.recent):.3g} and stayed there"
