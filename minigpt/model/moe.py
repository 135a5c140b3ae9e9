"""A mixture of experts in place of the feed-forward layer: a router sends each token to a few of many small ones.

Shazeer et al. 2017; a token's output is Σ_e gate_e · expert_e(x), over the experts that were chosen for it. Shapes: B
rows, T tokens, N = B · T, E experts, P pairs of a token and one of its experts.
"""

from typing import Any

import numpy as np

from backends.base import Array, Backend
from backends.tree import Tree, leaves, map_leaves
from minigpt.model.feed_forward import FeedForward
from minigpt.model.linear import GOLDEN, QUANTIZED
from minigpt.model.router import Route, Router, takes_k
from minigpt.sections import ModelConfig

ROUTER = ".mlp.gate.weight"  # how its name ends: it stays in floats, without an adapter
FEW = 2  # experts of one token that a CPU computes as fast one by one (measured with MLX: four gain a fifth)


class MoE:
    """The router, `experts` feed-forward layers of width `expert_width`, and one that all tokens share."""

    def __init__(self, config: ModelConfig, backend: Backend):
        self.config, self.backend, self.router = config, backend, Router(config, backend)
        self.expert, self.shared = (FeedForward(one, backend) for one in (expert(config), shared(config)))

    @staticmethod
    def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
        """Name -> shape of the leaves; every expert has its own, as in a Hugging Face checkpoint."""
        found = {f"gate.{leaf}": shape for leaf, shape in Router.shapes(config).items()}
        for e in range(config.experts):
            found |= {f"experts.{e}.{leaf}": shape for leaf, shape in FeedForward.shapes(expert(config)).items()}
        if config.shared_experts:
            found |= {f"shared_experts.{leaf}": shape for leaf, shape in FeedForward.shapes(shared(config)).items()}
        return found

    @staticmethod
    def start(config: ModelConfig, leaf: str, shape: tuple[int, ...], stream: np.random.Generator) -> np.ndarray:
        """First values of a leaf."""
        if leaf.startswith("gate."):
            return Router.start(config, leaf, shape, stream)
        layer, kind = leaf.split(".")[-2:]
        return FeedForward.start(config, f"{layer}.{kind}", shape, stream)

    @staticmethod
    def flops_per_token(config: ModelConfig, width: int) -> float:
        """Arithmetic of one token, forwards and backwards, with the experts that work for it."""
        routed = config.experts_per_token * FeedForward.flops_per_token(expert(config), width)
        common = FeedForward.flops_per_token(shared(config), width) if config.shared_experts else 0.0
        return 6.0 * config.d_model * config.experts + routed + common

    @staticmethod
    def kept_values(config: ModelConfig, habits: Any, width: int, masked: bool) -> float:
        """Values per token that backwards needs: those of its experts, their inputs and outputs, and the gates."""
        routed = FeedForward.kept_values(expert(config), habits, width, masked) + 2 * config.d_model
        common = FeedForward.kept_values(shared(config), habits, width, masked) if config.shared_experts else 0.0
        return config.experts_per_token * routed + common + 6 * config.experts

    def __call__(
        self, w: Tree, x: Array, counted: Array | None = None, training: bool = False
    ) -> tuple[Array, dict[str, Array]]:
        """(y (B, T, d), what a training must know of each row, see `Router.told`) for x (B, T, d).

        Tokens that are not `counted` (B, T) bool, the unused ends of rows, take no expert's place.
        """
        shape = x.shape
        known = isinstance(w["experts"], dict) or self.backend.device == "cpu"  # else it would wait for the choice
        if shape[:-1] == (1, 1) and known and takes_k(self.config) and not training:
            y = self._of_one_token(w, x)
        else:
            route = self.router(w["gate"], x, counted, training)
            y = self._routed(w["experts"], x.reshape(-1, shape[-1]), route, shape[1]).reshape(shape)
        if self.config.shared_experts:
            y = y + self.shared(w["shared_experts"], x)
        return y, self.router.told(w["gate"], route, counted) if training else {}

    def _routed(self, experts: Any, x: Array, route: Route, tokens: int) -> Array:
        """Σ_e gate_e · expert_e(x) for x (N, d) in rows of `tokens`: (N, d)."""
        backend, count = self.backend, self.config.experts
        gates, chosen = (a.reshape(-1, count) for a in (route.gates, route.chosen))  # (N, E)
        gates = backend.cast(gates, backend.dtype(x))
        if backend.gathers and route.top is not None and (stacks := stacked(backend, experts)) is not None:
            return self._gathered(stacks, x, route.top.reshape(-1), gates)
        experts = apart(experts) if isinstance(experts, dict) else experts
        keys = _token_keys(backend, experts, tokens)
        places = backend.nonzero(chosen.swapaxes(0, 1))  # (P,): expert · N + token, so that an expert's are together
        if places is None:  # the sizes of groups are not known beforehand: all experts for all tokens
            outputs = [self.expert(_keyed(one, keys), x) * gates[:, e, None] for e, one in enumerate(experts)]
            return sum(outputs[1:], outputs[0])
        which = places % x.shape[0]  # (P,): the token of each pair
        sizes = backend.numpy(backend.cast(chosen, "int32").sum(axis=0)).tolist()
        tokens_of, rows_of = backend.split(which, sizes), backend.split(backend.take(x, which), sizes)
        y = []
        for one, own, rows in zip(experts, tokens_of, rows_of, strict=True):
            if rows.shape[0]:
                y.append(self.expert(_keyed(one, keys if keys is None else backend.take(keys, own)), rows))
        if not y:
            return x * 0.0
        weights = backend.take(gates.swapaxes(0, 1).reshape(-1), places)  # (P,)
        return backend.add_rows(backend.concat(y, 0) * weights[:, None], which, x.shape[0])

    def _of_one_token(self, w: Tree, x: Array) -> Array:
        """The same sum for one token x (1, 1, d) of an answer, with few operations: of stacks, or of what is chosen."""
        backend, experts, k = self.backend, w["experts"], self.config.experts_per_token
        top, gates = self.router.best(w["gate"], x)
        if isinstance(experts, dict):
            rows, gates = backend.concat([x.reshape(1, -1)] * k, 0), backend.cast(gates.reshape(-1), backend.dtype(x))
            order = backend.argsort(top.reshape(-1))  # (k,)
            y = self._product(experts, rows, backend.take(top.reshape(-1), order))
            return (y * backend.take(gates, order)[:, None]).sum(axis=0).reshape(x.shape)
        backend.sync(top, gates)
        few = zip(*(backend.numpy(a).ravel().tolist() for a in (top, gates)), strict=True)
        y = [self.expert(experts[e], x) * gate for e, gate in few]
        return sum(y[1:], y[0])

    def _gathered(self, stacks: Tree, x: Array, top: Array, gates: Array) -> Array:
        """The same with one product for all experts, whose sizes need not be known: pairs sorted by their expert."""
        backend, (count, width), k = self.backend, x.shape, top.shape[0] // x.shape[0]
        pairs = count * k
        order = backend.argsort(top * pairs + backend.arange(0, pairs))  # (P,)
        ids, which = backend.take(top, order), order // k
        y = self._product(stacks, backend.take(x, which), ids)
        y = y * backend.gather(backend.take(gates, which), ids[:, None])
        return backend.take(y, backend.argsort(order)).reshape(count, k, width).sum(axis=1)

    def _product(self, stacks: Tree, x: Array, ids: Array) -> Array:
        """Each row of x (P, d) through expert ids[i]; `ids` (P,) ascend."""
        return self.expert.through(lambda name, x: _gather(self.backend, stacks[name], x, ids))(x)


