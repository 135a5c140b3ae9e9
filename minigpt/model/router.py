"""Which experts a token goes to, with what weight, and what keeps the experts equally busy."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from backends.base import Array, Backend
from backends.tree import Tree
from minigpt.errors import UsageError
from minigpt.sections import ModelConfig

BIAS = "e_score_correction_bias"  # DeepSeek's name
DEVIATION = 0.02  # of the router's first weights


@dataclass(frozen=True)
class Route:
    """`gates` (B, T, E) float32: the weight of each expert's output, 0 where it was not `chosen` (B, T, E) bool.

    `wanted` is `chosen` before a capacity, `shares` (B, T, E) sum to 1 over the experts, `top` (B, T, k) int32 are the
    chosen ones where each token has as many.
    """

    logits: Array
    shares: Array
    gates: Array
    chosen: Array
    wanted: Array
    top: Array | None = None


class Router:
    """Logits (B, T, E) = x Wᵀ in float32, and what becomes of them.

    - softmax: each token takes its k experts of the largest share; with `normalize_gates` their shares are divided by
      their sum, which is a softmax over the k logits alone (Mixtral; Qwen3-MoE), without they are as they are (Switch
      for k = 1, Fedus et al. 2021; OLMoE). With k = 1 a normalized gate is always 1: no gradient reaches the router.
    - sigmoid: each expert has a score of its own (DeepSeek-AI 2024).
    - expert_choice: each expert takes its tokens of the largest share (Zhou et al. 2022). It compares with tokens that
      come later, so that it cannot write a text.
    - threshold: a causal relative; each expert takes every token whose score is above its threshold, the negative of a
      bias that follows the load. A token has k experts on average.
    """

    def __init__(self, config: ModelConfig, backend: Backend):
        self.config, self.backend = config, backend

    @staticmethod
    def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
        """Name -> shape of the leaves."""
        bias = {BIAS: (config.experts,)} if has_bias(config) else {}
        return {"weight": (config.experts, config.d_model)} | bias

    @staticmethod
    def start(config: ModelConfig, leaf: str, shape: tuple[int, ...], stream: np.random.Generator) -> np.ndarray:
        """First values of a leaf; thresholds are where a share k / E of the first scores is above them."""
        if leaf.endswith("weight"):
            return stream.standard_normal(shape, np.float32) * np.float32(DEVIATION)
        if config.router != "threshold" or config.experts_per_token == config.experts:
            return np.zeros(shape, np.float32)
        spread = DEVIATION * config.d_model**0.5
        above = NormalDist(0.0, spread).inv_cdf(config.experts_per_token / config.experts)
        return np.full(shape, above, np.float32)

    def __call__(self, w: Tree, x: Array, counted: Array | None, training: bool) -> Route:
        """The route of tokens x (B, T, d). A capacity bounds the experts' tokens of each row in training only."""
        c, backend = self.config, self.backend
        logits, scores, shares = self._scores(w, x)
        if c.router == "expert_choice":
            chosen = self._chosen_by_experts(shares, counted)
            return Route(logits, shares, shares * backend.cast(chosen, "float32"), chosen, chosen)
        if c.router == "threshold":
            chosen = _present(backend.stop_gradient(logits + w[BIAS]) > 0, counted)
            return Route(logits, shares, scores * backend.cast(chosen, "float32"), chosen, chosen)
        top, gates = self._best(w, scores)
        places = top[..., None] == backend.arange(0, c.experts)  # (B, T, k, E)
        gates = (gates[..., None] * backend.cast(places, "float32")).sum(axis=-2)
        wanted = _present(backend.cast(places, "int32").sum(axis=-2) > 0, counted)  # (B, T, E)
        chosen = self._within_capacity(wanted) if training and c.capacity_factor else wanted
        return Route(logits, shares, gates * backend.cast(chosen, "float32"), chosen, wanted, top)

    def best(self, w: Tree, x: Array) -> tuple[Array, Array]:
        """(the experts (…, k) of tokens x (…, d), their gates (…, k)), of a router of which each token takes k."""
        return self._best(w, self._scores(w, x)[1])

    def told(self, w: Tree, route: Route, counted: Array | None) -> dict[str, Array]:
        """What a training must know, for each row by itself: (B,), and (B, E) for the `load` of the experts.

        `auxiliary` is to be added to the loss. A row's figures never depend on another row, so that they add up to
        the same whatever micro-batches a step is computed in. Filling never counts.
        """
        c, backend = self.config, self.backend
        counts = backend.zeros(route.logits.shape[:2]) + 1.0 if counted is None else backend.cast(counted, "float32")
        per_token = counts / (counts.sum(axis=-1, keepdims=True) + 1e-20)  # (B, T): sums to 1 over a row's tokens
        wanted, chosen = (backend.cast(a, "float32") for a in (route.wanted, route.chosen))
        visits = (wanted * per_token[..., None]).sum(axis=1)  # (B, E): share of the tokens that go to an expert
        load = visits / (visits.sum(axis=-1, keepdims=True) + 1e-20)  # sums to 1, not to k
        share = (route.shares * per_token[..., None]).sum(axis=1)  # (B, E)
        balance = c.experts * (load * share).sum(axis=-1)  # 1 where all are equally busy (Fedus et al. 2021, eq. 4)
        size = backend.logsumexp(route.logits)
        z = (size * size * per_token).sum(axis=-1)  # logits stay small (Zoph et al. 2022, eq. 5)
        entropy = -((route.shares * backend.log(route.shares + 1e-20)).sum(axis=-1) * per_token).sum(axis=-1)
        lost = 1.0 - chosen.sum(axis=-1).sum(axis=-1) / (wanted.sum(axis=-1).sum(axis=-1) + 1e-20)
        auxiliary = c.router_z * z
        if c.balance == "loss" and takes_k(c):
            auxiliary = auxiliary + c.balance_coefficient * balance
        if BIAS in w:
            goal = c.experts_per_token / c.experts if c.router == "threshold" else 1.0 / c.experts
            excess = (visits if c.router == "threshold" else load) - goal  # (B, E)
            auxiliary = auxiliary + _steered(backend, w[BIAS], excess * c.balance_coefficient)
        return {"auxiliary": auxiliary, "balance": balance, "router_entropy": entropy, "dropped": lost, "load": load}

    def _scores(self, w: Tree, x: Array) -> tuple[Array, Array, Array]:
        """(logits, an expert's score, its share of all): (B, T, E) each."""
        backend = self.backend
        logits = backend.linear(backend.cast(x, "float32"), backend.cast(w["weight"], "float32"))
        if self.config.router in ("softmax", "expert_choice"):
            shares = backend.softmax(logits)
            return logits, shares, shares
        scores = backend.exp(backend.log_sigmoid(logits))
        return logits, scores, scores / (scores.sum(axis=-1, keepdims=True) + 1e-20)

    def _best(self, w: Tree, scores: Array) -> tuple[Array, Array]:
        """The k experts of the largest scores and what weight their outputs have: (B, T, k) each."""
        backend = self.backend
        count = self.config.experts_per_token
        if BIAS in w:  # it decides who is chosen, and no more
            top = backend.topk(backend.stop_gradient(scores + w[BIAS]), count)[1]
            gates = backend.gather(scores, top)
        else:
            gates, top = backend.topk(scores, count)
        if self.config.normalize_gates:
            gates = gates / (gates.sum(axis=-1, keepdims=True) + 1e-20)
        return top, gates

    def _chosen_by_experts(self, shares: Array, counted: Array | None) -> Array:
        """(B, T, E) bool: of each row's tokens every expert takes the same number, those of the largest share."""
        c, backend = self.config, self.backend
        tokens = shares.shape[1]
        room = math.ceil((c.capacity_factor or 1.0) * tokens * c.experts_per_token / c.experts)
        offered = backend.stop_gradient(shares)
        offered = offered if counted is None else backend.where(counted[..., None], offered, -1.0)
        offered = offered.swapaxes(1, 2)  # (B, E, T)
        least = backend.topk(offered, min(room, tokens))[0][..., -1:]  # (B, E, 1)
        return _present((offered >= least).swapaxes(1, 2), counted)

    def _within_capacity(self, wanted: Array) -> Array:
        """`wanted` without the tokens that come after an expert's places in their row are taken."""
        c, backend = self.config, self.backend
        asked = backend.cast(wanted, "int32")
        rank = backend.cumsum(asked, 1)  # (B, T, E): 1 for an expert's first token
        whole = backend.cast(asked.sum(axis=-1).sum(axis=-1), "float32")  # (B,): pairs of the row
        room = c.capacity_factor * whole / c.experts  # (B,)
        return wanted & (backend.cast(rank, "float32") < room[:, None, None] + 1.0)


