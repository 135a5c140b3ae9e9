"""A language model so small that all its answers can be listed: are the gradients of RL those that theory says?

Four tokens, answers of length 3, so 64 answers; a free table of logits for every prefix. The expected gradient of an
estimator is the sum over all answers of their probability times its gradient, without any sampling. It is compared
with the gradient of the objective, by central differences in float64. Estimators that are known to be biased must show
exactly the bias that theory predicts.

"Frozen" objectives hold the distribution of the prefixes: what a divergence in the loss means.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from backends import tree
from backends.base import Array, Backend
from minigpt.parity.reference import Row, row
from minigpt.train import policy_losses as policy
from minigpt.train.advantages import TokenRewards, answer_advantages, discounted, gae, token_rewards

VOCABULARY, LENGTH = 4, 3
ANSWERS = np.array(list(itertools.product(range(VOCABULARY), repeat=LENGTH)), np.int32)  # (64, 3)
PREFIXES = np.stack([np.zeros(64, int), ANSWERS[:, 0], 4 * ANSWERS[:, 0] + ANSWERS[:, 1]])  # (3, 64): their numbers
EXACT = 1e-6  # of the largest number of the gradient
OPEN = policy.PolicySettings(loss="bnpo", clip_low=0.99, clip_high=50.0)  # nothing is clipped
BETA = 0.3

Tables = dict[str, np.ndarray]  # "0" (1, 4), "1" (4, 4), "2" (16, 4): logits of the next token for each prefix


def tables(seed: int) -> Tables:
    """A policy: float64 logits, rounded to float32 so that all backends have the same."""
    rng = np.random.default_rng(seed)
    return {str(t): rng.normal(0, 0.8, (4**t, 4)).astype(np.float32).astype(np.float64) for t in range(LENGTH)}


NOW, OLD, REFERENCE = tables(1), tables(2), tables(3)
REWARDS = np.random.default_rng(4).normal(0.5, 1.0, 64)


def logprobs(logits: Tables) -> np.ndarray:
    """(64, 3) log-probability of each token of each answer, in NumPy."""
    columns = []
    for t in range(LENGTH):
        rows = logits[str(t)][PREFIXES[t]]  # (64, 4)
        rows = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
        columns.append(rows[np.arange(64), ANSWERS[:, t]])
    return np.stack(columns, axis=1)


def divergences(p: Tables, q: Tables) -> np.ndarray:
    """(64, 3) KL(p || q) of the next token's distribution after each prefix of each answer."""
    columns = []
    for t in range(LENGTH):
        a, b = (x[str(t)] - np.log(np.exp(x[str(t)]).sum(axis=1, keepdims=True)) for x in (p, q))
        columns.append((np.exp(a) * (a - b)).sum(axis=1)[PREFIXES[t]])
    return np.stack(columns, axis=1)


def probabilities(logits: Tables) -> np.ndarray:
    return np.exp(logprobs(logits).sum(axis=1))


def values(logits: Tables) -> np.ndarray:
    """(64, 3) the exact value of each answer's prefixes: the expected reward when the rest is sampled."""
    found, p = np.zeros((64, LENGTH)), probabilities(logits)
    for t in range(LENGTH):
        for prefix in np.unique(PREFIXES[t]):
            same = PREFIXES[t] == prefix
            found[same, t] = (p[same] * REWARDS[same]).sum() / p[same].sum()
    return found


def gradient(objective: Callable[[Tables], float], step: float = 1e-5) -> np.ndarray:
    """The objective's gradient at NOW (84,) by central differences."""
    found = []
    for name, table in NOW.items():
        for place in np.ndindex(table.shape):
            ends = []
            for sign in (1, -1):
                moved = table.copy()
                moved[place] += sign * step
                ends.append(objective(NOW | {name: moved}))
            found.append((ends[0] - ends[1]) / (2 * step))
    return np.array(found)


# ---- the estimators on a backend -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimator:
    """An estimator of a gradient and the objective whose gradient its expectation is, by theory."""

    name: str
    objective: Callable[[Tables], float]  # to be lowered
    advantages: np.ndarray  # (64, 3)
    settings: policy.PolicySettings = OPEN
    sampled: Tables | None = None  # the policy that sampled, NOW where it is not given
    corrected: bool = True  # the ratio to the policy that sampled; else it is taken to be 1
    mask: np.ndarray | None = None  # (3,)


