#!/usr/bin/env python3
"""Do our losses of reinforcement learning agree with TRL's, to six digits, in value and in gradient?

    pip install "trl==1.16.*" && python scripts/rl_agreement.py     # GRPO, RLOO, preferences, reward model, GKD
    pip install "trl==1.12.0" && python scripts/rl_agreement.py     # PPO, which later versions do not have

Both sides get the same log-probabilities, rewards and masks; TRL computes in float64 with its trainers' own methods,
we in float32 on every backend that is installed here. Where TRL has a formula only in the middle of a long method
(PPO's training loop, GRPO's advantages), those lines are cut out of the installed source and executed. Prints a table
and exits with 1 when a bound is broken. A line marked "seen" is a mistake, or a known fault of TRL, that must differ.

Not compared, because they differ on purpose: bias-corrected KL together with a sequence-level ratio (TRL weighs with
the answer's mean ratio, k3c with the token's), and PPO's place of the score, see compare_ppo.
"""

import itertools
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from inspect import getsource
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

import numpy as np

from backends import BACKENDS, BackendUnavailable, get_backend
from backends.base import Array, Backend
from minigpt.cli import tables
from minigpt.train.advantages import TokenRewards, answer_advantages, gae, token_rewards, whitened
from minigpt.train.distillation import distances
from minigpt.train.policy_losses import PolicySettings, policy_losses, token_weights, value_losses
from minigpt.train.preferences import Answers, PreferenceSettings, answer_losses, kto_baseline
from minigpt.train.reward_losses import pair_losses

BOUND = 1e-6
N, T, LONGEST = 6, 7, 9
RNG = np.random.default_rng(5)
MASK = (np.arange(T) < np.array([7, 3, 5, 1, 6, 4])[:, None]).astype(np.float64)
FINISHED = MASK * np.array([[1], [1], [0], [1], [1], [1]])  # the third answer was cut off: TRL masks it


def drawn(low: float, high: float, *shape: int) -> np.ndarray:
    """Float64 numbers that float32 holds exactly."""
    return RNG.uniform(low, high, shape or (N, T)).astype(np.float32).astype(np.float64)


LOGPROBS, SHIFT, REFERENCE = drawn(-3, -0.1), drawn(-0.6, 0.6), drawn(-3, -0.1)
OLD = (LOGPROBS + SHIFT).astype(np.float32).astype(np.float64)
REWARDS = drawn(-1, 2, 2, 3)
PAIRS = 4
ANSWERS, ANSWER_REFERENCE = drawn(-12, -3, PAIRS, 2), drawn(-12, -3, PAIRS, 2)
LENGTHS = np.array([[3, 5], [6, 2], [4, 4], [7, 1]])


@dataclass
class Row:
    """One line of the table: the larger of the differences of value and gradient, relative."""

    quantity: str
    backend: str
    value: float
    gradient: float
    wrong: bool = False  # a difference that must be seen

    @property
    def ok(self) -> bool:
        return (max(self.value, self.gradient) <= BOUND) != self.wrong

    def cells(self) -> list[str]:
        verdict = ("seen" if self.wrong else "ok") if self.ok else "BROKEN"
        return [self.quantity, self.backend, f"{self.value:.1e}", f"{self.gradient:.1e}", verdict]


def main() -> int:
    try:
        import trl
    except ImportError as error:
        print(f'{error.name} is not installed: pip install "trl==1.16.*" (or trl==1.12.0 for PPO)', file=sys.stderr)
        return 2
    warnings.simplefilter("ignore")
    old = tuple(map(int, trl.__version__.split(".")[:2])) < (1, 13)
    rows = [row for backend in installed() for row in (compare_ppo(backend) if old else compare_all(backend))]
    title = f"Relative differences of loss and gradient, bound {BOUND:g} (TRL {trl.__version__})"
    tables.kept_table(title, ["quantity", "backend", "loss", "gradient", ""], [row.cells() for row in rows])
    print(f"{sum(row.ok for row in rows)} of {len(rows)} as they should be.")
    return 0 if all(row.ok for row in rows) else 1