def takes_k(config: ModelConfig) -> bool:
    """Whether each token takes as many experts as every other one, those that suit it best."""
    return config.router in ("softmax", "sigmoid")


def has_bias(config: ModelConfig) -> bool:
    """Whether the router has a bias that follows the load."""
    return config.router == "threshold" or config.balance == "bias"


def generates(config: ModelConfig) -> bool:
    """Whether a model can write a text token by token."""
    return not (config.experts and config.router == "expert_choice")


def check_generates(config: ModelConfig) -> None:
    """Raises UsageError for a model that cannot write a text token by token."""
    if not generates(config):
        raise UsageError(
            "A model with router = 'expert_choice' cannot generate: its experts choose among tokens not yet written.",
            "It can be trained and its loss measured. Its causal relative is --set model.router=threshold.",
        )


def learns_nothing(config: ModelConfig) -> str:
    """A warning where the router gets no gradient from the loss of the model, else ""."""
    if not (config.experts and config.normalize_gates and config.experts_per_token == 1):
        return ""
    return (
        "The router learns nothing from predictions: with experts_per_token = 1 and normalize_gates its gate is always "
        "1. Set model.normalize_gates=false, or more experts per token."
    )


def _present(chosen: Array, counted: Array | None) -> Array:
    return chosen if counted is None else chosen & counted[..., None]


def _steered(backend: Backend, bias: Array, excess: Array) -> Array:
    """(B,) zeros whose gradient to `bias` (E,) is `excess` (B, E): the optimizer lowers it for a busy expert.

    DeepSeek's rule subtracts a fixed step of the sign of the excess (Wang et al. 2024). AdamW divides a gradient by its
    usual size, which makes of it a step of about the learning rate, and the excess of micro-batches adds up exactly.
    """
    frozen = backend.stop_gradient(excess)
    return ((bias - backend.stop_gradient(bias)) * frozen).sum(axis=-1)
