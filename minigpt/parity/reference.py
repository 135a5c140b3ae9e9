"""What both backends are held against, NumPy in float64, and how a difference is measured."""

from dataclasses import dataclass

import numpy as np

from backends import REFERENCE, get_backend
from backends.base import Backend


@dataclass(frozen=True)
class Row:
    """One comparison: the largest `difference` found for `quantity` of `case`, and whether it is as it should be."""

    check: str  # "operation", "model", "control", …
    case: str
    quantity: str  # "value", "gradient", "dtype", "shape", …
    pair: str  # "mlx vs numpy"
    difference: float
    bound: float
    ok: bool


def row(check: str, case: str, quantity: str, pair: str, difference: float, bound: float) -> Row:
    """A Row that is ok when the difference is within the bound (NaN is not)."""
    return Row(check, case, quantity, pair, float(difference), float(bound), bool(difference <= bound))


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest |found - expected| relative to the largest |expected|; absolute for integers and booleans.

    Infinite when the shapes differ or something is not finite: nothing that a bound could excuse.
    """
    if found.shape != expected.shape:
        return float("inf")
    if found.size == 0:
        return 0.0
    absolute = np.abs(found.astype(np.float64) - expected.astype(np.float64)).max()
    scale = np.abs(expected).max() if expected.dtype.kind == "f" else 1.0
    relative = float(absolute / (scale or 1.0))
    return relative if np.isfinite(relative) else float("inf")


def reference() -> Backend:
    """The NumPy backend: values of exact arithmetic and central differences good to about nine digits."""
    return get_backend(REFERENCE)
