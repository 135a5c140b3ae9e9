"""Online DPO: pairs of the model's own answers, judged and learned from."""

import numpy as np
import pytest
from once import by_turns, once
from test_packed import answers_in, log_probabilities
from test_resume import interrupted, results

from minigpt.events import Eval, Step
from minigpt.model.gpt import GPT
from minigpt.parity.trajectories import losses_of
from minigpt.runs.training import prepared, train_stage
from minigpt.stages.table import STAGES

SETTINGS = {"steps": 30, "batch_size": 4, "group_size": 8, "learning_rate": 3e-2, "warmup_steps": 1, "max_tokens": 4,
            "eval_every": 20, "eval_rows": 4, "rewards": ["regex:[aeiou]"]}  # fmt: skip


def objective_of(run, backend):
    weights, objective, *_ = prepared(run, STAGES["online_dpo"], backend, run.config.online_dpo, lambda event: None)
    return weights, objective


@by_turns("settings", [{"loss": "hinge", "updates": 2}, {}], ids=["hinge", "sigmoid"])
def test_the_reward_rises(backend, copied, settings):
    run, events = copied("online_dpo", **SETTINGS | settings), []
    train_stage(run, "online_dpo", backend, events.append)
    steps, evals = ([e for e in events if isinstance(e, kind)] for kind in (Step, Eval))
    first, last = (np.mean([step.metrics["reward"] for step in part]) for part in (steps[:4], steps[-4:]))
    assert last > first + 0.1, (first, last)
    start = {"sigmoid": np.log(2), "hinge": 1.0}[settings.get("loss", "sigmoid")]
    assert steps[0].loss == pytest.approx(start, abs=1e-4)  # policy and reference are equal
    assert evals[0].metrics["loss"] == -evals[0].metrics["reward"]


def test_a_pair_is_the_best_and_the_worst_answer(backend, copied):
    """Against the answers and the rewards; and the reference's log-probabilities from its bare logits."""
    run = copied("online_dpo", **SETTINGS | {"rewards": ["length:9"], "max_tokens": 12})
    weights, objective = objective_of(run, backend)
    batch, found = objective.batches(1, weights), objective.batches.latest
    assert found.rewards.shape == (4, 8) and batch["weights"].sum() == pytest.approx(1)
    model, expected = GPT(run.model_config, backend), []
    for question, group, rewards in zip(found.questions, found.answers, found.rewards, strict=True):
        earned = [max(0.0, 1 - abs(len(answer.text.strip()) - 9) / 9) for answer in group]
        assert rewards == pytest.approx(earned) and max(earned) > min(earned)
        expected.append((question.ids, *(group[at(earned)].tokens for at in (np.argmax, np.argmin))))
    pairs, read = [], {(row, places[0]): one for *one, row, places in answers_in(
        batch | {"mask": batch["spans"].sum(axis=1)})}  # fmt: skip
    for row, pair in np.argwhere(batch["weights"]):
        (prompt, best), (same, worst) = (read[row, np.flatnonzero(batch["spans"][row, 2 * pair + side])[0]]
                                         for side in (0, 1))  # fmt: skip
        assert prompt == same
        pairs.append((prompt, best, worst))
        for side, answer in enumerate((best, worst)):
            logs = log_probabilities(backend, model, weights, prompt, answer)
            assert batch["reference"][row, pair, side] == pytest.approx(logs.sum(), abs=1e-3)
    assert sorted(pairs) == sorted(expected)


def test_prompts_whose_answers_earn_the_same_teach_nothing(backend, copied):
    run = copied("online_dpo", **SETTINGS | {"rewards": ["regex:[a-z]{90}"]})
    weights, objective = objective_of(run, backend)
    assert (objective.batches(0, weights)["weights"] == 0).all()


@once
def test_resumed_equals_uninterrupted(backend, copied):
    """Stopped after step 3, which learns from the answers of step 2: those are kept."""
    way = {"steps": 4, "save_every": 2, "eval_every": 3, "log_every": 1, "updates": 3, "reference_every": 3}
    whole, parts = (copied("online_dpo", name, **SETTINGS | way) for name in ("whole", "parts"))
    losses = losses_of(whole, "online_dpo", backend)
    assert len(set(losses)) == 3  # the first and the fourth have a new reference: ln 2
    assert interrupted(parts, "online_dpo", backend) == losses
    assert results(parts, "online_dpo") == results(whole, "online_dpo")
