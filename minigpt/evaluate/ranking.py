"""Who is better by votes: win rates, Bradley-Terry and Elo, raters who are not all reliable, the votes that are needed.

A vote is (first, second, result): the numbers of two players, and 1.0 when the first won, 0.0 when the second did, 0.5
for a tie.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from minigpt.evaluate.intervals import LEVEL, Figure, bootstrap, interval, wilson, with_ones

ELO_SCALE = 400 / math.log(10)  # Elo points per natural logarithm of the odds
RESAMPLES = 500
ITERATIONS = 10_000
PRECISE = 1e-10

Vote = tuple[int, int, float]


def win_rate(results: Sequence[float], seed: int = 0) -> Figure:
    """The share of votes won, ties counted half: Wilson's interval, or the bootstrap's when there are ties."""
    results = np.asarray(results, np.float64)
    if np.isin(results, (0, 1)).all():
        return wilson(float(results.sum()), len(results))
    return bootstrap(with_ones(results), seed=seed)


# ---- strengths ---------------------------------------------------------------------------------------------


def wins_of(votes: Sequence[Vote], players: int) -> np.ndarray:
    """(players, players): how often the row's player beat the column's, a tie being half a win for both."""
    wins = np.zeros((players, players))
    for first, second, result in votes:
        wins[first, second] += result
        wins[second, first] += 1 - result
    return wins


def bradley_terry(wins: np.ndarray, prior: float = 0.0) -> np.ndarray:
    """Strengths (players,) with P(i beats j) = sigmoid(s_i - s_j), their mean 0: the likeliest ones (Hunter 2004).

    `prior` votes, half won, are added to every pair: with 0 a player who never lost has no finite strength, and the
    result is what `ITERATIONS` steps reach.
    """
    wins = np.asarray(wins, np.float64) + prior / 2 * (1 - np.eye(len(wins)))
    games, won, strength = wins + wins.T, wins.sum(1), np.ones(len(wins))
    for _ in range(ITERATIONS):
        before = strength
        strength = won / (games / (strength[:, None] + strength)).sum(1)
        strength = np.maximum(strength / np.exp(np.log(np.maximum(strength, 1e-300)).mean()), 1e-12)
        if np.abs(strength - before).max() < PRECISE * strength.max():
            break
    return np.log(strength) - np.log(strength).mean()


def rated(votes: Sequence[Vote], players: int, seed: int = 0, centre: float = 1000.0) -> list[Figure]:
    """Bradley-Terry strengths in Elo points around `centre`, with bootstrap intervals over the votes.

    One vote half won is added to every pair, so that every strength is finite.
    """
    rows = np.zeros((len(votes), players * players))
    for row, vote in zip(rows, votes, strict=True):
        row[:] = wins_of([vote], players).ravel()

    def points(sums: np.ndarray) -> np.ndarray:
        return centre + ELO_SCALE * bradley_terry(sums.reshape(players, players), prior=1.0)

    generator, value = np.random.default_rng(seed), points(rows.sum(0))
    drawn = np.array([points(generator.multinomial(len(votes), np.full(len(votes), 1 / len(votes))) @ rows)
                      for _ in range(RESAMPLES)])  # (R, players)  # fmt: skip
    played = [int(sum(i in vote[:2] for vote in votes)) for i in range(players)]
    return [Figure(float(value[i]), *interval(value[i], drawn[:, i]), played[i]) for i in range(players)]


def elo(votes: Sequence[Vote], players: int, k: float = 16.0, start: float = 1000.0) -> np.ndarray:
    """Ratings (players,) after the votes in their order (Elo 1978): the winner takes k (1 - expected) points.

    Depends on the order, and the last votes count most: `rated` is the better figure for models that do not change.
    """
    ratings = np.full(players, start)
    for first, second, result in votes:
        expected = 1 / (1 + 10 ** ((ratings[second] - ratings[first]) / 400))
        moved = k * (result - expected)
        ratings[first] += moved
        ratings[second] -= moved
    return ratings


# ---- raters ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Consensus:
    """`labels` (items, classes): probability of each item's class. `raters` (raters, true class, label said)."""

    labels: np.ndarray
    raters: np.ndarray
    classes: np.ndarray  # (classes,): how frequent each is

    @property
    def reliability(self) -> np.ndarray:
        """(raters,): the probability that a rater says the true class."""
        return np.einsum("rcc,c->r", self.raters, self.classes)


def dawid_skene(ratings: np.ndarray, classes: int, iterations: int = 1000) -> Consensus:
    """The likely true classes of ratings (items, raters) of 0 … classes - 1, -1 where a rater said nothing.

    Expectation maximisation from the majority's labels (Dawid and Skene 1979): raters who disagree with the others
    count less.
    """
    ratings = np.asarray(ratings)
    said = (ratings[:, :, None] == np.arange(classes)).astype(np.float64)  # (items, raters, classes)
    labels = said.sum(1) / np.maximum(said.sum((1, 2)), 1)[:, None]
    labels[labels.sum(1) == 0] = 1 / classes
    for _ in range(iterations):
        before = labels
        frequency = labels.mean(0)  # (classes,)
        confusion = np.einsum("it,irl->rtl", labels, said)
        confusion = confusion / np.maximum(confusion.sum(-1, keepdims=True), 1e-300)
        logs = np.log(np.maximum(frequency, 1e-300)) + np.einsum(
            "irl,rtl->it", said, np.log(np.maximum(confusion, 1e-300))
        )
        labels = np.exp(logs - logs.max(1, keepdims=True))
        labels = labels / labels.sum(1, keepdims=True)
        if np.abs(labels - before).max() < PRECISE:
            break
    return Consensus(labels, confusion, frequency)


# ---- how to vote -------------------------------------------------------------------------------------------


def needed_votes(win_rate: float, power: float = 0.8, level: float = LEVEL) -> int:
    """Votes (ties not counted) with which a true win rate is told from 0.5 with probability `power`.

    The test of a share against a half: n = ((z_a / 2 + z_b √(p (1 - p))) / (p - 1/2))². Raises ValueError for 0.5.
    """
    if win_rate == 0.5 or not 0 < win_rate < 1:
        raise ValueError(f"a win rate of {win_rate} cannot be told from 0.5 by any number of votes")
    normal = NormalDist()
    above, below = normal.inv_cdf((1 + level) / 2), normal.inv_cdf(power)
    return math.ceil(((above / 2 + below * math.sqrt(win_rate * (1 - win_rate))) / (win_rate - 0.5)) ** 2)


@dataclass(frozen=True)
class PositionBias:
    """`left`: the share of votes for what stood first, ties half. `steady`: of pairs shown in both orders, the share
    whose winner stayed the same. A judge without bias has 0.5 and 1."""

    left: Figure
    steady: Figure


def position_bias(both_orders: Sequence[tuple[float, float]], seed: int = 0) -> PositionBias:
    """From pairs shown twice: the result for what stood first in (A, B), and for what stood first in (B, A)."""
    results = np.asarray(both_orders, np.float64).reshape(-1, 2)
    steady = np.isclose(results.sum(1), 1.0)
    left = bootstrap(with_ones(results.mean(1)), seed=seed)  # a pair is one row: its two votes are not independent
    return PositionBias(left, wilson(float(steady.sum()), len(steady)))
