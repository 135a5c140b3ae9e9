"""The curves of runs: which metrics there are, thinned to what a chart can show; speed and time left."""

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.pages.svg import thinned
from minigpt.watch.journal import Journal

POINTS = 1200  # of a curve on a page: two for each of 600 columns of pixels
NOT_DRAWN = {"tokens", "seconds", "waited", "rested", "time", "went_back_from", "validation_tokens", "validation_bytes",
             "validation_characters", "validation_pairs", "validation_prompts"}  # fmt: skip
RECENT = 50  # steps that say how fast training is now


class Journals:
    """The journals of several runs, each read on from where the last look ended. May be used by several threads."""

    def __init__(self) -> None:
        self._kept: dict[Path, Journal] = {}
        self._lock = threading.Lock()

    def of(self, directory: Path, stage: str, sketched: bool = False) -> Journal:
        """The journal of a run's stage, up to date; `sketched`: some of its lines are enough."""
        with self._lock:
            path = directory / stage / "metrics.jsonl"
            journal = self._kept.setdefault(path, Journal(path))
            journal.sketch() if sketched else journal.update()
            return journal


def metrics_of(journal: Journal) -> list[str]:
    """What can be drawn, the losses first; tokens per second are made from two others."""
    names = [name for name in journal.columns if name not in NOT_DRAWN]
    if {"tokens", "seconds"} <= journal.columns.keys():
        names.append("tokens_per_second")
    return sorted(names, key=lambda name: name.removeprefix("validation_") != "loss")


def curve(journal: Journal, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps (N,), values (N,)) of a metric, all of them."""
    if name != "tokens_per_second":
        return journal.series(name)
    (steps, tokens), (_, seconds) = journal.series("tokens"), journal.series("seconds")
    size = min(len(tokens), len(seconds))  # fewer of one only in a damaged journal
    with np.errstate(divide="ignore", invalid="ignore"):
        return steps[:size], np.where(seconds[:size] > 0, tokens[:size] / seconds[:size], np.nan)


def drawn(journal: Journal, limits: tuple[float, float] | None = None, points: int = POINTS) -> dict[str, Any]:
    """For a chart in a browser: {"metrics": {name: [steps, values]}, "marks", "damaged", "sketched"}.

    `limits` are the first and the last step that are shown; a neighbour on each side is kept, so that lines go on.
    """
    metrics = {}
    for name in metrics_of(journal):
        steps, values = curve(journal, name)
        if limits is not None:
            first, end = np.searchsorted(steps, limits[0]) - 1, np.searchsorted(steps, limits[1], "right") + 1
            steps, values = steps[max(0, first) : end], values[max(0, first) : end]
        steps, values = thinned(steps, values, points)
        metrics[name] = [_plain(steps), _plain(values)]
    return {"metrics": metrics, "marks": journal.marks[-100:], "damaged": journal.damaged, "sketched": journal.sketched}


def speed(journal: Journal, steps: int | None) -> dict[str, float | None]:
    """Tokens per second, seconds per step and seconds left, from the median of the last steps (None: not known)."""
    recent = [journal.series(name)[1][-RECENT:] for name in ("tokens", "seconds")]
    pair = [float(np.nanmedian(values)) if len(values) and not np.isnan(values).all() else None for values in recent]
    tokens, seconds = pair
    left = (steps - journal.step) * seconds if steps and seconds is not None else None
    rate = tokens / seconds if tokens and seconds else None
    return {"tokens_per_second": rate, "seconds_per_step": seconds, "left": left}


def _plain(values: Iterable[float]) -> list[float | int | None]:
    """Numbers for JSON, short ones; NaN becomes null."""
    found = []
    for value in values:
        number = float(value)
        found.append(None if number != number else int(number) if number == int(number) else float(f"{number:.6g}"))
    return found
