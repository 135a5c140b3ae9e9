"""Small problems of reinforcement learning: what our functions compute on a backend, and what is right.

A case runs functions that it takes from a table, so that wrong ones can be put in their place (see Fault).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from backends import tree
from backends.base import Array, Backend
from minigpt.data import scored
from minigpt.model.gpt import GPT, to_backend
from minigpt.model.heads import JUDGES, with_head
from minigpt.parity.models import MODEL_CASES, make_batch, random_weights
from minigpt.parity.reference import Row, difference, reference, row
from minigpt.parity.rl import data
from minigpt.parity.rl import definitions as right
from minigpt.train import advantages, calibration, distillation, kl, losses, policy_losses, preferences, reward_losses
from minigpt.train.advantages import TokenRewards
from minigpt.train.policy_losses import PolicySettings
from minigpt.train.preferences import PREFERENCE_LOSSES, Answers

PADDING = 0.7  # what stands after an answer when a fault reads it
BOUND = 2e-6  # float32 against float64, of the largest number
MODULES = (scored, advantages, calibration, distillation, kl, losses, policy_losses, preferences, reward_losses)
NAMES = (
    "answer_advantages", "informative", "token_rewards", "gae", "discounted", "whitened", "policy_losses",
    "token_weights", "without_unfinished", "token_entropy", "token_losses", "value_losses", "pair_losses", "scores_at",
    "step_losses", "reliability", "calibration_error", "answer_losses", "kto_baseline", "distances",
    "adapted_coefficient", "moved_too_far", "check_kl", "answer_scores", "line_ends",
)  # fmt: skip
Functions = dict[str, Callable]
OURS: Functions = {name: next(vars(m)[name] for m in MODULES if hasattr(m, name)) for name in NAMES}
Results = dict[str, np.ndarray]  # quantity -> numbers


@dataclass(frozen=True, eq=False)
class RLCase:
    """A problem: `run` computes it with given functions, `expected` by definition."""

    name: str
    run: Callable[[Functions, Backend], Results]
    expected: Callable[[], Results]


@dataclass(frozen=True, eq=False)
class Fault:
    """A mistake made on purpose: `wrong` stands for our function called `function`; the case called `case` must notice.

    Where it can be said so, the wrong function is ours with wrong arguments.
    """

    name: str
    case: str
    function: str
    wrong: Callable


# ---- the cases -----------------------------------------------------------------------------------------------


def cases() -> list[RLCase]:
    """All cases, the cheap ones first."""
    return [
        *(RLCase(f"advantages: {kind}", _advantages(kind), _right_advantages(kind)) for kind in advantages.ADVANTAGES),
        RLCase("token rewards", _token_rewards, _right_token_rewards),
        RLCase("GAE", _gae, _right_gae),
        RLCase("returns", lambda f, b: {"returns": f["discounted"](data.TOKEN_REWARDS, data.MASK, 0.9)},
               lambda: {"returns": right.gae(data.TOKEN_REWARDS, 0 * data.MASK, data.MASK, 0.9, 1.0)[0]}),
        RLCase("whitening", _whitened, _right_whitened),
        RLCase("dynamic sampling", lambda f, b: {"kept": f["informative"](np.array([[1, 1, 1], [0, 1, 0.0]]))},
               lambda: {"kept": np.array([False, True])}),
        RLCase("KL controller", _controller, _right_controller),
        RLCase("calibration", _calibration, _right_calibration),
        RLCase("KTO baseline", _baseline, lambda: {"baselines": np.array([0.5, 0.0])}),
        *(RLCase(f"weights: {loss}", _weights(loss), _right_weights(loss)) for loss in policy_losses.POLICY_LOSSES),
        *(RLCase(f"policy loss: {name}", *_policy(settings)) for name, settings in data.POLICY_CASES.items()),
        RLCase("policy loss: cispo", *_cispo(replace(data.CLIPPED, loss="cispo"))),
        RLCase("micro-batches", _micro_batches, _right_micro_batches),
        RLCase("value loss", *_values()),
        RLCase("entropy", *_entropies()),
        RLCase("temperature", _temperature, _right_temperature),
        RLCase("reward model", *_reward_model()),
        RLCase("process reward", *_steps()),
        RLCase("answers in one row", _packed, _right_packed),
        RLCase("ends of steps", _line_ends, lambda: {"ends": np.array([2, 5, 8])}),
        *(RLCase(f"preference: {kind}", *_preference(kind)) for kind in PREFERENCE_LOSSES),
        *(RLCase(f"distillation: {kind}", *_distance(kind)) for kind in distillation.DISTANCES),
    ]  # fmt: skip


def compare(case: RLCase, backend: Backend, functions: Functions = OURS) -> list[Row]:
    """A Row per quantity; what cannot be computed at all differs without bound."""
    expected = case.expected()
    try:
        found = case.run(functions, backend)
    except (ArithmeticError, ValueError, IndexError) as error:
        return [Row("RL", case.name, type(error).__name__, f"{backend.name} vs definition", float("inf"), BOUND, False)]
    return [row("RL", case.name, quantity, f"{backend.name} vs definition",
                difference(np.asarray(found[quantity]), np.asarray(value)), BOUND)
            for quantity, value in expected.items()]  # fmt: skip


def _named(values: tuple, *names: str) -> Results:
    return dict(zip(names, values, strict=True))


def _differentiated(backend: Backend, function: Callable[[Array], Array], at: np.ndarray) -> Results:
    """Values, their sum under fixed weights, and its gradient: {"values", "gradient"}."""

    def loss(weights: tree.Tree) -> tuple[Array, dict]:
        values = function(weights["x"])
        return _weighed(backend, values), {"values": values}

    (_, aux), grads = backend.value_and_grad(loss)({"x": backend.array(at)})
    return {"values": backend.numpy(aux["values"]), "gradient": backend.numpy(grads["x"])}


def _weighed(backend: Backend, values: Array) -> Array:
    shape = tuple(values.shape)
    return (values * backend.array(_shares(shape))).sum()


def _shares(shape: tuple[int, ...]) -> np.ndarray:
    return data.single(np.random.default_rng(9).uniform(0.5, 1.5, shape))


def _defined(function: Callable[[np.ndarray], np.ndarray], at: np.ndarray) -> Results:
    """The same by definition."""
    values = function(at.astype(np.float64))
    total = lambda x: float((function(x) * _shares(values.shape)).sum())  # noqa: E731 - one line of mathematics
    return {"values": values, "gradient": right.gradient(total, at)}


def _advantages(kind: str) -> Callable:
    return lambda f, b: {"advantages": f["answer_advantages"](kind, data.GROUPS)}


def _right_advantages(kind: str) -> Callable:
    return lambda: {"advantages": right.advantages(kind, data.GROUPS)}


def _token_rewards(f: Functions, b: Backend) -> Results:
    ratios = data.LOGPROBS - data.REFERENCE
    return {"rewards": f["token_rewards"](data.GROUPS.ravel(), data.MASK, ratios, data.ENDED, TokenRewards(0.2, 3.0))}


def _right_token_rewards() -> Results:
    ratios = data.LOGPROBS - data.REFERENCE
    return {"rewards": right.token_rewards(data.GROUPS.ravel(), data.MASK, ratios, data.ENDED, 0.2, 3.0)}


def _gae(f: Functions, b: Backend) -> Results:
    return _named(f["gae"](data.TOKEN_REWARDS, data.VALUES, data.MASK, 0.9, 0.8), "advantages", "targets")


def _right_gae() -> Results:
    return _named(right.gae(data.TOKEN_REWARDS, data.VALUES, data.MASK, 0.9, 0.8), "advantages", "targets")


def _whitened(f: Functions, b: Backend) -> Results:
    return {name: f["whitened"](data.VALUES, data.MASK, name == "centred") for name in ("centred", "scaled")}


def _right_whitened() -> Results:
    return {name: right.whitened(data.VALUES, data.MASK, name == "centred") for name in ("centred", "scaled")}


def _controller(f: Functions, b: Backend) -> Results:
    pairs = [(0.02, 0.1), (0.09, 0.1), (0.5, 0.1)]
    return {"coefficient": np.array([f["adapted_coefficient"](0.2, found, aim, 64, 1000) for found, aim in pairs]),
            "stopped": np.array([f["moved_too_far"](found, 0.1) for found in (0.14, 0.16)])}  # fmt: skip


def _right_controller() -> Results:
    """A divergence far below, just below and far above its target of 0.1."""
    steps = np.array([-0.2, -0.1, 0.2])
    return {"coefficient": 0.2 * (1 + steps * 64 / 1000), "stopped": np.array([False, True])}


def _calibration(f: Functions, b: Backend) -> Results:
    return {"error": np.array(f["calibration_error"](f["reliability"](data.PROBABILITIES, data.OUTCOMES, 8)))}


def _right_calibration() -> Results:
    return {"error": np.array(right.calibration_error(data.PROBABILITIES, data.OUTCOMES, 8))}


def _baseline(f: Functions, b: Backend) -> Results:
    policy, reference = np.array([-3.0, -4.0]), np.array([-5.0, -3.0])
    return {"baselines": np.array([f["kto_baseline"](policy, reference), f["kto_baseline"](reference, policy)])}


def _weights(loss: str) -> Callable:
    def run(f: Functions, b: Backend) -> Results:
        mask = f["without_unfinished"](data.MASK, data.ENDED)
        return {"weights": f["token_weights"](mask, loss, data.LONGEST)}

    return run


def _right_weights(loss: str) -> Callable:
    finished = np.array([mask if ended else 0 * mask for mask, ended in zip(data.MASK, data.ENDED, strict=True)])
    return lambda: {"weights": right.token_weights(finished, loss, data.LONGEST)}


def _policy_arguments(b: Backend) -> tuple:
    return tuple(b.array(x) for x in (data.OLD, data.ADVANTAGES, data.MASK))


def _policy(settings: PolicySettings) -> tuple[Callable, Callable]:
    def run(f: Functions, b: Backend) -> Results:
        settings.check()
        given, rest = _policy_arguments(b), (b.array(data.REFERENCE), b.array(data.ENTROPY))
        return _differentiated(b, lambda x: f["policy_losses"](b, x, *given, settings, *rest), data.LOGPROBS)

    def by_definition(x: np.ndarray) -> np.ndarray:
        rest = (data.OLD, data.ADVANTAGES, data.MASK, settings, data.REFERENCE, data.ENTROPY)
        return right.policy_losses(x, *rest)

    return run, lambda: _defined(by_definition, data.LOGPROBS)


def _cispo(settings: PolicySettings) -> tuple[Callable, Callable]:
    def run(f: Functions, b: Backend) -> Results:
        given = _policy_arguments(b)
        return _differentiated(b, lambda x: f["policy_losses"](b, x, *given, settings), data.LOGPROBS)

    return run, lambda: _defined(
        lambda x: right.cispo_losses(x, data.LOGPROBS, data.OLD, data.ADVANTAGES, data.MASK, settings), data.LOGPROBS
    )


def _micro_batches(f: Functions, b: Backend) -> Results:
    """The sum over parts of 1, 2 and 3 answers of what the whole step's weights say."""
    weights, total = f["token_weights"](data.MASK, "dapo"), 0.0
    for part in (slice(0, 1), slice(1, 3), slice(3, 6)):
        arrays = (b.array(x[part]) for x in (data.LOGPROBS, data.OLD, data.ADVANTAGES, data.MASK))
        total += float((f["policy_losses"](b, *arrays, data.CLIPPED) * b.array(weights[part])).sum())
    return {"loss": np.array(total)}


