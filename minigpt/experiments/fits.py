"""Scaling laws fitted to runs, with bootstrap intervals: what the next, larger run will reach.

The fit is Hoffmann et al.'s (2022, section 3.3): Huber's loss on the logarithms, from a grid of starts. All starts, and
all drawn samples of the bootstrap, go down at once: Levenberg's and Marquardt's steps on stacked 5 × 5 systems.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Generic, TypeVar

import numpy as np

from minigpt.errors import DataError
from minigpt.experiments.laws import FLOPS, Kaplan, Law, Power

HUBER = 1e-3  # Hoffmann et al.; residuals of logarithms above it count linearly
STARTS = tuple(product((0, 5, 10, 15, 20), (0, 5, 10, 15, 20), (-1, -0.5, 0, 0.5, 1), (0.2, 0.5, 1.0), (0.2, 0.5, 1.0)))
ITERATIONS, DRAWS, KEPT = 400, 200, 20  # steps of a descent, samples of the bootstrap, starts that go on to the end
PATIENCE = 20  # steps without any gain that end a descent
# Of a, b, e, alpha, beta: few runs drawn by the bootstrap may fit best with an exponent without end.
BOUNDS = np.array([-10.0, -10.0, -10.0, 0.0, 0.0]), np.array([60.0, 60.0, 5.0, 2.5, 2.5])

KAPLAN_BOUNDS = np.array([-20.0, -20.0, 0.05, 1e-3]), np.array([200.0, 200.0, 5.0, 3.0])  # of u, v, ratio, alpha_d

Curve = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # parameters (S, P) -> log L (S, n), slopes (S, n, P)


@dataclass(frozen=True)
class Point:
    """A finished run: N parameters, D tokens, and the held-out loss in nats per token.

    `body` are the parameters without embeddings, which Kaplan et al. count; 0: as many as `parameters`.
    """

    parameters: float
    tokens: float
    loss: float
    body: float = 0.0

    @property
    def compute(self) -> float:
        return FLOPS * self.parameters * self.tokens


Form = TypeVar("Form", Law, Kaplan)


@dataclass(frozen=True)
class Fitted(Generic[Form]):
    """A law with those of the bootstrap's samples."""

    law: Form
    drawn: tuple[Form, ...]
    points: tuple[Point, ...]

    def interval(self, figure: Callable[[Form], float], level: float = 0.95) -> tuple[float, float]:
        """(low, high) of anything that a law says, such as `lambda law: law.loss(1e9, 2e10)`."""
        values = [figure(law) for law in self.drawn]
        low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2]) if values else (-math.inf, math.inf)
        return float(low), float(high)


def fit(points: Sequence[Point], seed: int = 0, draws: int = DRAWS, delta: float = HUBER) -> Fitted[Law]:
    """The law that fits the runs best, and `draws` fitted to runs drawn with replacement.

    Raises DataError for fewer than 6 runs, or when all have one size or one number of tokens: five numbers are fitted.
    """
    sizes, lengths = {p.parameters for p in points}, {p.tokens for p in points}
    if len(points) < 6 or len(sizes) < 3 or len(lengths) < 3:
        found = f"{len(points)} runs of {len(sizes)} sizes and {len(lengths)} numbers of tokens"
        raise DataError(f"A scaling law cannot be fitted to {found}.", "It needs 6 runs, 3 sizes and 3 lengths.")
    starts = np.array(STARTS, np.float64)
    found, others = _with_bootstrap(_chinchilla(points), starts, points, seed, draws, delta, BOUNDS)
    return Fitted(_law(found), tuple(map(_law, others)), tuple(points))


