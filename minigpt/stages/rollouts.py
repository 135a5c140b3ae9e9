"""Answers that the model in training gives to prompts, judged: what the batches of its next steps are made of.

A batch is a pure function of (weights, seed, step). Where several steps learn from the same answers, these are kept
in the stage's directory until no checkpoint can need them, so that training resumed between them goes on exactly.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backends.base import Array
from backends.tree import Tree
from minigpt.data.batches import Batch, stream
from minigpt.generate.engine import Answer
from minigpt.stages.micro_batches import Reader
from minigpt.stages.packed import READ
from minigpt.stages.questions import Question, answered_and_judged, in_turn, questions_of
from minigpt.stages.stage import Job
from minigpt.store.durable import whole_file
from minigpt.train.advantages import informative
from minigpt.train.losses import losses_after, token_losses, where_counted
from minigpt.train.policy_losses import token_entropy
from minigpt.train.rewards import Reward

SAMPLES = "samples"  # the best and the worst answer, as JSON, beside what a step learns from


@dataclass
class Sampled:
    """The answers of a step: K to each of G questions, their weighted rewards and those of each of F functions."""

    questions: list[Question]  # (G,)
    answers: list[list[Answer]]  # (G, K)
    rewards: np.ndarray  # (G, K)
    single: np.ndarray  # (G, K, F)

    def compared(self) -> Iterator[tuple[list[str], list[str], np.ndarray]]:
        """(prompts, texts, rewards (N,)) of answers that are compared with each other: the K answers to one question,
        or all answers, where each question has one.
        """
        size = self.rewards.shape[1] if self.rewards.shape[1] > 1 else self.rewards.size
        asked = [question.text for question, group in zip(self.questions, self.answers, strict=True) for _ in group]
        said = [answer.text for group in self.answers for answer in group]
        for first in range(0, len(said), size):
            here = slice(first, first + size)
            yield asked[here], said[here], self.rewards.reshape(-1)[here]

    def best_and_worst(self) -> list[dict[str, Any]]:
        """Rows `{"prompt", "text", "reward"}` for samples.jsonl, of the compared answers with the widest spread."""
        prompts, texts, rewards = max(self.compared(), key=lambda group: group[2].std())
        places = dict.fromkeys((int(rewards.argmax()), int(rewards.argmin())))
        return [{"prompt": prompts[i], "text": texts[i], "reward": float(rewards[i])} for i in places]


Make = Callable[[int, Tree, Sampled], Batch]  # (step, weights, answers) -> the arrays of a batch


class Rollouts:
    """`rollouts(step, weights)`: the batch of a step, which `make` makes of the sampled and judged answers.

    To the batch are added columns `told` (B, M), whose sums over the rows are the step's `figures` (M names). `latest`
    are the answers that this process sampled last, `samples` the best and the worst of those that the step learns from.
    """

    def __init__(self, job: Job, rewards: list[Reward], make: Make):
        self.job, self.config, self.rewards, self.make = job, job.config, rewards, make
        self.questions = questions_of(job, job.training)
        self.groups, self.size = self.config.groups
        names = [f"reward_{reward.name}" for reward in rewards] if len(rewards) > 1 else []
        self.figures = ["reward", "reward_spread", "length", "shortest", "longest", "cut_off", "no_variance", *names]
        self.latest: Sampled | None = None
        self.samples: list[dict[str, Any]] = []

    def __call__(self, step: int, weights: Tree) -> Batch:
        first = step - step % self.config.updates
        path = None if self.job.directory is None else self.job.directory / "rollouts" / f"{first:08}.npz"
        group = self.job.model.backend.group
        if self.config.updates > 1 and step > first and path is not None and group.first(path.exists):
            with np.load(path) as kept:
                batch = dict(kept)
            self.samples = json.loads(str(batch.pop(SAMPLES, "[]")))
            return batch
        self.latest = self._sampled(step, weights)
        self.samples = self.latest.best_and_worst()
        batch = self.make(step, weights, self.latest)
        batch["told"] = self._told(self.latest, len(batch["ids"]))
        if self.config.updates > 1 and path is not None and group.rank == 0:
            self._keep(path, batch, step)
        return batch

    def _sampled(self, step: int, weights: Tree) -> Sampled:
        """Answers to the step's prompts, judged; groups that earned the same are replaced `redraws` times."""
        first = step // self.config.updates * self.groups
        found = self._judged(in_turn(self.questions, first, self.groups, self.job.seed), weights, step, 0)
        for attempt in range(1, self.config.redraws + 1):
            dull = np.flatnonzero(~informative(found.rewards))
            if not len(dull):
                break
            drawn = stream(self.job.seed + attempt, "redraw", step).integers(0, len(self.questions), len(dull))
            new = self._judged([self.questions[i] for i in drawn], weights, step, attempt)
            found.rewards[dull], found.single[dull] = new.rewards, new.single
            for place, question, group in zip(dull, new.questions, new.answers, strict=True):
                found.questions[place], found.answers[place] = question, group
        return found

    def _judged(self, questions: list[Question], weights: Tree, step: int, attempt: int) -> Sampled:
        """Answers to each question; one reading of a prompt serves all of its answers."""
        count, size = len(questions), self.size
        asked = [question for question in questions for _ in range(size)]
        answers, totals, single = answered_and_judged(
            self.job, self.rewards, weights, asked, step, attempt, together=size
        )
        groups = [answers[i : i + size] for i in range(0, len(answers), size)]
        return Sampled(questions, groups, totals.reshape(count, size), single.reshape(count, size, -1))

    def _told(self, found: Sampled, rows: int) -> np.ndarray:
        """(rows, M) whose columns add up to the step's figures, however its rows are divided into micro-batches."""
        totals, answers = found.rewards, [answer for group in found.answers for answer in group]
        lengths = [len(answer.ids) for answer in answers]
        cut = np.mean([answer.reason != "stop" for answer in answers])
        figures = [totals.mean(), totals.std(axis=1).mean(), np.mean(lengths), min(lengths), max(lengths), cut]
        figures.append(np.mean(~informative(totals)))
        figures += list(found.single.reshape(-1, len(self.rewards)).mean(axis=0)) if len(self.rewards) > 1 else []
        return np.tile(np.array(figures, np.float32) / rows, (rows, 1))

    def _keep(self, path: Path, batch: Batch, step: int) -> None:
        """Write the answers down; those that no checkpoint can need are removed."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **batch, **{SAMPLES: np.array(json.dumps(self.samples))})
        for other in path.parent.glob("*.npz"):
            if int(other.stem) < oldest_needed(self.config, step):
                other.unlink()


def figures_of(names: list[str], told) -> dict:
    """A step's figures by name: the column sums of `told` (B, M) over its (micro-)batch."""
    sums = told.sum(axis=0)  # (M,)
    return {name: sums[i] for i, name in enumerate(names)}