def _right_micro_batches() -> Results:
    rest = (data.CLIPPED, data.REFERENCE, data.ENTROPY)
    found = right.policy_losses(data.LOGPROBS, data.OLD, data.ADVANTAGES, data.MASK, *rest)
    return {"loss": np.array(found.sum() / data.MASK.sum())}


def _values() -> tuple[Callable, Callable]:
    def run(f: Functions, b: Backend) -> Results:
        given = tuple(b.array(x) for x in (data.OLD_VALUES, data.TARGETS, data.MASK))
        return _differentiated(b, lambda x: f["value_losses"](b, x, *given, 0.2), data.VALUES)

    rest = (data.OLD_VALUES, data.TARGETS, data.MASK, 0.2)
    return run, lambda: _defined(lambda x: right.value_losses(x, *rest), data.VALUES)


def _entropies() -> tuple[Callable, Callable]:
    def run(f: Functions, b: Backend) -> Results:
        return _differentiated(b, lambda x: f["token_entropy"](b, x * (1 / 0.7)), data.LOGITS)

    return run, lambda: _defined(lambda x: np.array([right.entropy(line, 0.7) for line in x]), data.LOGITS)


def _temperature(f: Functions, b: Backend) -> Results:
    """Log-probabilities of a whole model at the temperature of sampling."""
    config = MODEL_CASES[0].config
    model, weights = GPT(config, b), to_backend(b, random_weights(config))
    batch = {key: b.array(x) for key, x in make_batch(config).items() if key in ("ids", "targets")}
    return {"nll": b.numpy(f["token_losses"](model, weights, batch, temperature=0.6))}