def installed() -> list[Backend]:
    found = []
    for name in BACKENDS:
        try:
            found.append(get_backend(name, "cpu"))
        except BackendUnavailable as error:
            print(f"{name} is not compared: {error}", file=sys.stderr)
    return found


def compare_all(backend: Backend) -> Iterator[Row]:
    yield from compare_grpo(backend)
    yield from compare_advantages(backend)
    yield from compare_dpo(backend)
    yield from compare_reference_free(backend)
    yield from compare_kto(backend)
    yield from compare_rewards(backend)
    yield from compare_gkd(backend)


# ---- both sides ----------------------------------------------------------------------------------------------


def ours(backend: Backend, function: Callable[[Array], Array], at: np.ndarray) -> tuple[float, np.ndarray]:
    """A scalar loss and its gradient, on the backend."""
    (loss, _), grads = backend.value_and_grad(lambda w: (function(w["x"]), {}))({"x": backend.array(at)})
    return float(loss), backend.numpy(grads["x"])


def theirs(function: Callable[[Any], Any], at: np.ndarray) -> tuple[float, np.ndarray]:
    """The same in torch's float64."""
    import torch

    x = torch.tensor(at, requires_grad=True)
    loss = function(x)
    return loss.item(), torch.autograd.grad(loss, x)[0].numpy()


def row(backend: Backend, quantity: str, found: tuple, expected: tuple, wrong: bool = False) -> Row:
    value = abs(found[0] - expected[0]) / max(abs(expected[0]), 0.1)
    return Row(quantity, backend.name, value, relative(found[1], expected[1]), wrong)


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def tensors(**arrays: np.ndarray) -> dict[str, Any]:
    import torch

    return {name: torch.tensor(array) for name, array in arrays.items()}


def made(kind: type, **attributes: Any) -> Any:
    """A trainer without its constructor: only what its loss reads."""
    import torch

    trainer = object.__new__(kind)
    same = lambda x, **_: x  # noqa: E731
    accelerator = SimpleNamespace(gather=same, gather_for_metrics=same, reduce=same, num_processes=1,
                                  device=torch.device("cpu"))  # fmt: skip
    trainer.accelerator, trainer._metrics = accelerator, defaultdict(lambda: defaultdict(list))
    trainer.model, trainer.aux_loss_enabled = SimpleNamespace(training=True), False
    trainer._total_train_tokens, trainer._tp_size = 0, 1
    for name, value in attributes.items():
        setattr(trainer, name, value)
    return trainer


def cut(method: Callable, first: str, last: str) -> str:
    """The lines of a method from the one that starts with `first` to the one that starts with `last`."""
    lines = getsource(method).splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip().startswith(first))
    end = next(i for i, line in enumerate(lines) if i >= start and line.strip().startswith(last))
    return dedent("\n".join(lines[start : end + 1]))


# ---- GRPO and RLOO -------------------------------------------------------------------------------------------


def compare_grpo(backend: Backend) -> Iterator[Row]:
    """Every loss × ratio × KL × clipping that both have, with an answer that was cut off."""
    kinds = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo")
    clips = {"clip 0.2": {}, "clip-higher 0.2/0.4": {"clip_high": 0.4}, "delta 1.6": {"delta": 1.6}}
    for loss, ratio, kl, clip in itertools.product(kinds, ("token", "sequence"), (None, "k3", "k3c"), clips):
        if (ratio, kl) == ("sequence", "k3c") or (loss, clip) == ("cispo", "delta 1.6"):
            continue
        settings = PolicySettings(loss, ratio, kl=kl or "k3", kl_coefficient=0.3 if kl else 0.0, **clips[clip])
        name = f"{loss}, {ratio} ratio, {kl or 'no KL'}, {clip}"
        yield row(backend, name, our_policy(backend, settings), their_grpo(settings))
    settings = PolicySettings("grpo")
    yield row(backend, "grpo, averaged like dapo", our_policy(backend, settings, "dapo"), their_grpo(settings), True)
    other = PolicySettings("grpo", "sequence")
    yield row(backend, "grpo, the other ratio", our_policy(backend, other), their_grpo(settings), True)


