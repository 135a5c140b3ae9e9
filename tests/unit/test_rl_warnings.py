"""What is said when a model that learns from rewards goes astray: each sentence once, and none where all is well."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from minigpt.cli.progress import Pace, training_line
from minigpt.events import Step
from minigpt.generate.engine import Answer
from minigpt.stages.questions import Question
from minigpt.stages.rollouts import Sampled
from minigpt.stages.warnings import WINDOW, Warnings

FINE = {"reward": 0.5, "kl": 0.01, "length": 12.0}


def watched(tmp_path, steps, sampled=None, stage="grpo", **settings):
    """The sentences after these steps' metrics, each with new answers."""
    notes, rollouts = [], SimpleNamespace(latest=None)
    config = SimpleNamespace(sample_every=0, eval_every=2, steps=len(steps))
    job = SimpleNamespace(config=config, directory=tmp_path, report=lambda note: notes.append(note.text))
    hook = Warnings(stage, job, rollouts, **settings)
    for number, metrics in enumerate(steps, 1):
        rollouts.latest = sampled(number) if sampled else answers({"Good.": 1.0, "Bad.": 0.0})
        rollouts.samples = rollouts.latest.best_and_worst()
        hook(SimpleNamespace(step=number), SimpleNamespace(metrics=FINE | metrics))
    return notes


def answers(rewards):
    """One question with these answers."""
    found = [Answer([5] * max(1, len(text)), text, "stop", 2) for text in rewards]
    totals = np.array([list(rewards.values())])
    return Sampled([Question([1], "Why?", {})], [found], totals, totals[..., None])


def single(rewards):
    """An answer to each of several questions, as PPO samples them."""
    found = [[Answer([5] * max(1, len(text)), text, "stop", 2)] for text in rewards]
    totals = np.array(list(rewards.values()))[:, None]
    return Sampled([Question([n], f"Why {n}?", {}) for n in range(len(found))], found, totals, totals[..., None])


def test_nothing_is_said_where_all_is_well(tmp_path):
    rising = [{"reward": 0.1 * n, "kl": 0.005 * n} for n in range(12)]
    assert watched(tmp_path, rising) == []


def test_a_reward_that_rises_while_kl_explodes(tmp_path):
    steps = [{"reward": 0.1 * n, "kl": 0.01 * 2**n} for n in range(14)]
    notes = watched(tmp_path, steps)
    assert len(notes) == 1 and "the reward rose from 0.2 to" in notes[0] and "nats per token" in notes[0]
    falling = [{"reward": -0.1 * n, "kl": 0.01 * 2**n} for n in range(14)]
    assert watched(tmp_path, falling) == []  # that is no hacking


def test_answers_that_collapse_in_length(tmp_path):
    notes = watched(tmp_path, [{"length": 30 / (1 + n)} for n in range(12)])
    assert len(notes) == 1 and notes[0].startswith("grpo: answers became short: 13.7 tokens on average at first")
    assert watched(tmp_path, [{"length": 2.0}] * WINDOW + [{"length": 0.5}] * WINDOW) == []  # they always were


@pytest.mark.parametrize(("rewards", "words"), [
    ({"Good.": 0.0, " ": 0.4}, "an empty answer earned a reward of 0.4, where others to the same prompt earned 0"),
    ({"Good.": 0.0, "yes yes yes yes yes ": 1.0}, "an answer that repeats itself earned a reward of 1"),
    ({"Good.": 1.0, "Bad.": 1.0}, "all of one prompt earned the same (1 on average)"),
    ({"Good.": 0.0, "It is 1 1 1 1 1": 1.0}, "an answer that repeats itself earned a reward of 1"),
])  # fmt: skip
def test_what_answers_earn(tmp_path, rewards, words):
    notes = watched(tmp_path, [{}] * 3, lambda step: answers(rewards))
    assert len(notes) == 1 and words in notes[0]


@pytest.mark.parametrize("rewards", [
    {"Good.": 1.0, "": 0.0}, {"Good.": 1.0, "": -1.0, "no no no no no": 0.0}, {"Good.": 0.0, "ha ha. And so on.": 1.0},
    {"10000": 1.0, "Bad.": 0.0}, {"It is 1,000,000,000,000": 1.0, "Bad.": 0.0}, {"0.3333": 1.0, "Bad.": 0.0},
])  # fmt: skip
def test_answers_that_earn_nothing_are_no_warning(tmp_path, rewards):
    assert watched(tmp_path, [{}] * 3, lambda step: answers(rewards)) == []


@pytest.mark.parametrize(("rewards", "words"), [
    ({"Good.": -3.0, "Bad.": -4.0, "": -2.0}, "an empty answer earned a reward of -2, where answers earned -3 on"),
    ({"Good.": 0.0, "no no no no no": 0.5}, "an answer that repeats itself earned a reward of 0.5"),
    ({"Good.": 0.2, "Bad.": 0.2}, "all answers of a sampling earned the same (0.2)"),
    ({"Good.": 2.0, "": 1.0, "no no no no no": 1.0}, ""), ({"Good.": 2.0}, ""),
])  # fmt: skip
def test_one_answer_to_each_prompt_is_compared_with_the_others(tmp_path, rewards, words):
    """A reward model's scores have no zero: what is remarkable is above their mean."""
    notes = watched(tmp_path, [{}] * 3, lambda step: single(rewards), "ppo", per="answer")
    assert len(notes) == bool(words) and all(note.startswith(f"ppo: {words}") for note in notes)


def test_the_divergence_is_named_in_its_unit_and_with_the_setting_that_bounds_it(tmp_path):
    steps = [{"reward": 0.1 * n, "kl": 0.3 * 2**n} for n in range(9)]
    notes = watched(tmp_path, steps, None, "ppo", tie="kl_target", per="answer")
    assert len(notes) == 1 and "nats per answer" in notes[0] and "raise kl_target" in notes[0]
    assert watched(tmp_path, steps[:5], None, "ppo", per="answer") == []  # 4.8 nats of an answer are none too many


def test_answers_are_kept_with_their_rewards(tmp_path):
    watched(tmp_path, [{}] * 5)
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text("utf-8").splitlines()]
    assert [row["step"] for row in rows] == [2, 2, 4, 4, 5, 5]  # and after the last step
    assert rows[0] == {"step": 2, "prompt": "Why?", "text": "Good.", "reward": 1.0} and rows[1]["text"] == "Bad."
    one = single({"Good.": 1.0, "Bad.": 0.0, "So so.": 0.5}).best_and_worst()
    assert [(row["prompt"], row["text"]) for row in one] == [("Why 0?", "Good."), ("Why 1?", "Bad.")]


def test_the_line_of_progress_tells_of_rewards_and_sampling():
    metrics = {"reward": 0.512, "reward_spread": 0.2, "kl": 0.0123, "entropy": 1.5, "length": 17.6, "cut_off": 0.25,
               "clip_low": 0.0, "clip_high": 0.0}  # fmt: skip
    step = Step("grpo", 3, 9, 0.0001, 1e-4, 1.0, 640, 2.0, metrics, waited=1.5)
    pace = Pace()
    pace.add(step)
    line = training_line(step, pace, "", None, 200)
    assert line == ("reward 0.512 ± 0.200  KL 0.012  entropy 1.500  length 18  cut off 25%  loss 0.0001  320 tokens/s  "
                    "sampling 75% of the time")  # fmt: skip