def _right_temperature() -> Results:
    config, exact = MODEL_CASES[0].config, reference()
    batch = make_batch(config)
    logits = GPT(config, exact)(to_backend(exact, random_weights(config)), batch["ids"]) / 0.6  # (2, 12, V)
    logits = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return {"nll": -np.take_along_axis(logits, batch["targets"][..., None], axis=-1)[..., 0]}


def _reward_model() -> tuple[Callable, Callable]:
    """Two answers in each row, chosen and rejected, scored at their ends; the last row has no second."""

    def run(f: Functions, b: Backend) -> Results:
        def loss(x: Array) -> Array:
            scores = f["scores_at"](x, b.array(data.ENDS))  # (3, 2)
            return f["pair_losses"](b, scores[:, :1], scores[:, 1:], b.array(data.MARGINS[:, None]), 0.1)

        return _differentiated(b, loss, data.SCORES)

    def by_definition(x: np.ndarray) -> np.ndarray:
        ends = [(1, 4), (2, 5), (3, None)]
        found = [(x[n, a], x[n, b] if b else 0.0) for n, (a, b) in enumerate(ends)]
        return np.array([[right.pair_loss(*pair, m, 0.1)] for pair, m in zip(found, data.MARGINS, strict=True)])

    return run, lambda: _defined(by_definition, data.SCORES)