def our_policy(backend: Backend, settings: PolicySettings, averaged: str = "") -> tuple[float, np.ndarray]:
    weights = token_weights(FINISHED, averaged or settings.loss, LONGEST)
    advantages = np.repeat(answer_advantages("group", REWARDS).reshape(-1, 1), T, axis=1)
    given = [backend.array(x) for x in (OLD, advantages, FINISHED)]
    reference, weights = backend.array(REFERENCE), backend.array(weights)
    return ours(backend, lambda x: (policy_losses(backend, x, *given, settings, reference) * weights).sum(), LOGPROBS)


def their_grpo(settings: PolicySettings) -> tuple[float, np.ndarray]:
    import torch
    from trl import GRPOTrainer

    high = settings.clip_high + (settings.loss == "cispo")  # TRL's epsilon_high of cispo is the bound itself
    args = SimpleNamespace(use_bias_correction_kl=settings.kl == "k3c", delta=settings.delta, steps_per_generation=1)
    trainer = made(
        GRPOTrainer, args=args, top_entropy_quantile=1.0, off_policy_mask_threshold=None, use_vllm=False,
        importance_sampling_level=settings.ratio, beta=settings.kl_coefficient, epsilon_low=settings.clip_low,
        epsilon_high=high, loss_type=settings.loss, _entropy_bonus_enabled=False, max_completion_length=LONGEST,
        current_gradient_accumulation_steps=1,
    )  # fmt: skip
    advantages = answer_advantages("group", REWARDS).ravel()
    inputs = tensors(
        prompt_ids=np.zeros((N, 1), int), prompt_mask=np.ones((N, 1), int), completion_ids=np.zeros((N, T), int),
        completion_mask=FINISHED, advantages=advantages, old_per_token_logps=OLD, ref_per_token_logps=REFERENCE,
        num_items_in_batch=FINISHED.sum(),
    )  # fmt: skip

    def loss(x: Any) -> Any:
        trainer._get_per_token_logps_and_entropies = lambda *_, **__: (x, torch.zeros(N, T), None)
        return trainer._compute_loss(trainer.model, inputs)

    return theirs(loss, LOGPROBS)


def compare_advantages(backend: Backend) -> Iterator[Row]:
    """Advantages have no gradient; both columns show the largest difference."""
    from trl import GRPOTrainer, RLOOTrainer
    from trl.trainer.utils import nanstd

    method = GRPOTrainer._generate_and_score_completions
    source = cut(method, "mean_grouped_rewards = torch.nanmean", "advantages = advantages / (std_rewards")
    for scale, kind in {"group": "group", "none": "dr_grpo", "batch": "group_batch"}.items():
        found = executed(source, nanstd=nanstd, self=SimpleNamespace(scale_rewards=scale))
        yield same_numbers(backend, f"advantages, {scale}", answer_advantages(kind, REWARDS), found)
    source = cut(RLOOTrainer._generate_and_score_completions, "grouped_rewards = ", "advantages = rewards - baselines")
    yield same_numbers(backend, "advantages, RLOO", answer_advantages("rloo", REWARDS),
                       executed(source, nanstd=nanstd))


def executed(source: str, **names: Any) -> np.ndarray:
    import torch

    known = {"torch": torch, "rewards": torch.tensor(REWARDS.ravel()), "num_generations": REWARDS.shape[1], **names}
    exec(source, known)  # noqa: S102 - lines of the installed TRL
    return known["advantages"].numpy().reshape(REWARDS.shape)


def same_numbers(backend: Backend, name: str, found: np.ndarray, expected: np.ndarray, wrong: bool = False) -> Row:
    return Row(name, backend.name, relative(found, expected), 0.0, wrong)


# ---- preferences ---------------------------------------------------------------------------------------------


