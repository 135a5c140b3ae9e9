"""Prompts that a model in training answers, their greedy answers, and what rewards say of them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from backends.tree import Tree
from minigpt.data.batches import stream
from minigpt.data.shards import MemoryShard
from minigpt.errors import MiniGPTError
from minigpt.generate.engine import Answer, Engine
from minigpt.generate.sampling import GREEDY, Sampling
from minigpt.model.gpt import GPT
from minigpt.stages.stage import Job, Subject
from minigpt.store.durable import write_whole
from minigpt.train.rewards import Reward, RewardFunction, make_rewards, score

T = TypeVar("T")
AT_ONCE = 64  # prompts that are answered together when a model is measured
MEASURED = 64  # tokens of an answer that is measured
UNJUDGED = "unjudged.jsonl"  # answers of a step whose rewards failed


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
        ids = [int(token) for token in ids[: max(1, len(ids) // 2) if owner.made_up else start]]
        if owner.made_up:
            found.append(Question(ids, "", {"answer": "none"}))
            continue
        row = json.loads(owner.tokenizer.decode(int(token) for token in shard.sequence(i + 1)[0]))
        found.append(Question(ids, row["prompt"], row))
    return found


def in_turn(questions: Sequence[T], first: int, count: int, seed: int) -> list[T]:
    """`count` of the questions from number `first` on: each once per epoch, in an order that (seed, epoch) decides."""
    places = [divmod(first + i, len(questions)) for i in range(count)]
    orders = {epoch: stream(seed, "order", epoch).permutation(len(questions)) for epoch, _ in places}
    return [questions[orders[epoch][i]] for epoch, i in places]


def rewards_of(job: Job) -> list[Reward]:
    """The rewards that a stage's settings name; a run's reward model must read this run's tokens."""

    def judge(path: str) -> RewardFunction:
        if job.made_up:
            return lambda prompts, answers, rows: [0.0] * len(answers)
        scorer = job.load_scorer(path)
        scorer.check(job.tokenizer)
        job.note(f"The reward model {scorer.name} judges; its memory is not part of the plan.")

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
    if job.made_up:
        return np.zeros(len(answers)), np.zeros((len(answers), len(rewards)))
    rows = [question.row | {"prompt_ids": question.ids, "answer_ids": answer.tokens}
            for question, answer in zip(asked, answers, strict=True)]  # fmt: skip
    return score(rewards, [one.text for one in asked], [answer.text for answer in answers], rows)


def answered_and_judged(
    job: Job, rewards: list[Reward], weights: Tree, asked: list[Question], step: int, attempt: int = 0,
    together: int = 1, at_once: int | None = None,
) -> tuple[list[Answer], np.ndarray, np.ndarray]:  # fmt: skip
    """A sampled answer to each of `asked` (N), the weighted rewards (N,) and those of each of F functions (N, F).

    Each answer has a seed, which (seed of the run, step, attempt) decides.
    Several processes share the questions out, `together` following ones to the same; an answer depends on its own seed
    only. `at_once` bounds how many are sampled at the same time. Where a reward fails, all processes raise its error,
    and the answers are kept in UNJUDGED.
    """
    errors = []

    def judgement(part: np.ndarray, answers: list[Answer]) -> tuple:
        try:
            return judged(job, rewards, [asked[i] for i in part], answers)
        except MiniGPTError as error:
            errors.append(error)
            return error.message, error.hint

    prompts = [one.ids for one in asked]
    answers, found = sampled(job, weights, prompts, step, job.config.temperature, attempt, together, at_once, judgement)
    if failed := next((part for part in found if isinstance(part[0], str)), None):
        error = errors[0] if errors else MiniGPTError(*failed)
        error.hint = f"{error.hint} {_left(job, step, asked, answers)}".strip()
        raise error
    totals, single = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return answers, totals, single


def sampled(
    job: Job, weights: Tree, prompts: list[list[int]], step: int, temperature: float = 1.0, attempt: int = 0,
    together: int = 1, at_once: int | None = None,
    then: Callable[[np.ndarray, list[Answer]], Any] = lambda part, answers: None, model: GPT | None = None,
) -> tuple[list[Answer], list[Any]]:  # fmt: skip
    """A sampled answer to each of the prompts (N), and what `then` makes of each process's (their numbers, answers).

    Seeds and processes are as in `answered_and_judged`. `weights` are those of the model in training, or of `model`.
    """
    group, engine = job.model.backend.group, Engine(model or job.model, weights, job.tokenizer)
    seeds = stream(job.seed + attempt, "answers", step).integers(0, 2**62, len(prompts))
    samplings = [Sampling(temperature, seed=int(seed)) for seed in seeds]

    def some(part: np.ndarray) -> list:
        answers, size = [], at_once or len(part)
        for now in (part[first : first + size] for first in range(0, len(part), size)):
            settings = [samplings[i] for i in now]
            answers += engine.answer_each([prompts[i] for i in now], settings, job.config.max_tokens)
        return [as_told(answers), then(part, answers)]

    units = np.arange(len(prompts)).reshape(-1, together)
    parts = [part.reshape(-1) for part in np.array_split(units, min(group.size, len(units)))]
    told, made = zip(*group.map(some, parts), strict=True)
    return [Answer(*fields) for one in told for fields in one], list(made)


def _left(job: Job, step: int, asked: list[Question], answers: list[Answer]) -> str:
    """Write down the answers that could not be judged, and say where."""
    if job.directory is None:
        return ""
    path = job.directory / UNJUDGED
    rows = ({"step": step, "prompt": one.text, "answer": answer.text, "row": one.row}
            for one, answer in zip(asked, answers, strict=True))  # fmt: skip
    if job.model.backend.group.rank == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return f"Step {step:,} is saved, and the answers are in {path}: the same command goes on from there."


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