def _steps() -> tuple[Callable, Callable]:
    labels = np.array([[1, 0, 1, 1, 0, 0]] * 3, np.float64)

    def run(f: Functions, b: Backend) -> Results:
        return _differentiated(b, lambda x: f["step_losses"](b, x, b.array(labels)), data.SCORES)

    def by_definition(x: np.ndarray) -> np.ndarray:
        p = 1 / (1 + np.exp(-x))
        return -np.log(labels * p + (1 - labels) * (1 - p))

    return run, lambda: _defined(by_definition, data.SCORES)


PACKED = np.array([[0] * 5 + [1] * 4 + [-1] * 3, [0] * 3 + [1] * 9])  # segments of two rows


def _scoring_model(b: Backend) -> tuple[GPT, tree.Tree, np.ndarray]:
    """A model that scores, its weights, and ids (2, 12)."""
    config = with_head(MODEL_CASES[0].config, JUDGES)
    return GPT(config, b), to_backend(b, random_weights(config)), make_batch(config)["ids"]


def _packed(f: Functions, b: Backend) -> Results:
    """Two answers in each row, scored at their last tokens; a third segment is padding."""
    model, weights, ids = _scoring_model(b)
    ends = np.zeros((2, 2, 12), np.float32)
    ends[[0, 0, 1, 1], [0, 1, 0, 1], [4, 8, 2, 11]] = 1
    batch = {"ids": b.array(ids), "segments": b.array(PACKED.astype(np.int32)), "ends": b.array(ends)}
    return {"scores": b.numpy(f["answer_scores"](model, weights, batch))}


def _right_packed() -> Results:
    """Each answer alone."""
    model, weights, ids = _scoring_model(reference())
    pieces = [ids[0, :5], ids[0, 5:9], ids[1, :3], ids[1, 3:]]
    found = [model.scores(weights, model.hidden(weights, piece[None]))[0, -1] for piece in pieces]
    return {"scores": np.array(found).reshape(2, 2)}


class _Letters:
    """A tokenizer whose ids are pieces of b"1+1=2\\n\\n3-1=2\\n4" and a control token."""

    PIECES = (b"1+", b"1", b"=2", b"\n\n", b"3-1", b"=2\n", b"", b"4", b"0 ")

    def bytes_of(self, token: int) -> bytes:
        return self.PIECES[token]


def _line_ends(f: Functions, b: Backend) -> Results:
    return {"ends": np.array(f["line_ends"](_Letters(), [0, 1, 2, 3, 4, 5, 6, 7, 8]))}


def _preference(kind: str) -> tuple[Callable, Callable]:
    paired = PREFERENCE_LOSSES[kind].paired
    at, reference, lengths = (x if paired else x[..., 0] for x in (data.POLICY, data.PAIR_REFERENCE, data.LENGTHS))

    def run(f: Functions, b: Backend) -> Results:
        rest: dict[str, Any] = {"reference": b.array(reference), "lengths": b.array(lengths), "baseline": data.BASELINE}
        rest["labels"] = None if paired else b.array(data.LABELS)
        return _differentiated(b, lambda x: f["answer_losses"](b, kind, Answers(x, **rest), data.PREFERENCES), at)

    def by_definition(x: np.ndarray) -> np.ndarray:
        found = np.zeros((2, 3))
        for i in np.ndindex(2, 3):
            rest = (data.LABELS[i], data.BASELINE, data.PREFERENCES)
            found[i] = right.preference(kind, x[i], reference[i], lengths[i], *rest)
        return found

    return run, lambda: _defined(by_definition, at)


def _distance(kind: str) -> tuple[Callable, Callable]:
    def run(f: Functions, b: Backend) -> Results:
        return _differentiated(b, lambda x: f["distances"](b, x, b.array(data.TEACHER), kind, 1.7, 0.3), data.LOGITS)

    def by_definition(x: np.ndarray) -> np.ndarray:
        return np.array([right.distance(kind, *pair, 1.7, 0.3) for pair in zip(x, data.TEACHER, strict=True)])

    return run, lambda: _defined(by_definition, data.LOGITS)
