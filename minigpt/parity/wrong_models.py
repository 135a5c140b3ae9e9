"""Models with one known mistake each in an option, which the comparison of logits must catch."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from backends.base import Array, Backend
from minigpt.parity.case import FP32
from minigpt.parity.models import MODEL_CASES, Loss, ModelCase, compare_loss, problem, whole_loss
from minigpt.parity.options import OPTIONS
from minigpt.parity.reference import Row, difference, reference

Break = Callable[[Any], None]


def _set(part: str, name: str, value: Callable[[Any], Any]) -> Break:
    """Replaces the attribute `name` of the model itself ("") or of one of its parts by value(what was there)."""

    def change(model: Any) -> None:
        place = model.layers.get(part) or getattr(model, part) if part else model
        setattr(place, name, value(getattr(place, name)))

    return change


def _config(part: str, **changes: Any) -> Break:
    """A layer, or the model itself, that reads other settings."""
    return _set(part, "config", lambda config: config.model_copy(update=changes))


def _before(change: Callable[[Any, Any], Any]) -> Break:
    """What attention reads of the tokens before is changed by change(x, found)."""

    def replace(model: Any) -> None:
        attention = model.layers["self_attn"]
        right = attention.before
        attention.before = lambda w, x, *rows: change(x, right(w, x, *rows))

    return replace


def _layer_one_on(model: Any) -> None:
    attention = model.layers["self_attn"]
    model.layers["self_attn"] = lambda w, x, q, p, cache, layer, *rest: attention(w, x, q, p, cache, layer + 1, *rest)


def _norm_on_the_stream(model: Any) -> None:
    """norm(x) + f in place of norm(x + f)."""
    model._joined = lambda w, norm, x, found, keys, place: model._normed(w, norm, x) + found


def _norm_of_the_sum(model: Any) -> None:
    """norm(x + f) in place of x + norm(f)."""
    model._joined = lambda w, norm, x, found, keys, place: model._normed(w, norm, x + found)


def _skips_in_the_same_order(model: Any) -> None:
    right = model.skips
    model.skips = lambda body, x, entered: right(body | {"skips": body["skips"][::-1]}, x, entered)


def _router(**changes: Any) -> Break:
    """A router that reads other settings."""

    def change(model: Any) -> None:
        router = model.layers["mlp"].router
        router.config = router.config.model_copy(update=changes)

    return change


def _told(change: Callable[[Any, dict, Any], dict]) -> Break:
    """What a router tells is changed by change(router, told, route)."""

    def broken(model: Any) -> None:
        router = model.layers["mlp"].router
        right = type(router).told
        router.told = lambda w, route, counted: change(router, right(router, w, route, counted), route)

    return broken


def _double_softmax(model: Any) -> None:
    router = model.layers["mlp"].router
    right, softmax = type(router).told, model.backend.softmax
    router.told = lambda w, route, counted: right(router, w, replace(route, shares=softmax(route.shares)), counted)


def _filling_counted(model: Any) -> None:
    router = model.layers["mlp"].router
    right = type(router).told
    router.told = lambda w, route, counted: right(router, w, route, None)


def _as_often_as_chosen(router: Any, told: dict, route: Any) -> dict:
    """Loads that sum to k in place of 1."""
    more = (router.config.experts_per_token - 1) * router.config.balance_coefficient
    return told | {"auxiliary": told["auxiliary"] + more * told["balance"]}


def _gates_of_the_next(model: Any) -> None:
    mlp = model.layers["mlp"]
    routed = mlp._routed
    mlp._routed = lambda experts, x, route, tokens: routed(experts, x, _rolled(model.backend, route), tokens)


def _rolled(backend: Backend, route: Any) -> Any:
    gates, chosen = (backend.concat([x[..., 1:], x[..., :1]], -1) for x in (route.gates, route.chosen))
    return replace(route, gates=gates, chosen=chosen)


def _heads_in_the_opposite_order(model: Any) -> None:
    right = type(model.ahead).__call__
    ahead = model.ahead
    model.ahead = lambda leaves, hidden: right(ahead, leaves, hidden)[::-1]


def check_models(backend: Backend) -> list[Row]:
    """One Row per mistake with the difference that gave it away, of the logits or of the loss and its gradients.

    `ok` says that it was caught.
    """
    cases, found = {case.name: case for case in MODEL_CASES}, []
    for name, (case, wrong) in WRONG_MODELS.items():
        gap = difference(_logits(backend, cases[case], wrong), _logits(reference(), cases[case]))
        found.append(Row("control", f"{name} ({case})", "logits", f"{backend.name} vs numpy", gap, FP32, gap > FP32))
    for name, (case, wrong) in WRONG_TRAINING.items():
        rows = compare_loss("control", case, [backend], cases[case], _broken(wrong), whole_loss)
        worst = max(rows, key=lambda r: r.difference / r.bound)
        found.append(replace(worst, case=f"{name} ({worst.case})", ok=not worst.ok))
    return found


def _broken(wrong: Break) -> Loss:
    def loss(model: Any, weights: Any, batch: dict[str, Array]) -> Array:
        wrong(model)
        return whole_loss(model, weights, batch)

    return loss


def _logits(backend: Backend, case: ModelCase, wrong: Break = lambda model: None) -> np.ndarray:
    model, weights, batch = problem(backend, case)
    wrong(model)
    return backend.numpy(model(weights, batch["ids"], segments=batch.get("segments")))


GEMMA, PHI, GATES, SKIPS = (
    next(name for name in OPTIONS if name.startswith(first)) for first in ("Gemma 2", "Phi", "gates", "skips")
)
# What is wrong -> (the row of OPTIONS in which it shows, what makes a model wrong).
WRONG_MODELS: dict[str, tuple[str, Break]] = {
    "ALiBi's slopes in the opposite order": ("ALiBi, GeGLU", _set("", "slopes", lambda slopes: slopes[::-1])),
    "ALiBi's slopes of other than 2^n heads in sorted order": (
        "ALiBi, six heads", _set("", "slopes", lambda slopes: tuple(sorted(slopes, reverse=True))),
    ),
    "ALiBi that rewards distance": ("ALiBi, GeGLU", _set("", "slopes", lambda slopes: tuple(-x for x in slopes))),
    "YaRN's temperature forgotten": ("YaRN", _set("self_attn", "scale", lambda scale: 8**-0.5)),
    "NTK forgotten": ("NTK, partial rotary, SiLU", _set("self_attn", "theta", lambda theta: 10000.0)),
    "all of a head turned in place of a part": (
        "NTK, partial rotary, SiLU", _config("self_attn", rope_fraction=1.0),
    ),
    "positions of packed examples counted through": (
        "sinusoidal positions, ReLU²",
        _set("embeddings", "_places", lambda right: lambda positions, tokens, segments: right(positions, tokens, None)),
    ),
    "ReLU in place of ReLU²": ("sinusoidal positions, ReLU²", _config("mlp", feed_forward="relu")),
    "GELU's approximation in place of GELU": (
        "ALiBi, GeGLU", _config("mlp", feed_forward="geglu_tanh"),
    ),
    "post-norm on the stream alone": ("post-norm", _norm_on_the_stream),
    "sandwich norm on the sum": (GEMMA, _norm_of_the_sum),
    "scores without their soft-cap": (GEMMA, _config("self_attn", attention_softcap=0.0)),
    "logits without their soft-cap": (GEMMA, _config("embeddings", logit_softcap=0.0)),
    "the first layer full in place of the second": (
        GEMMA, _layer_one_on,
    ),
    "embeddings not scaled": (GEMMA, _config("embeddings", embedding_scale=False)),
    "parallel layers one after the other": (PHI, _config("", parallel=False)),
    "sinks forgotten": ("window 4 with two sinks", _config("", attention_sinks=0)),
    "the shift forgotten": ("shift of two tokens", _before(lambda x, found: x)),
    "a convolution that forgets its own token": ("short convolution", _before(lambda x, found: found - x)),
    "value embeddings forgotten": (
        "no positions, ReGLU, value embeddings", _config("embeddings", value_embeddings=False),
    ),
    "gates of heads forgotten": (GATES, _config("self_attn", head_gate=False)),
    "projections of embeddings as long as they are": (
        GATES, _set("embeddings", "values", lambda right: lambda body, ids, x: x),
    ),
    "skips in the same order": (SKIPS, _skips_in_the_same_order),
    "skips forgotten": (SKIPS, _config("skips", skips=False)),
    "blocks once in place of twice": (SKIPS, _config("", repeat_layers=0)),
    "windows by the place in place of the block": (SKIPS, _config("self_attn", repeat_layers=1)),
}  # fmt: skip

TOP1, TOP2, BIAS = "experts, top 1", "experts, top 2, normalized, one shared", "experts, sigmoid, balance by bias"
# The same for options that add to the loss.
WRONG_TRAINING: dict[str, tuple[str, Break]] = {
    "double softmax in the balance loss": (TOP2, _double_softmax),
    "loads that sum to k": (TOP2, _told(_as_often_as_chosen)),
    "filling counted in the balance loss": (TOP2, _filling_counted),
    "the balance loss without its gradient": (
        TOP2, _told(lambda router, told, route: told | {"auxiliary": router.backend.stop_gradient(told["auxiliary"])}),
    ),
    "z-loss forgotten": (TOP2, _router(router_z=0.0)),
    "gates of two experts not normalized": (TOP2, _router(normalize_gates=False)),
    "a single gate normalized to 1": (TOP1, _router(normalize_gates=True)),
    "gates of the next expert": (TOP1, _gates_of_the_next),
    "the shared expert forgotten": (TOP2, _config("mlp", shared_experts=0)),
    "scores by softmax in place of sigmoid": (BIAS, _router(router="softmax")),
    "bias steered towards busy experts": (BIAS, _router(balance_coefficient=-1.0)),
    "capacity ignored": ("experts, capacity", _router(capacity_factor=0.0)),
    "heads further ahead in the opposite order": ("two tokens further ahead", _heads_in_the_opposite_order),
}  # fmt: skip