def expert(config: ModelConfig) -> ModelConfig:
    """The shape of one expert's feed-forward layer."""
    return config.model_copy(update={"d_ff": config.expert_width or config.d_ff})


def shared(config: ModelConfig) -> ModelConfig:
    """The shape of the shared experts, which are one layer: as wide as all of them together."""
    return config.model_copy(update={"d_ff": config.shared_experts * (config.expert_width or config.d_ff)})


def active_shapes(config: ModelConfig, shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Those of the weights that work for one token: of the experts only as many as a token has."""
    idle = range(config.experts_per_token, config.experts)
    names = tuple(f".mlp.experts.{e}." for e in idle)
    return {name: shape for name, shape in shapes.items() if not any(part in name for part in names)}


def with_stacks(backend: Backend, config: ModelConfig, weights: Tree) -> Tree:
    """Weights for answers: where products are gathered, each layer's experts as stacks, which a step need not make."""
    few = backend.gathers_few and config.experts_per_token > FEW
    if not (config.experts and (backend.gathers or few)):
        return weights

    def together(layer: Tree) -> Tree:
        stacks = stacked(backend, layer["mlp"]["experts"])
        return layer if stacks is None else layer | {"mlp": layer["mlp"] | {"experts": stacks}}

    return weights | {"model": weights["model"] | {"layers": [together(one) for one in weights["model"]["layers"]]}}


def stacked(backend: Backend, experts: Any) -> Tree | None:
    """The experts' leaves (E, …) by the name of their layer; None where they are more than weights, or adapters."""
    if isinstance(experts, dict):
        return experts
    layers = [set(layer) for one in experts for layer in one.values()]
    if not all(found in ({"weight"}, set(QUANTIZED)) and found == layers[0] for found in layers):
        return None
    return {
        name: {leaf: backend.concat([one[name][leaf][None] for one in experts], 0) for leaf in layer}
        for name, layer in experts[0].items()
    }  # fmt: skip


def apart(stacks: Tree) -> list[Tree]:
    """The experts of stacks one by one."""
    count = len(next(iter(leaves(stacks))))
    return [map_leaves(lambda leaf, e=e: leaf[e], stacks) for e in range(count)]


def _gather(backend: Backend, w: Tree, x: Array, ids: Array) -> Array:
    if "packed" in w:
        return backend.quantized.gather_linear(x, ids, *(w[leaf] for leaf in QUANTIZED))
    return backend.gather_linear(x, ids, w["weight"])


def _token_keys(backend: Backend, experts: Any, tokens: int) -> Array | None:
    """(N,) int32: a key of each token for an adapter's dropout, whose keys are those of rows; None without one."""
    found = [layer["dropout_keys"] for layer in experts[0].values() if "dropout_keys" in layer]
    if not found:
        return None
    places = np.arange(1, tokens + 1, dtype=np.int64) * GOLDEN
    return (found[0][:, None] ^ backend.array(places.astype(np.int32))[None, :]).reshape(-1)


def _keyed(w: Tree, keys: Array | None) -> Tree:
    """An expert's leaves with dropout keys for each of its tokens."""
    if keys is None:
        return w
    return {name: layer | {"dropout_keys": keys} if "dropout_keys" in layer else layer for name, layer in w.items()}