def our_preference(backend: Backend, kind: str, settings: PreferenceSettings, at: np.ndarray = ANSWERS, **rest: Any):
    """Mean over the pairs; what is missing in `rest` is None."""
    shape = (1, *at.shape)
    given = {name: backend.array(x.reshape(shape)) if isinstance(x, np.ndarray) else x for name, x in rest.items()}
    return ours(
        backend, lambda x: answer_losses(backend, kind, Answers(x.reshape(shape), **given), settings).mean(), at
    )


def compare_dpo(backend: Backend) -> Iterator[Row]:
    settings = PreferenceSettings(beta=0.2, label_smoothing=0.1)
    kinds = ("sigmoid", "ipo", "hinge", "robust", "apo_zero", "apo_down")
    for kind in kinds:
        found = our_preference(backend, kind, settings, reference=ANSWER_REFERENCE, lengths=LENGTHS.astype(float))
        yield row(backend, f"DPO, {kind}", found, their_dpo(kind, settings))
        turned = our_preference(backend, kind, settings, -ANSWERS, reference=-ANSWER_REFERENCE, lengths=1.0 * LENGTHS)
        yield row(backend, f"DPO, {kind}, sides exchanged", turned, their_dpo(kind, settings), True)


def their_dpo(kind: str, settings: PreferenceSettings) -> tuple[float, np.ndarray]:
    """TRL sums log-probabilities of tokens: each answer's sum stands at its first token."""
    import torch
    from trl import DPOTrainer

    lengths = LENGTHS.T.ravel()  # chosen answers first
    mask = (np.arange(9) < lengths[:, None] + 1) & (np.arange(9) > 0)  # (2 P, 9) after a prompt of one token
    trainer = made(
        DPOTrainer, loss_types=[kind], loss_weights=[1.0], beta=settings.beta, label_smoothing=settings.label_smoothing,
        f_divergence_type="reverse_kl", ld_alpha=None, precompute_ref_logps=True, use_weighting=False,
    )  # fmt: skip
    inputs = tensors(input_ids=np.zeros(mask.shape, int), completion_mask=mask.astype(int), attention_mask=mask + 0,
                     ref_chosen_logps=ANSWER_REFERENCE[:, 0], ref_rejected_logps=ANSWER_REFERENCE[:, 1])  # fmt: skip
    nothing = torch.zeros(mask.shape[0], mask.shape[1] - 1)

    def loss(x: Any) -> Any:
        logprobs = torch.cat([x.T.reshape(-1, 1), torch.zeros(len(lengths), 7, dtype=x.dtype)], dim=1)
        given = SimpleNamespace(log_probs=logprobs, entropy=nothing, mean_logits=nothing, is_top1=nothing > 0)
        model = lambda **_: given  # noqa: E731
        return trainer._compute_loss(model, inputs, False)

    return theirs(loss, ANSWERS)


def compare_reference_free(backend: Backend) -> Iterator[Row]:
    """SimPO and cDPO against TRL's CPO, ORPO against TRL's odds ratio and its likelihood of the chosen answer."""
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

    settings = PreferenceSettings(beta=0.4, label_smoothing=0.1, target_margin=0.7)
    lengths = LENGTHS.astype(float)

    def cpo(kind: str, smoothing: float) -> Any:
        return made(CPOTrainer, alpha=0.0, beta=settings.beta, loss_type=kind, simpo_gamma=settings.target_margin,
                    label_smoothing=smoothing)  # fmt: skip

    def simpo(x: Any) -> Any:
        means = x / tensors(n=lengths)["n"]
        return cpo("simpo", 0.0).cpo_loss(means[:, 0], means[:, 1])[0].mean()

    def cdpo(x: Any) -> Any:
        ratios = x - tensors(r=ANSWER_REFERENCE)["r"]
        return cpo("sigmoid", 0.1).cpo_loss(ratios[:, 0], ratios[:, 1])[0].mean()

    def orpo(x: Any) -> Any:
        means = x / tensors(n=lengths)["n"]
        trainer = made(ORPOTrainer, beta=settings.beta)
        return -means[:, 0].mean() - trainer.odds_ratio_loss(means[:, 0], means[:, 1])[0].mean()

    yield row(backend, "SimPO", our_preference(backend, "simpo", settings, lengths=lengths), theirs(simpo, ANSWERS))
    found = our_preference(backend, "cdpo", settings, reference=ANSWER_REFERENCE)
    yield row(backend, "cDPO (label smoothing)", found, theirs(cdpo, ANSWERS))
    yield row(backend, "ORPO", our_preference(backend, "orpo", settings, lengths=lengths), theirs(orpo, ANSWERS))
    found = our_preference(backend, "simpo", settings, lengths=0 * lengths + 1)
    yield row(backend, "SimPO on sums", found, theirs(simpo, ANSWERS), True)


