"""Online DPO: pairs of the model's own answers, judged and learned from."""

import numpy as np
import pytest
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


@pytest.mark.parametrize("settings", [{}, {"loss": "hinge", "updates": 2}], ids=["sigmoid", "hinge"])
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
    model, tokenizer = GPT(run.model_config, backend), run.tokenizer
    logits = {n: backend.numpy(model(weights, backend.array(batch["ids"][n : n + 1]), segments=backend.array(
        batch["segments"][n : n + 1])))[0].astype(np.float64) for n in range(4)}  # fmt: skip
    for n, group in enumerate(found.answers):
        earned = [max(0.0, 1 - abs(len(answer.text.strip()) - 9) / 9) for answer in group]
        assert found.rewards[n] == pytest.approx(earned)
        for side, place in ((0, np.argmax(earned)), (1, np.argmin(earned))):
            own = np.flatnonzero(batch["spans"][n, side])
            said = [int(t) for t in batch["targets"][n, own]]
            assert said == group[place].ids + [group[place].stop] * (group[place].stop is not None)
            assert set(batch["segments"][n, own]) == {side}
            logs = logits[n] - np.log(np.exp(logits[n]).sum(-1, keepdims=True))
            assert batch["reference"][n, 0, side] == pytest.approx(logs[own, said].sum(), abs=1e-3)
        prompt = [int(t) for t in batch["ids"][n, : len(found.questions[n].ids)]]
        assert prompt == found.questions[n].ids and tokenizer.decode(prompt)


def test_prompts_whose_answers_earn_the_same_teach_nothing(backend, copied):
    run = copied("online_dpo", **SETTINGS | {"rewards": ["regex:[a-z]{90}"]})
    weights, objective = objective_of(run, backend)
    assert (objective.batches(0, weights)["weights"] == 0).all()


def test_resumed_equals_uninterrupted(backend, copied):
    """Stopped after step 3, which learns from the answers of step 2: those are kept."""
    way = {"steps": 4, "save_every": 2, "eval_every": 3, "log_every": 1, "updates": 3, "reference_every": 3}
    whole, parts = (copied("online_dpo", name, **SETTINGS | way) for name in ("whole", "parts"))
    losses = losses_of(whole, "online_dpo", backend)
    assert len(set(losses)) == 3  # the first and the fourth have a new reference: ln 2
    assert interrupted(parts, "online_dpo", backend) == losses
    assert results(parts, "online_dpo") == results(whole, "online_dpo")