def expected_gradient(backend: Backend, estimator: Estimator) -> np.ndarray:
    """(84,) Σ over answers of p(answer) times the gradient of the loss that the backend computes for it."""
    sampled = NOW if estimator.sampled is None else estimator.sampled
    mask = np.ones((64, LENGTH)) if estimator.mask is None else np.tile(estimator.mask, (64, 1))
    data = {
        "old": logprobs(sampled), "reference": logprobs(REFERENCE), "advantages": estimator.advantages, "mask": mask,
        "weights": probabilities(sampled)[:, None] * mask,
    }  # fmt: skip
    arrays = {name: backend.array(x.astype(np.float32)) for name, x in data.items()}

    def loss(weights: tree.Tree, given: dict[str, Array]) -> tuple[Array, dict]:
        found, entropy = _scored(backend, weights["logits"])  # (64, 3) twice
        old = given["old"] if estimator.corrected else backend.stop_gradient(found)
        losses = policy.policy_losses(
            backend, found, old, given["advantages"], given["mask"], estimator.settings, given["reference"], entropy
        )
        return (losses * given["weights"]).sum(axis=-1).sum(), {}

    weights = {"logits": {t: backend.array(x.astype(np.float32)) for t, x in NOW.items()}}
    _, grads = backend.value_and_grad(loss)(weights, arrays)
    return np.concatenate([backend.numpy(grads["logits"][t]).astype(np.float64).ravel() for t in NOW])


def _scored(backend: Backend, logits: dict[str, Array]) -> tuple[Array, Array]:
    """Log-probabilities and entropies (64, 3) of all answers."""
    rows = [backend.take(logits[str(t)], backend.array(PREFIXES[t].astype(np.int32)))[None] for t in range(LENGTH)]
    rows = backend.concat(rows, 0)  # (3, 64, 4)
    nll = backend.token_nll(rows, backend.array(ANSWERS.T.copy()))  # (3, 64)
    return -nll.swapaxes(0, 1), policy.token_entropy(backend, rows).swapaxes(0, 1)


# ---- the table -----------------------------------------------------------------------------------------------


def estimators() -> list[Estimator]:
    """Unbiased ones first, then the biased ones with their bias."""
    nothing, whole = np.zeros((64, LENGTH)), np.repeat(REWARDS[:, None], LENGTH, axis=1)
    exact, wrong = values(NOW), np.random.default_rng(5).normal(0, 1, (64, 3))
    wrong = np.stack([wrong[PREFIXES[t], t] for t in range(LENGTH)], axis=1)  # a critic sees the prefix only
    return [
        Estimator("reward of the answer", _reward, whole),
        Estimator("reward minus a constant", _reward, whole - 0.7),
        Estimator("reward, sequence-level ratio", _reward, whole, replace(OPEN, ratio="sequence")),
        Estimator("reward, cispo", _reward, whole, replace(OPEN, loss="cispo")),
        Estimator("RLOO, two answers", _reward, _of_pairs("rloo")),
        Estimator("GAE, λ = 1, a wrong critic", _reward, _gae(wrong, 1.0)),
        Estimator("GAE, λ = 0.5, the exact critic", _reward, _gae(exact, 0.5)),
        Estimator("GAE, λ = 0, the exact critic", _reward, _gae(exact, 0.0)),
        Estimator("k1 in the reward", lambda x: BETA * _divergence(x), _k1_rewards()),
        Estimator("k2 in the loss (prefixes frozen)", _frozen(NOW, forward=True), nothing, _kl("k2")),
        Estimator("k3c in the loss (prefixes frozen)", _frozen(NOW, forward=True), nothing, _kl("k3c")),
        Estimator("k3c in the loss, off-policy", _frozen(OLD, forward=True), nothing, _kl("k3c"), sampled=OLD),
        Estimator("entropy bonus (prefixes frozen)", lambda x: -BETA * _entropy(x), nothing,
                  replace(OPEN, entropy_coefficient=BETA)),
        Estimator("off-policy, corrected, last token", _last_token, whole, sampled=OLD, mask=np.array([0, 0, 1.0])),
        Estimator("biased: Dr. GRPO is (1 - 1/K) of it", lambda x: 0.5 * _reward(x), _of_pairs("dr_grpo")),
        Estimator("biased: GRPO counts only who wins", _who_wins, _of_pairs("group")),
        Estimator("biased: GAE, λ = 0, a wrong critic", _believes(wrong), _gae(wrong, 0.0)),
        Estimator("biased: k1 in the loss is 0", lambda x: 0.0, nothing, _kl("k1")),
        Estimator("biased: k3 in the loss is KL(ref || π)", _frozen(NOW, forward=False), nothing, _kl("k3")),
        Estimator("biased: k3 in the reward", _k3_objective, _k3_rewards()),
        Estimator("biased: off-policy, not corrected", _likelihood, whole, sampled=OLD, corrected=False),
    ]  # fmt: skip


