"""What the curves of a training say about it: each rule looks at one thing that goes wrong, and says what to do."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from minigpt.watch.journal import Journal

ENOUGH = 8  # logged losses below which a curve says nothing
SMOOTH = 5  # losses that are averaged, so that one batch decides nothing


@dataclass(frozen=True)
class Finding:
    """What is likely wrong, by which figures it shows, and what to do. `certain`: seen in files, not only in curves."""

    name: str
    shows: str
    advice: str
    certain: bool = False


@dataclass(frozen=True)
class Curves:
    """A stage's curves as (steps, values) and its settings."""

    loss: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray]
    norm: tuple[np.ndarray, np.ndarray]
    settings: dict = field(default_factory=dict)
    skipped: int = 0

    @property
    def smooth(self) -> np.ndarray:
        """The training loss as running means."""
        values = self.loss[1][np.isfinite(self.loss[1])]
        width = min(SMOOTH, max(1, len(values) // 4))
        return np.convolve(values, np.full(width, 1 / width), "valid") if len(values) else values


def curves_of(journal: Journal, settings: dict) -> Curves:
    """The curves of a journal that was read whole."""
    skipped = [mark for mark in journal.marks if "skipped" in mark]
    names = ("loss", "validation_loss", "norm")
    return Curves(*(journal.series(name) for name in names), settings, len(skipped))


def rate_too_high(curves: Curves) -> Finding | None:
    """The loss ends above where it was, or leaves the path again and again, or is not finite."""
    smooth, advice = curves.smooth, f"Lower {_rate(curves.settings)} to a third, or warm up longer."
    if curves.skipped:
        shows = f"{curves.skipped} steps had a loss or gradient that is not finite, and were skipped"
        return Finding("rate too high", shows, advice)
    if len(curves.loss[1]) < ENOUGH:
        return None
    highest = float(np.nanmax(curves.loss[1]))
    if highest > 1.5 * curves.loss[1][0] + 0.5:
        shows = f"the training loss began at {curves.loss[1][0]:.2f} and rose to {highest:.2f}"
        return Finding("rate too high", shows, advice)
    lowest, end = float(smooth.min()), float(np.median(smooth[-max(1, len(smooth) // 4) :]))
    if end > 1.1 * lowest + 0.05 and int(smooth.argmin()) < 0.75 * len(smooth):
        shows = f"the training loss was {lowest:.2f} and is about {end:.2f} in the last quarter"
        return Finding("rate too high", shows, advice)
    if end > float(curves.loss[1][0]):
        shows = f"the training loss began at {curves.loss[1][0]:.2f} and ends at {end:.2f}"
        return Finding("rate too high", shows, advice)
    return None


def _rate(settings: dict) -> str:
    """The setting that decides how far a step goes, and its value."""
    name = "matrix_learning_rate" if settings.get("optimizer") == "muon" else "learning_rate"
    return f"{name} (it is {settings[name]:g})" if name in settings else "the learning rate"


def rate_too_low(curves: Curves) -> Finding | None:
    """The loss hardly moves, or still falls as a straight line, where a good one falls fast first and slowly then."""
    smooth = curves.smooth
    if len(curves.loss[1]) < ENOUGH or rate_too_high(curves):
        return None
    first, half, end = float(smooth[0]), float(smooth[len(smooth) // 2]), float(smooth[-1])
    drop = first - end
    advice = f"Raise {_rate(curves.settings)}, for example to three times as much."
    if abs(drop) < 0.02 * first:
        return Finding("rate too low", f"the training loss went from {first:.3f} to {end:.3f} only", advice)
    if drop > 0 and half - end > 0.4 * drop:
        shows = f"the second half of the steps brought {(half - end) / drop:.0%} of the whole fall; it still falls"
        return Finding("rate too low", shows, f"{advice} Or train longer.")
    return None


def overfitting(curves: Curves) -> Finding | None:
    """The held-out loss rises while the training loss falls."""
    steps, values = curves.validation
    steps, values = steps[steps > 0], values[steps > 0]
    if len(values) < 3:
        return None
    best = int(values.argmin())
    if best == len(values) - 1 or values[-1] <= 1.02 * values[best] + 0.01:
        return None
    smooth = curves.smooth
    if len(smooth) < 2 or smooth[-1] > smooth[len(smooth) * best // len(values)]:
        return None  # the training loss rises, too: that is no over-fitting
    shows = f"since step {int(steps[best]):,} the held-out loss rose from {values[best]:.3f} to {values[-1]:.3f}"
    advice = f"Train for about {int(steps[best]):,} steps, whose weights are kept, or with more data or dropout."
    return Finding("over-fitting", f"{shows}, while the training loss fell", advice)


def always_clipped(curves: Curves) -> Finding | None:
    """Nearly every gradient is cut: the real rate is smaller than the one that was set, and differs by step."""
    clip, norms = curves.settings.get("grad_clip", 0), curves.norm[1]
    norms = norms[np.isfinite(norms)]
    if not clip or len(norms) < ENOUGH or (norms > 2 * clip).mean() < 0.9:
        return None
    share, middle = (norms > clip).mean(), float(np.median(norms))
    shows = f"{share:.0%} of the gradients are longer than grad_clip = {clip:g} (median {middle:.3g})"
    return Finding("always clipped", shows, f"Set grad_clip to about {2 * middle:.2g}.")


def spikes(curves: Curves) -> list[int]:
    """The logged steps whose loss is far above those before (1.3 × their median + 0.3) and whose gradient is double."""
    (steps, values), found = curves.loss, []
    norms = dict(zip(*curves.norm, strict=True))
    for i in range(4, len(values)):
        before = values[max(0, i - 20) : i]
        usual = np.median([norms.get(step, np.nan) for step in steps[max(0, i - 20) : i]])
        if values[i] > 1.3 * np.median(before) + 0.3 and norms.get(steps[i], np.inf) > 2 * usual:
            found.append(int(steps[i]))
    return found


RULES: tuple[Callable[[Curves], Finding | None], ...] = (rate_too_high, rate_too_low, overfitting, always_clipped)
