"""What goes wrong when a model learns from rewards for its own answers, in words, each once; and some answers."""

import json
import re
from collections import deque
from typing import Any, Literal, Protocol

import numpy as np

from minigpt.events import Note
from minigpt.stages.rollouts import Sampled
from minigpt.stages.stage import Job
from minigpt.train.advantages import informative
from minigpt.train.loop import Done, State
from minigpt.units import shortened

WINDOW = 5  # steps whose mean is compared
FAR = {"token": 0.5, "answer": 10.0}  # nats: answers of 20 tokens are 20,000 times as likely as under the reference
SHORT = 1 / 3  # of the first steps' length
REPEATED = re.compile(r"(.{1,30}?)\1{3,}\Z", re.DOTALL)  # a piece four times in a row at the end
FIGURE = re.compile(r"[.,'’]*\d[\d.,'’]*")  # such a piece within a number: 10000 says nothing twice


class Sampling(Protocol):
    """What makes the batches of sampled answers."""

    latest: Sampled | None  # that this process sampled last
    samples: list[dict[str, Any]]  # rows for samples.jsonl, of the answers that the step learned from


class Warnings:
    """A hook after each step. Answers are looked at when they are new; `samples` are written into samples.jsonl as
    often as the fixed prompts are continued.

    The setting `tie` of the stage holds the model near its reference; the metric `kl`, where a stage has one, is in
    nats `per` token or per answer.
    """

    def __init__(
        self, stage: str, job: Job, sampling: Sampling, tie: str = "kl_coefficient",
        per: Literal["token", "answer"] = "token",
    ):  # fmt: skip
        self._stage, self._job, self._sampling, self._tie, self._per = stage, job, sampling, tie, per
        self._seen: Sampled | None = None
        self._said: set[str] = set()
        self._first: deque[dict[str, float]] = deque(maxlen=WINDOW)
        self._last: deque[dict[str, float]] = deque(maxlen=WINDOW)

    def __call__(self, state: State, done: Done) -> None:
        found = self._sampling.latest
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
        """The answers of one sampling. An answer is remarkable that earned more than nothing and more than the worst
        one to its prompt; where each prompt has one answer, more than the answers do on average.
        """
        alone, groups = found.rewards.shape[1] == 1, list(found.compared())
        if found.rewards.size > 1 and not any(informative(rewards[None])[0] for _, _, rewards in groups):
            self._say("equal", self._all_the_same(float(found.rewards.mean()), alone))
        for _, texts, rewards in groups:
            usual, least = (float(rewards.mean()),) * 2 if alone else (float(rewards.min()), 0.0)
            others = "answers earned {:.3g} on average" if alone else "others to the same prompt earned {:.3g}"
            for reward, text in zip(rewards.tolist(), texts, strict=True):
                if reward > max(usual, least):
                    earned = f"earned a reward of {reward:.3g}, where {others.format(usual)}"
                    self._look_at_one(text.strip(), earned)

    def _all_the_same(self, reward: float, alone: bool) -> str:
        if alone:
            return f"all answers of a sampling earned the same ({reward:.2g}): the rewards tell them not apart."
        return (
            f"a step's answers taught nothing, as all of one prompt earned the same ({reward:.2g} on average). Where "
            f"that is often so, take easier or harder prompts, a larger group_size, or set {self._stage}.redraws."
        )

    def _look_at_one(self, text: str, earned: str) -> None:
        """An answer that earned more than others."""
        if not text:
            self._say("empty", f"an empty answer {earned}: the model will learn to say nothing. Let it earn nothing.")
        elif (found := REPEATED.search(text)) and not FIGURE.fullmatch(found[1]):
            what = f"an answer that repeats itself {earned}: {_short(text)}"
            self._say("repeated", f"{what}. Let the reward count what is said once.")

    def _compare(self, first: dict[str, float], last: dict[str, float]) -> None:
        """The last steps with the first ones."""
        kl = last.get("kl", 0.0)
        if kl > FAR[self._per] and kl > 3 * first.get("kl", 0.0) and last["reward"] > first["reward"]:
            self._say(
                "kl", f"the reward rose from {first['reward']:.3g} to {last['reward']:.3g}, while the divergence from "
                f"the reference reached {kl:.2g} nats per {self._per}: the model may please the reward and nobody "
                f"else. Read {self._stage}/samples.jsonl; raise {self._tie} or lower learning_rate.",
            )  # fmt: skip
        if first["length"] >= 3 and last["length"] < SHORT * first["length"]:
            self._say(
                "short", f"answers became short: {first['length']:.1f} tokens on average at first, now "
                f"{last['length']:.1f}. If that is not what the reward is for, raise {self._tie}, or let the reward "
                "ask for content.",
            )  # fmt: skip

    def _write(self, step: int) -> None:
        config = self._job.config
        due = step % (config.sample_every or config.eval_every) == 0 or step == config.steps
        if self._job.directory is None or not due:
            return
        with (self._job.directory / "samples.jsonl").open("a", encoding="utf-8") as file:
            for row in self._sampling.samples:
                file.write(json.dumps({"step": step, **row}, ensure_ascii=False) + "\n")


def _mean(steps: deque[dict[str, float]], name: str) -> float:
    return float(np.mean([metrics.get(name, 0.0) for metrics in steps]))


def _short(text: str, most: int = 60) -> str:
    return repr(shortened(" ".join(text.split()), most))
