"""What goes wrong when a model learns from rewards for its own answers, in words, each once; and some answers."""

import json
import re
from collections import deque

import numpy as np

from minigpt.events import Note
from minigpt.stages.rollouts import Rollouts, Sampled
from minigpt.stages.stage import Job
from minigpt.train.advantages import informative
from minigpt.train.loop import Done, State
from minigpt.units import shortened

WINDOW = 5  # steps whose mean is compared
FAR = 0.5  # nats per token: answers of 20 tokens are 20,000 times as likely as under the reference
SHORT = 1 / 3  # of the first steps' length
REPEATED = re.compile(r"(.{1,30}?)\1{3,}\Z", re.DOTALL)  # a piece four times in a row at the end


class Warnings:
    """A hook after each step. Answers are looked at when they are new; the best and the worst one of a group are
    written into samples.jsonl as often as the fixed prompts are continued.
    """

    def __init__(self, stage: str, job: Job, rollouts: Rollouts):
        self._stage, self._job, self._rollouts = stage, job, rollouts
        self._seen: Sampled | None = None
        self._said: set[str] = set()
        self._first: deque[dict[str, float]] = deque(maxlen=WINDOW)
        self._last: deque[dict[str, float]] = deque(maxlen=WINDOW)

    def __call__(self, state: State, done: Done) -> None:
        found = self._rollouts.latest
        if found is not None and found is not self._seen:
            self._seen = found
            self._look_at(found)
        if len(self._first) < WINDOW:
            self._first.append(done.metrics)
        self._last.append(done.metrics)
        if len(self._last) == WINDOW and self._last[0] is not self._first[0]:
            self._compare({name: _mean(self._first, name) for name in done.metrics},
                          {name: _mean(self._last, name) for name in done.metrics})  # fmt: skip
        self._write(state.step)

    def _say(self, kind: str, text: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            self._job.report(Note(f"{self._stage}: {text}"))

    def _look_at(self, found: Sampled) -> None:
        """The answers of one step."""
        totals = found.rewards
        if not informative(totals).any():
            self._say(
                "equal", f"a step's answers taught nothing, as all of one prompt earned the same ({totals.mean():.2g} "
                "on average). Where that is often so, take easier or harder prompts, a larger group_size, or set "
                f"{self._stage}.redraws.",
            )  # fmt: skip
        for group, texts in zip(totals, found.texts(), strict=True):
            for reward, text in zip(group, texts, strict=True):
                if reward > max(0.0, group.min()):
                    self._look_at_one(float(reward), text.strip(), group)

    def _look_at_one(self, reward: float, text: str, group: np.ndarray) -> None:
        """An answer that earned more than nothing, and more than the worst one of its group."""
        earned = f"earned a reward of {reward:.3g}, where others to the same prompt earned {group.min():.3g}"
        if not text:
            self._say("empty", f"an empty answer {earned}: the model will learn to say nothing. Let it earn nothing.")
        elif REPEATED.search(text):
            what = f"an answer that repeats itself {earned}: {_short(text)}"
            self._say("repeated", f"{what}. Let the reward count what is said once.")

    def _compare(self, first: dict[str, float], last: dict[str, float]) -> None:
        """The last steps with the first ones."""
        kl = last.get("kl", 0.0)
        if kl > FAR and kl > 3 * first.get("kl", 0.0) and last["reward"] > first["reward"]:
            self._say(
                "kl", f"the reward rose from {first['reward']:.3g} to {last['reward']:.3g}, while the divergence from "
                f"the reference reached {kl:.2g} nats per token: the model may please the reward and nobody else. Read "
                f"{self._stage}/samples.jsonl; raise kl_coefficient or lower learning_rate.",
            )  # fmt: skip
        if first["length"] >= 3 and last["length"] < SHORT * first["length"]:
            self._say(
                "short", f"answers became short: {first['length']:.1f} tokens on average at first, now "
                f"{last['length']:.1f}. If that is not what the reward is for, raise kl_coefficient, or let the reward "
                "ask for content.",
            )  # fmt: skip

    def _write(self, step: int) -> None:
        """The best and the worst answer of the group with the widest spread, with their rewards."""
        config, found = self._job.config, self._seen
        if found is None or self._job.directory is None or step % (config.sample_every or config.eval_every):
            return
        widest = int(np.argmax(found.rewards.std(axis=1)))
        rewards, texts = found.rewards[widest], found.texts()[widest]
        with (self._job.directory / "samples.jsonl").open("a", encoding="utf-8") as file:
            for place in dict.fromkeys((int(rewards.argmax()), int(rewards.argmin()))):
                row = {"step": step, "prompt": found.questions[widest].text, "text": texts[place],
                       "reward": float(rewards[place])}  # fmt: skip
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _mean(steps: deque[dict[str, float]], name: str) -> float:
    return float(np.mean([metrics.get(name, 0.0) for metrics in steps]))


def _short(text: str, most: int = 60) -> str:
    return repr(shortened(" ".join(text.split()), most))