def compare_kto(backend: Backend) -> Iterator[Row]:
    """Single answers with labels; the log-probabilities of mismatched answers give the baseline."""
    import torch
    from trl import KTOTrainer

    policy, reference = ANSWERS.ravel(), ANSWER_REFERENCE.ravel()
    labels = np.array([1, 0, 0, 1, 1, 1, 0, 1])
    mismatched, mismatched_reference = drawn(-9, -3, 8), drawn(-12, -6, 8)
    settings = PreferenceSettings(beta=0.3, desirable_weight=1.3, undesirable_weight=0.7)
    inputs = tensors(
        input_ids=np.zeros((8, 3), int), completion_mask=np.ones((8, 3), int), label=labels.astype(bool),
        attention_mask=np.ones((8, 3), int), ref_logps=reference, ref_KL_logps=mismatched_reference,
    )  # fmt: skip
    trainer = made(
        KTOTrainer, precompute_ref_logps=True, calculate_KL=True, loss_type="kto", beta=settings.beta,
        desirable_weight=settings.desirable_weight, undesirable_weight=settings.undesirable_weight,
        _compute_kl_logps=lambda *_: torch.tensor(mismatched),
    )  # fmt: skip
    nothing = torch.zeros(8, 2)

    def loss(x: Any) -> Any:
        logprobs = torch.stack([x, 0 * x], dim=1)
        given = SimpleNamespace(log_probs=logprobs, entropy=nothing, mean_logits=nothing, is_top1=nothing > 0)
        model = lambda **_: given  # noqa: E731
        found = trainer._compute_loss(model, inputs, False)
        return found[0] if isinstance(found, tuple) else found

    baseline = kto_baseline(mismatched, mismatched_reference)
    assert baseline > 0, baseline
    rest = {"reference": reference, "labels": labels.astype(float)}
    found = our_preference(backend, "kto", settings, policy, baseline=baseline, **rest)
    expected = theirs(loss, policy)
    yield row(backend, "KTO", found, expected)
    found = our_preference(backend, "kto", settings, policy, baseline=0.0, **rest)
    yield row(backend, "KTO without its baseline", found, expected, True)


# ---- reward model and distillation ---------------------------------------------------------------------------


def compare_rewards(backend: Backend) -> Iterator[Row]:
    from trl import RewardTrainer

    scores, margins = drawn(-2, 2, PAIRS, 2), drawn(0, 1, PAIRS)
    for margin, centering in itertools.product((None, margins), (None, 0.05)):
        trainer = made(RewardTrainer, args=SimpleNamespace(center_rewards_coefficient=centering))
        inputs = tensors(attention_mask=np.ones((2 * PAIRS, 3))) | ({} if margin is None else tensors(margin=margin))

        def loss(x: Any, trainer: Any = trainer, inputs: dict = inputs) -> Any:
            return trainer_loss(trainer, x, inputs)

        held = None if margin is None else backend.array(margin)

        def our_loss(x: Array, held: Array | None = held, centering: float | None = centering) -> Array:
            return pair_losses(backend, x[:, 0], x[:, 1], held, centering or 0.0).mean()

        name = f"reward model{', margin' if margin is not None else ''}{', centering' if centering else ''}"
        yield row(backend, name, ours(backend, our_loss, scores), theirs(loss, scores))