def oldest_needed(config, step: int) -> int:
    """The first step whose answers a checkpoint that is still there may need."""
    return step - (config.keep_last + 2) * config.save_every - config.updates


def token_logprobs(job: Job) -> Reader:
    """(weights, batch) -> (R, W) log-probabilities of the sampled tokens, at the temperature of sampling."""
    model, temperature = job.model, job.config.temperature

    def read(weights, batch):
        return -token_losses(model, weights, batch, batch["mask"] > 0, temperature)

    return Reader(model.backend, read, READ, job.rows_at_once)


def scored(job: Job, weights: Tree, hidden: Array, batch: dict[str, Array]) -> tuple[Array, Array | None]:
    """(log-probabilities of the sampled tokens, entropies, where the loss reads them), (R, W) each, after hidden states
    (R, W, d), at the temperature of sampling.
    """
    model, config, backend = job.model, job.config, job.model.backend
    if not config.entropy_coefficient:
        return -losses_after(model, weights, hidden, batch["targets"], batch["mask"] > 0, config.temperature), None

    def both(hidden: Array, targets: Array) -> list[Array]:
        logits = backend.cast(model.logits(weights, hidden), "float32") * (1.0 / config.temperature)
        return [-backend.token_nll(logits, targets), token_entropy(backend, logits)]

    return tuple(where_counted(backend, both, hidden, batch["targets"], batch["mask"] > 0))
