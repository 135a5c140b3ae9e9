"""Prompts that a model in training answers, their greedy answers, and what rewards say of them."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from backends.tree import Tree
from minigpt.data.shards import MemoryShard
from minigpt.events import Note
from minigpt.generate.engine import Answer, Engine
from minigpt.generate.sampling import GREEDY
from minigpt.stages.stage import Job, Subject
from minigpt.train.rewards import Reward, RewardFunction, make_rewards, score

AT_ONCE = 64  # prompts that are answered together when a model is measured
MEASURED = 64  # tokens of an answer that is measured


@dataclass(frozen=True)
class Question:
    """A prompt: its ids up to the assistant's turn, the last user message, and the row that it comes from."""

    ids: list[int]
    text: str
    row: dict[str, Any]


def questions_of(owner: Any, shard: MemoryShard) -> list[Question]:
    """The questions of a shard of the form QUESTIONS. Rows that are made up (see Job) get an empty text."""
    found = []
    for i in range(0, len(shard) - 1, 2):
        ids, mask = shard.sequence(i)
        start = int((np.asarray(mask) != 0).argmax()) or len(ids)  # a prompt without an answer is all of it
        made_up = getattr(owner, "load", True) is None
        ids = [int(token) for token in ids[: max(1, len(ids) // 2) if made_up else start]]
        if made_up:
            found.append(Question(ids, "", {"answer": "none"}))
            continue
        row = json.loads(owner.tokenizer.decode(int(token) for token in shard.sequence(i + 1)[0]))
        found.append(Question(ids, row["prompt"], row))
    return found


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


def answered(owner: Any, weights: Tree, questions: list[Question], most: int) -> list[Answer]:
    """The greedy answers; `owner` has the model and the tokenizer. Several processes share the questions out."""
    engine = Engine(owner.model, weights, owner.tokenizer)

    def some(part: list[Question]) -> list[list]:
        return as_told(engine.answer([one.ids for one in part], GREEDY, most))

    parts = [questions[first : first + AT_ONCE] for first in range(0, len(questions), AT_ONCE)]
    return [Answer(*fields) for found in owner.model.backend.group.map(some, parts) for fields in found]


def as_told(answers: list[Answer]) -> list[list]:
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


def validated(job: Job, rewards: list[Reward], held_out: list[Question], weights: Tree) -> dict[str, float]:
    """The mean reward of the greedy answers to `eval_rows` held-out prompts, spread evenly; `loss` is its negative."""
    most = job.config.eval_rows
    some = [held_out[i * len(held_out) // most] for i in range(most)] if len(held_out) > most else held_out
    answers = answered(job, weights, some, job.config.max_tokens)
    total, _ = judged(job, rewards, some, answers)
    lengths = sum(len(answer.ids) for answer in answers)
    return {"loss": -float(total.mean()), "reward": float(total.mean()), "length": lengths / len(some),
            "prompts": len(some)}  # fmt: skip


def measure_questions(subject: Subject) -> dict[str, float]:
    """The share of held-out prompts with an answer whose greedy answer is that one, and the mean length."""
    questions = questions_of(subject, subject.shard)
    some = questions[: subject.limit or len(questions)]
    answers = answered(subject, subject.weights, some, MEASURED)
    known = [(one, answer.text) for one, answer in zip(some, answers, strict=True) if one.row.get("answer")]
    found = {"prompts": len(some)}
    if known:
        asked = [one for one, _ in known]
        right, _ = score(make_rewards(["exact"]), [one.text for one in asked], [text for _, text in known],
                         [one.row for one in asked])  # fmt: skip
        found["right"] = float(right.mean())
    return found | {"length": sum(len(answer.ids) for answer in answers) / len(some)}