def trainer_loss(trainer: Any, scores: Any, inputs: dict) -> Any:
    """RewardTrainer's loss of scores (P, 2), chosen answers first in its batch."""
    trainer.model = lambda **_: SimpleNamespace(logits=scores.T.reshape(-1, 1))
    trainer.model.training = True
    return trainer.compute_loss(trainer.model, dict(inputs))


def compare_gkd(backend: Backend) -> Iterator[Row]:
    from trl.experimental.gkd import GKDTrainer

    student, teacher = drawn(-3, 3, 2, 4, 9), drawn(-3, 3, 2, 4, 9)
    held = backend.array(teacher)
    cases = {("forward_kl", 0.0), ("reverse_kl", 1.0), ("jsd", 0.5), ("jsd", 0.1)}
    for (kind, beta), temperature in itertools.product(sorted(cases), (1.0, 0.7, 2.5)):
        def their_loss(x: Any, beta: float = beta, temperature: float = temperature) -> Any:
            given = tensors(teacher=teacher)["teacher"]
            found = GKDTrainer.generalized_jsd_loss(x, given, None, beta, temperature, "none")
            return found.sum(dim=-1).mean()

        def our_loss(x: Array, kind: str = kind, beta: float = beta, temperature: float = temperature) -> Array:
            return distances(backend, x, held, kind, temperature, beta).mean()

        name = f"GKD, {kind}, β {beta:g}, T {temperature:g}"
        yield row(backend, name, ours(backend, our_loss, student), theirs(their_loss, student))
    found = ours(backend, lambda x: distances(backend, x, held, "jsd", 1.0, 0.9).mean(), student)
    yield row(backend, "GKD, the mixture's weights exchanged", found, theirs(
        lambda x: GKDTrainer.generalized_jsd_loss(x, tensors(t=teacher)["t"], None, 0.1, 1.0, "none").sum(-1).mean(),
        student), True)  # fmt: skip


# ---- PPO (TRL 1.12) ------------------------------------------------------------------------------------------


def compare_ppo(backend: Backend) -> Iterator[Row]:
    """From scores and log-probabilities to the losses, with the lines of TRL's training loop.

    TRL puts the score, with the penalty for a missing end, and one more value of the critic on the first PAD after
    the end token (huggingface/trl#3750, #5338). With that one line mended (the score's place is the last real token)
    all numbers agree; as it is, they must not.
    """
    for gamma, lam in ((1.0, 0.95), (0.9, 0.8)):
        settings = SimpleNamespace(
            kl_coef=0.1, kl_estimator="k1", gamma=gamma, lam=lam, whiten_rewards=False, missing_eos_penalty=1.5,
            cliprange=0.2, cliprange_value=0.2, vf_coef=0.1,
        )  # fmt: skip
        for whiten in (False, True):
            settings.whiten_rewards = whiten
            name = f"γ {gamma:g}, λ {lam:g}{', rewards whitened' if whiten else ''}"
            yield from compare_ppo_with(backend, name, settings)


SCORES = REWARDS.ravel()
ENDED = np.array([False, True, True, True, False, True])
VALUES, MOVED_VALUES = drawn(-1, 1), drawn(-1, 1)
NEW = (LOGPROBS + drawn(-0.5, 0.5)).astype(np.float32).astype(np.float64)


