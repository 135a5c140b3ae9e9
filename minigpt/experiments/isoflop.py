"""Iso-FLOP curves: of models that cost the same operations, the best size (Hoffmann et al. 2022, approach 2)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minigpt.errors import DataError
from minigpt.experiments.fits import Point
from minigpt.experiments.laws import Frontier

TOLERANCE = 0.1  # budgets that are no farther apart are one: steps are whole numbers


@dataclass(frozen=True)
class Valley:
    """Runs of one compute budget: the size at which a parabola through their losses is lowest.

    `inside`: it lies between the sizes that were trained, else it is only guessed.
    """

    compute: float
    parameters: float
    loss: float
    runs: int
    inside: bool


def budgets(points: Sequence[Point], tolerance: float = TOLERANCE) -> list[list[Point]]:
    """The runs of each budget, the smallest budget first, the smallest size first."""
    found: list[list[Point]] = []
    for point in sorted(points, key=lambda p: p.compute):
        if found and point.compute <= found[-1][0].compute * (1 + tolerance):
            found[-1].append(point)
        else:
            found.append([point])
    return [sorted(group, key=lambda p: p.parameters) for group in found]


def compute_of(group: Sequence[Point]) -> float:
    """The budget of its runs: their geometric mean."""
    return math.exp(float(np.mean([math.log(p.compute) for p in group])))


def valley(group: Sequence[Point]) -> Valley | None:
    """The best size of a budget; None for fewer than three sizes, and where the parabola has no lowest place."""
    sizes = [p.parameters for p in group]
    if len(set(sizes)) < 3:
        return None
    bend, slope, offset = np.polyfit(np.log(sizes), [p.loss for p in group], 2)
    if bend <= 0:
        return None
    lowest = float(np.exp(-slope / (2 * bend)))
    loss = float(offset - slope**2 / (4 * bend))
    return Valley(compute_of(group), lowest, loss, len(group), min(sizes) <= lowest <= max(sizes))


def valleys(points: Sequence[Point], tolerance: float = TOLERANCE) -> list[Valley]:
    """The best size of each budget that has one."""
    return [found for group in budgets(points, tolerance) if (found := valley(group)) is not None]


def frontier(found: Sequence[Valley]) -> Frontier:
    """N = factor · C^exponent through the valleys. Raises DataError for fewer than two."""
    if len(found) < 2:
        raise DataError(f"{len(found)} budgets have a best size.", "Train at least three sizes at two budgets or more.")
    slope, offset = np.polyfit(np.log([v.compute for v in found]), np.log([v.parameters for v in found]), 1)
    return Frontier(float(np.exp(offset)), float(slope))
