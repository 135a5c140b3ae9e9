"""How far raters agree beyond chance: Cohen's and Fleiss' kappa, Krippendorff's alpha, intraclass correlation."""

from collections.abc import Hashable, Sequence

import numpy as np


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable], weights: str = "none") -> float:
    """Agreement of two raters (Cohen 1960): 1 is perfect, 0 is what chance gives, NaN when both always say the same.

    `weights` "linear" or "quadratic" forgive near misses of ordered categories (Cohen 1968).
    """
    names, numbers = np.unique([*first, *second], return_inverse=True)
    size, pairs = len(names), numbers.reshape(2, -1)  # (2, n)
    table = np.zeros((size, size))
    np.add.at(table, (pairs[0], pairs[1]), 1.0)
    expected = np.outer(table.sum(1), table.sum(0)) / table.sum()
    apart = np.abs(np.subtract.outer(np.arange(size), np.arange(size))).astype(np.float64)
    cost = {"none": apart > 0, "linear": apart, "quadratic": apart**2}[weights]
    chance = float((cost * expected).sum())
    return 1.0 - float((cost * table).sum()) / chance if chance else np.nan


def fleiss_kappa(table: np.ndarray) -> float:
    """Agreement of several raters (Fleiss 1971): table (subjects, categories) counts who put a subject where.

    Every subject has the same number of raters. NaN when all subjects are in one category.
    """
    table = np.asarray(table, np.float64)
    raters = table.sum(1)
    if not (raters == raters[0]).all() or raters[0] < 2:
        raise ValueError(f"every subject needs the same number of raters, at least 2; found {sorted(set(raters))}")
    agreed = ((table**2).sum(1) - raters) / (raters * (raters - 1))  # (subjects,)
    chance = float(((table.sum(0) / table.sum()) ** 2).sum())
    return (float(agreed.mean()) - chance) / (1 - chance) if chance < 1 else np.nan


def krippendorff_alpha(ratings: np.ndarray, level: str = "nominal") -> float:
    """Agreement of any raters, also where some rated less (Krippendorff 2011): ratings (raters, units), NaN: none.

    `level` is "nominal", "ordinal" or "interval". NaN when no unit has two ratings or all ratings are the same.
    """
    ratings = np.asarray(ratings, np.float64)
    values = np.unique(ratings[~np.isnan(ratings)])
    counts = (ratings[:, :, None] == values).sum(0).astype(np.float64)  # (units, values)
    counts = counts[counts.sum(1) >= 2]
    total = counts.sum(0)  # (values,)
    if not len(counts) or (total > 0).sum() < 2:
        return np.nan
    pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(len(values))
    observed = (pairs / (counts.sum(1) - 1)[:, None, None]).sum(0)  # coincidences (values, values)
    expected = (np.outer(total, total) - np.diag(total)) / (total.sum() - 1)
    distance = _distance(values, total, level)
    return 1.0 - float((observed * distance).sum() / (expected * distance).sum())


def _distance(values: np.ndarray, total: np.ndarray, level: str) -> np.ndarray:
    """The squared distance of each two values: (values, values)."""
    if level == "nominal":
        return 1.0 - np.eye(len(values))
    if level == "ordinal":  # how many ratings lie between two values, each of the two counted half
        values = np.cumsum(total) - total / 2
    elif level != "interval":
        raise ValueError(f"level is nominal, ordinal or interval, not {level!r}")
    return np.subtract.outer(values, values) ** 2


def icc(ratings: np.ndarray, kind: str = "2,1") -> float:
    """Intraclass correlation of scores (subjects, raters), none missing (Shrout and Fleiss 1979).

    `kind`: "1,1" each subject has raters of its own, "2,1" raters drawn from many rate all, "3,1" these raters alone
    matter; "1,k", "2,k" and "3,k" for the mean of the raters.
    """
    ratings = np.asarray(ratings, np.float64)
    n, k = ratings.shape
    grand, subjects, raters = ratings.mean(), ratings.mean(1), ratings.mean(0)
    between = k * ((subjects - grand) ** 2).sum() / (n - 1)
    within = ((ratings - subjects[:, None]) ** 2).sum() / (n * (k - 1))
    judges = n * ((raters - grand) ** 2).sum() / (k - 1)
    rest = (within * n * (k - 1) - judges * (k - 1)) / ((n - 1) * (k - 1))
    with np.errstate(divide="ignore", invalid="ignore"):  # scores that are all the same agree in nothing
        return float({
            "1,1": (between - within) / (between + (k - 1) * within),
            "2,1": (between - rest) / (between + (k - 1) * rest + k * (judges - rest) / n),
            "3,1": (between - rest) / (between + (k - 1) * rest),
            "1,k": (between - within) / between,
            "2,k": (between - rest) / (between + (judges - rest) / n),
            "3,k": (between - rest) / between,
        }[kind])  # fmt: skip