def compare_ppo_with(backend: Backend, name: str, settings: SimpleNamespace) -> Iterator[Row]:
    found = our_ppo(settings)
    for mended in (True, False):
        known = their_ppo(settings, mended)
        what = "PPO" if mended else "PPO, TRL's score on PAD"
        for quantity, ours_ in found.items():
            expected = known[quantity].numpy() * MASK
            yield same_numbers(backend, f"{what}: {quantity}, {name}", ours_, expected, not mended)
    known = their_ppo(settings, True)
    advantages, targets = (known[key].numpy() for key in ("advantages", "returns"))
    expected = their_ppo_losses(settings, known)
    weights = backend.array(token_weights(MASK, "bnpo"))
    old, a, mask, old_values, goal = (backend.array(x) for x in (LOGPROBS, advantages, MASK, VALUES, targets))

    def policy(x: Array) -> Array:
        return (policy_losses(backend, x, old, a, mask, PolicySettings("bnpo")) * weights).sum()

    def value(x: Array) -> Array:
        return (value_losses(backend, x, old_values, goal, mask, settings.cliprange_value) * weights).sum()

    yield row(backend, f"PPO: policy loss, {name}", ours(backend, policy, NEW), expected["pg_loss"])
    yield row(backend, f"PPO: value loss, {name}", ours(backend, value, MOVED_VALUES), expected["vf_loss"])


def our_ppo(settings: SimpleNamespace) -> dict[str, np.ndarray]:
    how = TokenRewards(settings.kl_coef, settings.missing_eos_penalty)
    rewards = token_rewards(SCORES, MASK, LOGPROBS - REFERENCE, ENDED, how)
    if settings.whiten_rewards:
        rewards = whitened(rewards, MASK, centre=False)
    advantages, returns = gae(rewards, VALUES, MASK, settings.gamma, settings.lam)
    return {"rewards": rewards, "returns": returns, "advantages": whitened(advantages, MASK)}


def their_ppo(settings: SimpleNamespace, mended: bool) -> dict[str, Any]:
    """The names that TRL's lines define, from the penalty for a missing end to the whitened advantages."""
    import torch
    from trl.experimental.ppo import ppo_trainer

    source = cut(ppo_trainer.PPOTrainer.train, "contain_eos_token = ", "advantages = torch.masked_fill(")
    if mended:
        assert source.count("sequence_lengths_p1 = sequence_lengths + 1") == 1
        source = source.replace("sequence_lengths_p1 = sequence_lengths + 1", "sequence_lengths_p1 = sequence_lengths")
    ids = np.where(MASK > 0, 5, 0)
    ids[ENDED, MASK[ENDED].sum(axis=1).astype(int) - 1] = 2  # the end token
    known = vars(ppo_trainer) | tensors(
        scores=SCORES, responses=ids, postprocessed_responses=ids, logprobs=LOGPROBS, ref_logprobs=REFERENCE,
        values=VALUES, sequence_lengths=MASK.sum(axis=1).astype(int) - 1,
    )  # fmt: skip
    known |= {"args": settings, "torch": torch}
    known["self"] = SimpleNamespace(args=settings, processing_class=SimpleNamespace(eos_token_id=2))
    exec(source, known)  # noqa: S102 - lines of the installed TRL
    return known


def their_ppo_losses(settings: SimpleNamespace, known: dict[str, Any]) -> dict[str, tuple[float, np.ndarray]]:
    from trl.experimental.ppo import ppo_trainer

    source = cut(ppo_trainer.PPOTrainer.train, "vpred = torch.masked_fill", "loss = pg_loss + args.vf_coef")
    found = {}
    for quantity, at in (("pg_loss", NEW), ("vf_loss", MOVED_VALUES)):

        def loss(x: Any, quantity: str = quantity) -> Any:
            moved = x if quantity == "vf_loss" else tensors(v=MOVED_VALUES)["v"]
            logprobs = x if quantity == "pg_loss" else tensors(x=NEW)["x"]
            names = known | {
                "vpred": moved, "new_logprobs": logprobs, "micro_batch_inds": slice(None), "mb_values": known["values"],
                "mb_return": known["returns"], "mb_advantage": known["advantages"], "mb_logprobs": known["logprobs"],
            }  # fmt: skip
            names["new_logprobs"] = logprobs.masked_fill(known["padding_mask"], ppo_trainer.INVALID_LOGPROB)
            exec(source, names)  # noqa: S102 - lines of the installed TRL
            return names[quantity]

        found[quantity] = theirs(loss, at)
    return found


if __name__ == "__main__":
    sys.exit(main())