def check_toy(backend: Backend) -> list[Row]:
    """One Row per estimator: the largest difference from theory, against the largest number of the reward's gradient
    or the objective's own.
    """
    rows = []
    for estimator in estimators():
        theory = gradient(estimator.objective)
        size = max(np.abs(theory).max(), 0.1)
        found = np.abs(expected_gradient(backend, estimator) - theory).max() / size
        rows.append(row("toy model", estimator.name, "gradient", f"{backend.name} vs theory", found, EXACT))
    return rows


def _reward(x: Tables) -> float:
    return -float(probabilities(x) @ REWARDS)


def _divergence(x: Tables) -> float:
    p = probabilities(x)
    return float(p @ (logprobs(x) - logprobs(REFERENCE)).sum(axis=1))


def _frozen(prefixes: Tables, forward: bool) -> Callable[[Tables], float]:
    """β Σ_t E[KL of token t], the prefixes sampled from a fixed policy: KL(π || ref) or KL(ref || π)."""
    p = probabilities(prefixes)
    return lambda x: BETA * float(p @ divergences(*((x, REFERENCE) if forward else (REFERENCE, x))).sum(axis=1))


def _entropy(x: Tables) -> float:
    """Σ_t E[H of token t] with NOW's prefixes: log 4 - KL(π || uniform)."""
    uniform = {t: 0.0 * table for t, table in x.items()}
    return float(probabilities(NOW) @ (np.log(4) - divergences(x, uniform)).sum(axis=1))


def _last_token(x: Tables) -> float:
    """Expected reward when OLD writes two tokens and x the last."""
    lines = logprobs(OLD)
    return -float(np.exp(lines[:, 0] + lines[:, 1] + logprobs(x)[:, 2]) @ REWARDS)


def _likelihood(x: Tables) -> float:
    """What is really raised when answers of OLD are taken for one's own: their log-probability times reward."""
    return -float(probabilities(OLD) @ (REWARDS * logprobs(x).sum(axis=1)))


def _who_wins(x: Tables) -> float:
    """Two answers of x against two of the policy now: GRPO's advantage is ±1/√2 for who wins, however narrowly."""
    gap = (REWARDS[:, None] - REWARDS[None, :]) / 2
    wins = gap / (np.abs(gap) * np.sqrt(2) + 1e-4)
    return -float(probabilities(x) @ wins @ probabilities(NOW))


def _believes(critic: np.ndarray) -> Callable[[Tables], float]:
    """What a policy gradient with λ = 0 raises: the critic's opinion of each next prefix, and the last reward."""
    opinions = np.concatenate([critic[:, 1:], REWARDS[:, None]], axis=1)  # (64, 3) after each token
    p, lines = probabilities(NOW), logprobs(NOW)
    return lambda x: -float(p @ (np.exp(logprobs(x) - lines) * opinions).sum(axis=1))


def _k3_objective(x: Tables) -> float:
    return BETA * _divergence(x) - _frozen(NOW, forward=False)(x)


# ---- advantages ----------------------------------------------------------------------------------------------


def _of_pairs(kind: str) -> np.ndarray:
    """(64, 3) the expected advantage of each answer when the other answer of its group is sampled, too."""
    pairs = np.stack(np.broadcast_arrays(REWARDS[:, None], REWARDS[None, :]), axis=-1).reshape(-1, 2)  # (4096, 2)
    if kind == "group":  # group by group: nothing may depend on other groups
        found = np.concatenate([answer_advantages(kind, pair[None]) for pair in pairs])
    else:
        found = answer_advantages(kind, pairs)
    expected = found[:, 0].reshape(64, 64) @ probabilities(NOW)
    return np.repeat(expected[:, None], LENGTH, axis=1)


def _gae(critic: np.ndarray, lam: float) -> np.ndarray:
    mask = np.ones((64, LENGTH))
    rewards = token_rewards(REWARDS, mask, 0 * mask, np.ones(64, bool), TokenRewards(0.0))
    return gae(rewards, critic, mask, 1.0, lam)[0]


def _k1_rewards() -> np.ndarray:
    mask, ratios = np.ones((64, LENGTH)), logprobs(NOW) - logprobs(REFERENCE)
    return discounted(token_rewards(np.zeros(64), mask, ratios, np.ones(64, bool), TokenRewards(BETA)), mask, 1.0)


def _k3_rewards() -> np.ndarray:
    d = logprobs(NOW) - logprobs(REFERENCE)
    return discounted(-BETA * (np.exp(-d) - 1 + d), np.ones((64, LENGTH)), 1.0)


def _kl(kind: str) -> policy.PolicySettings:
    return replace(OPEN, kl=kind, kl_coefficient=BETA)
