"""Answers that the model in training gives to prompts, judged, as the batches of its next steps.

A batch is a pure function of (weights, seed, step). Where several steps learn from the same answers, these are kept
in the stage's directory until no checkpoint can need them, so that training resumed between them goes on exactly.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backends.tree import Tree
from minigpt.data.batches import Batch, stream
from minigpt.data.shards import MemoryShard
from minigpt.events import Note
from minigpt.generate.engine import Answer, Engine
from minigpt.generate.sampling import GREEDY, Sampling
from minigpt.stages.stage import Job
from minigpt.store.durable import whole_file
from minigpt.train.advantages import answer_advantages, informative
from minigpt.train.losses import token_losses
from minigpt.train.policy_losses import token_weights, without_unfinished
from minigpt.train.rewards import Reward, RewardFunction, make_rewards, score

WIDTH = 64  # rows are padded to a multiple of this: few shapes to compile
AT_ONCE = 64  # prompts that are answered together when a model is measured


@dataclass(frozen=True)
class Question:
    """A prompt: its ids up to the assistant's turn, the last user message, and the row with the given answer."""

    ids: list[int]
    text: str
    row: dict[str, Any]


def questions_of(owner: Any, shard: MemoryShard) -> list[Question]:
    """The questions of a shard of the form QUESTIONS. Rows that are made up (see Job) get an empty text."""
    found = []
    for i in range(0, len(shard) - 1, 2):
        ids, mask = shard.sequence(i)
        start = int((np.asarray(mask) != 0).argmax())
        ids = [int(token) for token in ids[: start or max(1, len(ids) // 2)]]
        if getattr(owner, "load", True) is None:
            found.append(Question(ids, "", {"answer": "none"}))
            continue
        row = json.loads(owner.tokenizer.decode(int(token) for token in shard.sequence(i + 1)[0]))
        found.append(Question(ids, row["prompt"], row))
    return found


def answered(owner: Any, weights: Tree, questions: list[Question], most: int) -> list[Answer]:
    """The greedy answers; `owner` has the model and the tokenizer. Several processes share the questions out."""
    engine = Engine(owner.model, weights, owner.tokenizer)

    def some(part: list[Question]) -> list[list]:
        return _told(engine.answer([one.ids for one in part], GREEDY, most))

    parts = [questions[first : first + AT_ONCE] for first in range(0, len(questions), AT_ONCE)]
    return [Answer(*fields) for found in owner.model.backend.group.map(some, parts) for fields in found]


def _told(answers: list[Answer]) -> list[list]:
    """The answers' fields, as one process tells another."""
    return [[one.ids, one.text, one.reason, one.stop] for one in answers]


def judged(
    job: Job, rewards: list[Reward], asked: list[Question], answers: list[Answer]
) -> tuple[np.ndarray, np.ndarray]:
    """What `score` finds; nothing is judged where the rows are made up (see Job)."""
    if job.load is None:
        return np.zeros(len(answers)), np.zeros((len(answers), len(rewards)))
    rows = [question.row | {"prompt_ids": question.ids, "answer_ids": answer.tokens}
            for question, answer in zip(asked, answers, strict=True)]  # fmt: skip
    return score(rewards, [one.text for one in asked], [answer.text for answer in answers], rows)


def laid_out(prompts: list[list[int]], answers: list[Answer], context: int) -> Batch:
    """Prompts with their answers as rows: `ids`, `targets` and `mask` (N, T), which is 1 on the answer and its end."""
    rows = [answer.tokens for answer in answers]
    longest = max(len(p) + len(r) for p, r in zip(prompts, rows, strict=True)) - 1
    shape = (len(rows), min(-(-longest // WIDTH) * WIDTH, max(longest, context)))
    ids, targets, mask = np.zeros(shape, np.int32), np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    for n, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
        whole, last = prompt + row, len(prompt) + len(row) - 1
        ids[n, :last], targets[n, :last] = whole[:-1], whole[1:]
        mask[n, len(prompt) - 1 : last] = 1.0
    return {"ids": ids, "targets": targets, "mask": mask}


def rewards_of(job: Job) -> list[Reward]:
    """The rewards that a stage's settings name; a run's reward model must read this run's tokens."""

    def judge(path: str) -> RewardFunction:
        if job.load_scorer is None:
            return lambda prompts, answers, rows: [0.0] * len(answers)
        scorer = job.load_scorer(path)
        scorer.check(job.tokenizer)
        job.report(Note(f"The reward model {scorer.name} judges; its memory is not part of the plan."))

        def scores(prompts: list[str], answers: list[str], rows: list[dict]) -> list[float]:
            found = scorer.scores([row["prompt_ids"] for row in rows], [row["answer_ids"] for row in rows])
            return [one.score for one in found]

        return scores

    return make_rewards(job.config.rewards, job.config.reward_weights, judge)


class Rollouts:
    """`rollouts(step, weights)`: the batch of a step. `figures` names the columns of its `told`."""

    sampled = True

    def __init__(self, job: Job, rewards: list[Reward], reference: Tree | None):
        self.job, self.config, self.rewards, self.reference = job, job.config, rewards, reference
        self.questions = questions_of(job, job.training)
        self.size = min(self.config.group_size, self.config.batch_size)  # made-up rows may be few
        self.groups = self.config.batch_size // self.size
        names = [f"reward_{reward.name}" for reward in rewards] if len(rewards) > 1 else []
        self.figures = ["reward", "reward_spread", "length", "cut_off", "no_variance", *names]
        self.warned = False
        self._logprobs = job.model.backend.compile(self._scored)

    def __call__(self, step: int, weights: Tree) -> Batch:
        first = step - step % self.config.updates
        path = None if self.job.directory is None else self.job.directory / "rollouts" / f"{first:08}.npz"
        group = self.job.model.backend.group
        if self.config.updates > 1 and step > first and path is not None and group.first(path.exists):
            with np.load(path) as kept:
                return dict(kept)
        batch = self._sampled(step, weights)
        if self.config.updates > 1:
            batch["old"] = self._of_all(weights, batch)
            if path is not None and group.rank == 0:
                self._keep(path, batch, step)
        return batch

    def _sampled(self, step: int, weights: Tree) -> Batch:
        """Answers to the step's prompts, judged; groups that earned the same are replaced `redraws` times."""
        numbers = self._numbers(step)
        answers, totals, single = self._judged(numbers, weights, step, 0)
        for attempt in range(1, self.config.redraws + 1):
            dull = np.flatnonzero(~informative(totals))
            if not len(dull):
                break
            drawn = stream(self.job.seed + attempt, "redraw", step).integers(0, len(self.questions), len(dull))
            numbers[dull] = drawn
            new, totals[dull], single[dull] = self._judged(drawn, weights, step, attempt)
            for place, group in zip(dull, new, strict=True):
                answers[place] = group
        return self._batch(numbers, answers, totals, single, weights)

    def _numbers(self, step: int) -> np.ndarray:
        """(G,) questions of a step: each once per epoch, in an order that (seed, epoch) decides."""
        count, first = len(self.questions), step // self.config.updates * self.groups
        places = [divmod(first + i, count) for i in range(self.groups)]
        orders = {epoch: stream(self.job.seed, "order", epoch).permutation(count) for epoch, _ in places}
        return np.array([orders[epoch][i] for epoch, i in places])

    def _judged(
        self, numbers: np.ndarray, weights: Tree, step: int, attempt: int
    ) -> tuple[list[list[Answer]], np.ndarray, np.ndarray]:
        """Answers to each question, their weighted rewards (G, K) and the single ones (G, K, F).

        Several processes share the questions out; an answer depends on its own seed only.
        """
        job, size, group = self.job, self.size, self.job.model.backend.group
        asked = [self.questions[i] for i in numbers for _ in range(size)]
        seeds = stream(job.seed + attempt, "answers", step).integers(0, 2**62, len(asked))
        engine = Engine(job.model, weights, job.tokenizer)

        def some(part: np.ndarray) -> list:
            some_asked = [asked[i] for i in part]
            samplings = [Sampling(self.config.temperature, seed=int(seeds[i])) for i in part]
            answers = engine.answer_each([one.ids for one in some_asked], samplings, self.config.max_tokens)
            return [_told(answers), *judged(job, self.rewards, some_asked, answers)]

        groups = np.array_split(np.arange(len(asked)).reshape(-1, size), min(group.size, len(numbers)))
        parts = group.map(some, [part.reshape(-1) for part in groups])
        answers = [Answer(*fields) for told, _, _ in parts for fields in told]
        totals, single = (np.concatenate([part[i] for part in parts]) for i in (1, 2))
        shape = (len(numbers), size)
        by_question = [answers[i : i + size] for i in range(0, len(answers), size)]
        return by_question, totals.reshape(shape), single.reshape(*shape, -1)

    def _batch(self, numbers, answers, totals: np.ndarray, single: np.ndarray, weights: Tree) -> Batch:
        config = self.config
        prompts = [self.questions[i].ids for i in numbers for _ in range(self.size)]
        flat = [answer for group in answers for answer in group]
        ended = np.array([answer.reason == "stop" for answer in flat])
        rows = laid_out(prompts, flat, self.job.context)
        mask, shape = rows["mask"], rows["mask"].shape
        learned = (without_unfinished(mask, ended) if config.mask_unfinished else mask).astype(np.float32)
        advantages = answer_advantages(config.advantages, totals).reshape(-1, 1) * np.ones(shape)
        batch = {
            "ids": rows["ids"], "targets": rows["targets"], "mask": learned,
            "advantages": advantages.astype(np.float32),
            "weights": token_weights(learned, config.loss, config.max_tokens + 1),
            "shares": token_weights(learned, "dapo"), "told": self._told(flat, totals, single),
        }  # fmt: skip
        self._warn(totals)
        return batch if self.reference is None else batch | {"reference": self._of_all(self.reference, batch)}

    def _told(self, answers: list[Answer], totals: np.ndarray, single: np.ndarray) -> np.ndarray:
        """(N, M) whose columns add up to the step's figures, however its rows are divided into micro-batches."""
        cut = float(np.mean([answer.reason != "stop" for answer in answers]))
        length = float(np.mean([len(answer.ids) for answer in answers]))
        figures = [totals.mean(), totals.std(axis=1).mean(), length, cut, float(np.mean(~informative(totals)))]
        figures += list(single.reshape(-1, single.shape[-1]).mean(axis=0)) if len(self.rewards) > 1 else []
        return np.tile(np.array(figures, np.float32) / len(answers), (len(answers), 1))

    def _warn(self, totals: np.ndarray) -> None:
        if not self.warned and self.job.load is not None and not informative(totals).any():
            self.warned = True
            told = f"grpo: a step's answers taught nothing, as all of one prompt earned the same ({totals.mean():.2g} "
            told += "on average). Where that is often so, take easier or harder prompts, a larger group_size, or "
            self.job.report(Note(f"{told}set grpo.redraws."))

    def _scored(self, weights: Tree, batch: Batch):
        return -token_losses(self.job.model, weights, batch, batch["mask"] > 0, self.config.temperature)

    def _of_all(self, weights: Tree, batch: Batch) -> np.ndarray:
        """(N, T) log-probabilities of the sampled tokens under some weights, micro-batch by micro-batch."""
        backend, size = self.job.model.backend, self.config.micro_batch_size

        def some(first: int) -> np.ndarray:
            rows = {name: backend.array(batch[name][first : first + size]) for name in ("ids", "targets", "mask")}
            return np.array(backend.numpy(self._logprobs(weights, rows)))

        return np.concatenate(backend.group.map(some, range(0, len(batch["ids"]), size)))

    def _keep(self, path: Path, batch: Batch, step: int) -> None:
        """Write the answers down; those that no checkpoint can need are removed."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **batch)
        oldest = step - (self.config.keep_last + 2) * self.config.save_every - self.config.updates
        for other in path.parent.glob("*.npz"):
            if int(other.stem) < oldest:
                other.unlink()
