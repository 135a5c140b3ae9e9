"""Scaling laws: the loss of a model of N parameters after D tokens, and the best N and D for a budget.

N are parameters, D tokens, C = 6 N D floating-point operations, L nats per token.
"""

import math
from dataclasses import dataclass

FLOPS = 6.0  # operations per parameter and token, forwards and backwards
PF_DAY = 8.64e19  # Kaplan's unit of compute in operations


@dataclass(frozen=True)
class Law:
    """L(N, D) = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, eq. 2)."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def loss(self, parameters: float, tokens: float) -> float:
        return self.E + self.A / parameters**self.alpha + self.B / tokens**self.beta

    def optimum(self, compute: float) -> tuple[float, float]:
        """(N, D) with the lowest loss for so many operations (Hoffmann et al. 2022, eq. 4)."""
        share = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        parameters = share * (compute / FLOPS) ** self.exponent
        return parameters, compute / FLOPS / parameters

    def lowest(self, compute: float) -> float:
        """The loss of the best model for so many operations."""
        return self.loss(*self.optimum(compute))

    @property
    def exponent(self) -> float:
        """The best N grows as C to this power."""
        return self.beta / (self.alpha + self.beta)

    def tokens_for(self, parameters: float) -> float:
        """The tokens after which a model of this size is the best one for what it has cost."""
        share = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        return (parameters / share) ** (1 / self.exponent) / parameters

    def compute_for(self, loss: float) -> float:
        """The least operations that reach a loss. Raises ValueError for one at or below E, which none reaches."""
        if loss <= self.E:
            raise ValueError(f"no compute reaches a loss of {loss:.4g}: this law ends at {self.E:.4g}")
        low, high = 1.0, 1e60
        while high / low > 1 + 1e-9:
            middle = math.sqrt(low * high)
            low, high = (middle, high) if self.loss(*self.optimum(middle)) > loss else (low, middle)
        return high


@dataclass(frozen=True)
class Kaplan:
    """L(N, D) = ((Nc / N)^(alpha_n / alpha_d) + Dc / D)^alpha_d (Kaplan et al. 2020, eq. 1.5). N without embeddings."""

    n_c: float
    d_c: float
    alpha_n: float
    alpha_d: float

    def loss(self, parameters: float, tokens: float) -> float:
        return ((self.n_c / parameters) ** (self.alpha_n / self.alpha_d) + self.d_c / tokens) ** self.alpha_d


@dataclass(frozen=True)
class Power:
    """L(X) = (scale / X)^exponent: one thing is short, all else is plentiful (Kaplan et al. 2020, eq. 1.1-1.3)."""

    scale: float
    exponent: float

    def loss(self, amount: float) -> float:
        return (self.scale / amount) ** self.exponent


@dataclass(frozen=True)
class Frontier:
    """The best size for a budget as a power law: N = factor · C^exponent."""

    factor: float
    exponent: float

    def parameters(self, compute: float) -> float:
        return self.factor * compute**self.exponent


@dataclass(frozen=True)
class Allocation:
    """What Kaplan et al. (2020, section 6) recommend: the size by a frontier, the loss by a power law of the compute.

    N is without embeddings. D = C / 6 N, though at the batch size they recommend a part of the compute is spent on
    larger batches; their L(N, D), of models trained to the end, says what other sizes reach.
    """

    frontier: Frontier
    by_compute: Power
    form: Kaplan

    def loss(self, parameters: float, tokens: float) -> float:
        return self.form.loss(parameters, tokens)

    def optimum(self, compute: float) -> tuple[float, float]:
        parameters = self.frontier.parameters(compute)
        return parameters, compute / FLOPS / parameters

    def lowest(self, compute: float) -> float:
        return self.by_compute.loss(compute)


# Hoffmann et al. 2022, approach 3, with the digits of the paper's source (the text has 1.69, 0.34 and 0.28); Besiroglu
# et al. 2024, who fitted the same runs again and found that the first fit had not converged.
CHINCHILLA = Law(1.6934, 406.4, 410.7, 0.3392, 0.2849)
REPLICATION = Law(1.8172, 482.01, 2085.43, 0.3478, 0.3658)
# Kaplan et al. 2020, tables 2, 5 and 6: N without embeddings; compute at the critical batch size, in operations.
KAPLAN = Kaplan(6.4e13, 1.8e13, 0.076, 0.103)
KAPLAN_PARAMETERS, KAPLAN_TOKENS = Power(8.8e13, 0.076), Power(5.4e13, 0.095)
KAPLAN_COMPUTE = Power(3.1e8 * PF_DAY, 0.050)
KAPLAN_FRONTIER = Frontier(1.3e9 / PF_DAY**0.73, 0.73)
KAPLAN_BUDGET = Allocation(KAPLAN_FRONTIER, KAPLAN_COMPUTE, KAPLAN)
TOKENS_PER_PARAMETER = 20.0  # what approaches 1 and 2 of Hoffmann et al. come to
PUBLISHED: dict[str, Law | Allocation] = {
    "replication": REPLICATION, "chinchilla": CHINCHILLA, "kaplan": KAPLAN_BUDGET,
}  # fmt: skip
