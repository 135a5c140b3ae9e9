"""Mistakes in advantages and rewards of tokens, most of them found in published code."""

from collections.abc import Callable

import numpy as np

from minigpt.parity.rl.cases import OURS, PADDING, Fault
from minigpt.train.advantages import ADVANTAGES, last_tokens


def advantage_faults() -> list[Fault]:
    """Planted mistakes in what is computed on the host from rewards, values and masks."""
    return [*_of_advantages(), *_of_token_rewards(), *_of_gae(), *_of_whitening()]


def _of_advantages() -> list[Fault]:
    def as_if(kind: str) -> Callable:
        return lambda _, rewards: ADVANTAGES[kind](rewards)

    def population(_: str, rewards: np.ndarray) -> np.ndarray:
        return (rewards - rewards.mean(axis=1, keepdims=True)) / (rewards.std(axis=1, keepdims=True) + 1e-4)

    def interleaved(kind: str, rewards: np.ndarray) -> np.ndarray:
        groups, size = rewards.shape  # answers sorted by number instead of by prompt
        return ADVANTAGES[kind](rewards.reshape(size, groups).T).T.reshape(groups, size)

    def maximum(_: str, rewards: np.ndarray) -> np.ndarray:
        return rewards - rewards.max(axis=1, keepdims=True)

    def answers(name: str, kind: str, wrong: Callable) -> Fault:
        return Fault(name, f"advantages: {kind}", "answer_advantages", wrong)

    return [
        answers("GRPO: spread of the batch", "group", as_if("group_batch")),
        answers("GRPO: mean of the batch", "group", as_if("batch")),
        answers("GRPO: spread of a population", "group", population),
        answers("GRPO: groups interleaved", "group", interleaved),
        answers("Dr. GRPO divides by the spread", "dr_grpo", as_if("group")),
        answers("baseline is the best answer", "dr_grpo", maximum),
        answers("RLOO: own reward in the baseline", "rloo", as_if("dr_grpo")),
        answers("REINFORCE++: mean of the group", "batch", as_if("group_batch")),
        Fault("dynamic sampling keeps groups without spread", "dynamic sampling", "informative",
              lambda rewards: np.ones(len(rewards), bool)),
    ]  # fmt: skip


def _of_token_rewards() -> list[Fault]:
    ours = OURS["token_rewards"]

    def on_padding(scores, mask, ratios, ended, s):
        found = ours(np.zeros(len(scores)), mask, ratios, np.ones(len(scores), bool), s)
        found[:, -1] += scores - s.missing_eos_penalty * ~ended
        return found

    def one_too_late(scores, mask, ratios, ended, s):
        found = ours(np.zeros(len(scores)), mask, ratios, np.ones(len(scores), bool), s)
        found[np.arange(len(scores)), np.minimum(last_tokens(mask) + 1, mask.shape[1] - 1)] += scores
        return found

    def spread_out(scores, mask, ratios, ended, s):
        found = ours(np.zeros(len(scores)), mask, ratios, ended, s)
        return found + mask * (scores / mask.sum(axis=1))[:, None]

    def everywhere(scores, mask, ratios, ended, s):
        found = ours(scores, mask, ratios, np.ones(len(scores), bool), s)
        return found - mask * (s.missing_eos_penalty * ~ended)[:, None]

    def estimated(function: Callable[[np.ndarray], np.ndarray]) -> Callable:
        return lambda scores, mask, ratios, ended, s: ours(scores, mask, function(ratios), ended, s)

    return [Fault(name, "token rewards", "token_rewards", wrong) for name, wrong in {
        "score on the last column": on_padding,
        "score one token after the end": one_too_late,
        "score spread over the answer": spread_out,
        "penalty for a missing end at every token": everywhere,
        "penalty for answers that ended": lambda a, b, c, ended, s: ours(a, b, c, ~ended, s),
        "no penalty for a missing end": lambda a, b, c, ended, s: ours(a, b, c, ended | True, s),
        "KL with the other sign": estimated(lambda d: -d),
        "KL as an absolute value": estimated(np.abs),
        "k3 in the reward": estimated(lambda d: np.exp(-d) - 1 + d),
        "KL on padding": lambda scores, mask, d, ended, s: ours(scores, mask, d, ended, s)
        - s.kl_coefficient * (1 - mask) * _filled(d),
    }.items()]  # fmt: skip


def _of_gae() -> list[Fault]:
    ours = OURS["gae"]

    def leaking(rewards, values, mask, gamma, lam):
        """The value after the last token is read from the padding (or the tool's text)."""
        values = _filled(values)
        following = np.concatenate([values[:, 1:], np.zeros((len(values), 1))], axis=1)
        deltas = np.where(mask > 0, rewards + gamma * following - values, 0.0)
        found = ours(deltas, 0 * values, mask, gamma * lam, 1.0)[0]
        return found, np.where(mask > 0, found + values, 0.0)

    def counting_padding(rewards, values, mask, gamma, lam):
        """Every column is a step, also where the answer has no token."""
        return ours(_zeroed(rewards), _zeroed(values), np.ones_like(mask), gamma, lam)

    def forwards(rewards, values, mask, gamma, lam):
        found = ours(rewards[:, ::-1], values[:, ::-1], mask[:, ::-1], gamma, lam)
        return found[0][:, ::-1], found[1][:, ::-1]

    def lookup(change: Callable) -> Callable:
        return lambda r, v, m, gamma, lam: ours(*change(r, v, m, gamma, lam))

    def targets_of(change: Callable) -> Callable:
        def wrong(rewards, values, mask, gamma, lam):
            found = ours(rewards, values, mask, gamma, lam)
            return found[0], change(found, values)

        return wrong

    return [Fault(name, "GAE", "gae", wrong) for name, wrong in {
        "masked values leak into GAE": leaking,
        "GAE counts padding as steps": counting_padding,
        "GAE forwards in time": forwards,
        "GAE without λ": lookup(lambda r, v, m, gamma, lam: (r, v, m, gamma, 1.0)),
        "GAE with γ and λ exchanged": lookup(lambda r, v, m, gamma, lam: (r, v, m, lam, gamma)),
        "GAE without the critic": lookup(lambda r, v, m, gamma, lam: (r, 0 * v, m, gamma, lam)),
        "targets without the values": targets_of(lambda found, values: found[0]),
        "targets minus the values": targets_of(lambda found, values: found[0] - _zeroed(values)),
    }.items()] + [
        Fault("returns without discount", "returns", "discounted", lambda r, m, gamma: OURS["discounted"](r, m, 1.0)),
    ]  # fmt: skip


def _zeroed(x: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(x), x, 0.0)


def _of_whitening() -> list[Fault]:
    ours = OURS["whitened"]

    def each(values, mask, centre=True):
        return np.concatenate([ours(v[None], m[None], centre) for v, m in zip(values, mask, strict=True)])

    return [Fault(name, "whitening", "whitened", wrong) for name, wrong in {
        "whitening counts padding": lambda v, m, c=True: m * ours(_filled(v), np.ones_like(m), c),
        "whitening always centres": lambda v, m, c=True: ours(v, m, True),
        "whitening each answer by itself": each,
        "whitening only centres": lambda v, m, c=True: np.where(m > 0, v - v[m > 0].mean(), 0.0),
    }.items()]  # fmt: skip


def _filled(x: np.ndarray) -> np.ndarray:
    """What code without a mask reads: numbers also where there is no token."""
    return np.where(np.isfinite(x), x, PADDING)