def _with_bootstrap(
    curve: Curve, starts: np.ndarray, points: Sequence[Point], seed: int, draws: int, delta: float,
    bounds: tuple[np.ndarray | float, np.ndarray | float],
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """(the best parameters (P,), those of each sample (draws, P) of runs drawn with replacement)."""
    target, ones = np.log([p.loss for p in points]), np.ones((1, len(points)))
    rough, value = descend(curve, starts, target, ones, delta, 60, bounds)
    best, value = descend(curve, rough[np.argsort(value)[:KEPT]], target, ones, delta, bounds=bounds)
    first = best[np.argmin(value)]
    drawn = np.random.default_rng(seed).multinomial(len(points), np.full(len(points), 1 / len(points)), draws)
    drawn = drawn[(drawn > 0).sum(1) > 5].astype(np.float64)
    if not len(drawn):
        return first, np.zeros((0, len(first)))
    return first, descend(curve, np.repeat(first[None], len(drawn), 0), target, drawn, delta, bounds=bounds)[0]


def _law(p: np.ndarray) -> Law:
    return Law(E=float(np.exp(p[2])), A=float(np.exp(p[0])), B=float(np.exp(p[1])), alpha=float(p[3]), beta=float(p[4]))


def _chinchilla(points: Sequence[Point]) -> Curve:
    """log(e^(a - alpha log N) + e^(b - beta log D) + e^e) of parameters a, b, e, alpha, beta."""
    n, d = np.log([p.parameters for p in points]), np.log([p.tokens for p in points])

    def curve(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        a, b, e, alpha, beta = (column[:, None] for column in p.T)
        terms = np.stack(np.broadcast_arrays(a - alpha * n, b - beta * d, e))  # (3, S, n)
        value = np.logaddexp.reduce(terms)
        shares = np.exp(terms - value)
        return value, np.stack([*shares, -shares[0] * n, -shares[1] * d], axis=-1)

    return curve


def fit_kaplan(
    points: Sequence[Point], seed: int = 0, draws: int = DRAWS, delta: float = HUBER
) -> Fitted[Kaplan]:
    """Kaplan et al.'s L(N, D) that fits the runs best, N without embeddings (see `fit`, also for the errors)."""
    if len(points) < 5:
        raise DataError(f"A scaling law cannot be fitted to {len(points)} runs.", "It needs at least 5.")
    n, d = np.log([p.body or p.parameters for p in points]), np.log([p.tokens for p in points])

    def curve(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # of u, v, ratio, alpha_d
        u, v, ratio, alpha = (column[:, None] for column in p.T)
        terms = np.stack(np.broadcast_arrays(u - ratio * n, v - d))
        inside = np.logaddexp.reduce(terms)
        shares = np.exp(terms - inside)
        return alpha * inside, np.stack([alpha * shares[0], alpha * shares[1], -alpha * shares[0] * n, inside], axis=-1)

    starts = np.array(list(product((5, 10, 20, 30), (10, 20, 30), (0.5, 1.0), (0.05, 0.1, 0.3))), np.float64)
    found, others = _with_bootstrap(curve, starts, points, seed, draws, delta, KAPLAN_BOUNDS)
    return Fitted(_kaplan(found), tuple(map(_kaplan, others)), tuple(points))


def _kaplan(p: np.ndarray) -> Kaplan:
    u, v, ratio, alpha = p
    return Kaplan(float(np.exp(u / ratio)), float(np.exp(v)), float(ratio * alpha), float(alpha))


def fit_power(amounts: Sequence[float], losses: Sequence[float]) -> Power:
    """L = (scale / X)^exponent by least squares of the logarithms."""
    slope, offset = np.polyfit(np.log(amounts), np.log(losses), 1)
    return Power(float(np.exp(-offset / slope)), float(-slope))


def descend(
    curve: Curve, start: np.ndarray, target: np.ndarray, weights: np.ndarray, delta: float, steps: int = ITERATIONS,
    bounds: tuple[np.ndarray | float, np.ndarray | float] = (-np.inf, np.inf),
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """(parameters (S, P), objective (S,)) after going down from each start (S, P) to fit target (n,).

    The objective is Huber's loss (1964) with `delta`, each point counted as weights (S or 1, n) say. Levenberg and
    Marquardt's steps, with weights that make Huber's loss a sum of squares at each of them.
    """
    p, damping = start.copy(), np.full(len(start), 1e-2)

    def objective(value: np.ndarray) -> np.ndarray:
        r = np.abs(value - target)
        return (weights * np.where(r <= delta, r * r / 2, delta * (r - delta / 2))).sum(-1)

    value, slopes = curve(p)
    current = before = objective(value)
    for step in range(steps):
        if step and step % PATIENCE == 0:
            if (before - current <= 1e-7 * before).all():
                break
            before = current
        residual = value - target  # (S, n)
        w = weights * np.minimum(1.0, delta / np.maximum(np.abs(residual), 1e-300))
        system = np.einsum("sn,sni,snj->sij", w, slopes, slopes)
        right = np.einsum("sn,sni,sn->si", w, slopes, residual)
        diagonal = np.einsum("sii->si", system)
        lifted = system + (damping[:, None] * diagonal + 1e-14)[:, :, None] * np.eye(p.shape[1])
        tried = np.clip(p - np.linalg.solve(lifted, right[..., None])[..., 0], *bounds)
        with np.errstate(over="ignore", invalid="ignore"):
            new, new_slopes = curve(tried)
            reached = objective(new)
        better = np.isfinite(reached) & (reached < current)
        p, value = np.where(better[:, None], tried, p), np.where(better[:, None], new, value)
        slopes, current = np.where(better[:, None, None], new_slopes, slopes), np.where(better, reached, current)
        damping = np.clip(np.where(better, damping / 5, damping * 4), 1e-12, 1e12)
    return p, current
