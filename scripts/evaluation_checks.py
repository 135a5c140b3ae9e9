"""How often the intervals hold the truth and how often the tests err, by simulation.

    python scripts/evaluation_checks.py [--samples 4000]

Prints one line per check and ends with 1 when an interval of 95 % holds the truth in less than 93 % or more than 97 %
of the samples, or a test calls equal models different in more than 5.5 % of them. 4,000 samples take some minutes, and
have a standard error of 0.35 points. With fewer, what is outside by less than two standard errors is called unsure.
"""

import argparse
import sys
from collections.abc import Callable

import numpy as np

from minigpt.evaluate.calibration import error_interval
from minigpt.evaluate.intervals import bootstrap, jackknife, mean, wilson, with_ones
from minigpt.evaluate.ranking import win_rate
from minigpt.evaluate.significance import mcnemar, paired_bootstrap, paired_interval, permutation

COVERAGE, TYPE_ONE = (0.93, 0.97), 0.055
RESAMPLES, ENOUGH = 1000, 4000
Draw = Callable[[np.random.Generator], bool]


def ratio(sums: np.ndarray) -> np.ndarray:
    return sums[..., 0] / sums[..., 1]


def holds(found, truth: float) -> bool:
    return found.low <= truth <= found.high


def documents(generator: np.random.Generator) -> np.ndarray:
    """150 documents of very different lengths: (nats, tokens), 2 nats per token with a document's own ease."""
    tokens = generator.integers(5, 200, 150)
    return np.stack([tokens * generator.gamma(16, 2 / 16, 150), tokens], axis=1)


def mean_of_normal(generator: np.random.Generator) -> bool:
    return holds(bootstrap(with_ones(generator.normal(1, 1, 100)), mean, 0, resamples=RESAMPLES), 1.0)


def percentile_of_normal(generator: np.random.Generator) -> bool:
    rows = with_ones(generator.normal(1, 1, 100))
    return holds(bootstrap(rows, mean, 0, "percentile", resamples=RESAMPLES), 1.0)


def loss_by_documents(generator: np.random.Generator) -> bool:
    return holds(bootstrap(documents(generator), ratio, 0, resamples=RESAMPLES), 2.0)


def perplexity_by_documents(generator: np.random.Generator) -> bool:
    found = bootstrap(documents(generator), lambda sums: np.exp(ratio(sums)), 0, resamples=RESAMPLES)
    return holds(found, float(np.exp(2.0)))


def share(generator: np.random.Generator) -> bool:
    return holds(wilson(generator.binomial(200, 0.85), 200), 0.85)


def wins_with_ties(generator: np.random.Generator) -> bool:
    return holds(win_rate(generator.choice([0, 0.5, 1], 150, p=[0.3, 0.2, 0.5])), 0.6)


def paired_difference(generator: np.random.Generator) -> bool:
    ease = generator.normal(size=100)
    a, b = (with_ones(ease + generator.normal(shift, 0.5, 100)) for shift in (0.0, 0.2))
    low, high = paired_interval(a, b, resamples=RESAMPLES)
    return low <= 0.2 <= high


def jackknife_of_ratio(generator: np.random.Generator) -> bool:
    rows = documents(generator)
    return holds(jackknife(float(ratio(rows.sum(0))), ratio(rows.sum(0) - rows)), 2.0)


def boastful_calibration(generator: np.random.Generator) -> bool:
    confidence = generator.uniform(0.5, 1.0, 1000)
    return holds(error_interval(confidence, generator.random(1000) < confidence - 0.2), 0.2)


def equal_shares(generator: np.random.Generator) -> bool:
    ease = generator.beta(2, 1, 120)
    a, b = generator.random((2, 120)) < ease
    return mcnemar(int((b & ~a).sum()), int((a & ~b).sum())) < 0.05


def equal_scores(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    ease = generator.exponential(size=100)
    return with_ones(ease + generator.exponential(size=100)), with_ones(ease + generator.exponential(size=100))


def permuted(generator: np.random.Generator) -> bool:
    return permutation(*equal_scores(generator), swaps=RESAMPLES) < 0.05


def drawn_again(generator: np.random.Generator) -> bool:
    return paired_bootstrap(*equal_scores(generator), resamples=RESAMPLES) < 0.05


INTERVALS: list[Draw] = [
    mean_of_normal, percentile_of_normal, loss_by_documents, perplexity_by_documents, share, wins_with_ties,
    paired_difference, jackknife_of_ratio, boastful_calibration,
]  # fmt: skip
TESTS: list[Draw] = [equal_shares, permuted, drawn_again]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=ENOUGH)
    samples, failed = parser.parse_args().samples, 0
    for draw in [*INTERVALS, *TESTS]:
        generator = np.random.default_rng(0)
        found = sum(draw(generator) for _ in range(samples)) / samples
        good = COVERAGE[0] <= found <= COVERAGE[1] if draw in INTERVALS else found <= TYPE_ONE
        beyond = max(COVERAGE[0] - found, found - COVERAGE[1]) if draw in INTERVALS else found - TYPE_ONE
        unsure = not good and samples < ENOUGH and beyond < 2 * (0.05 * 0.95 / samples) ** 0.5
        verdict = "ok" if good else "unsure: more --samples" if unsure else "OUTSIDE"
        kind = "interval holds the truth" if draw in INTERVALS else "test errs without a difference"
        print(f"{draw.__name__:26} {kind:32} {found:7.2%}  {verdict}", flush=True)
        failed += verdict == "OUTSIDE"
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
