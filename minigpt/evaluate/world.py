"""What a model trained on the built-in world can do: tasks with one right answer, manner, preference."""

from collections.abc import Callable, Sequence
from itertools import islice

from minigpt.data.world import rows as world
from minigpt.evaluate.intervals import Figure, wilson
from minigpt.evaluate.kept import Kept
from minigpt.evaluate.questions import answers_to
from minigpt.generate.engine import Engine
from minigpt.text.chatml import render

MAX_ANSWER = 64  # tokens; the world's right answers are shorter


def greedy_answers(engine: Engine, rows: Sequence[dict], progress: Callable[[int], None] = int) -> list[str]:
    """The greedy answer to the last question of each row's conversation.

    A question that does not fit the model's context gets no answer ("").
    """
    prompts = [render(engine.tokenizer, question(row), generation_prompt=True)[0] for row in rows]
    return [answer.text for answer in answers_to(engine, prompts, MAX_ANSWER, progress)]


def question(row: dict) -> list[dict]:
    """The messages up to the assistant's last turn."""
    messages = row["messages"]
    return messages[:-1] if messages[-1]["role"] == "assistant" else messages


def evaluate_world(engine: Engine, seed: int, count: int) -> dict[str, float]:
    """Shares (0 … 1) over `count` held-out test rows each: see `shares`."""
    return {name: figure.value for name, figure in shares(world_rows(engine, seed, count)).items()}


def world_rows(engine: Engine, seed: int, count: int) -> list[Kept]:
    """The greedy answers to `count` held-out questions and as many everyday requests, each with whether it is right.

    A question is right when its answer is equal to the one right answer, a request when it is short and polite.
    """
    tasks = list(world.instructions(seed, count, "test"))
    requests = list(islice(world.requests(seed, count, "test"), count))
    rows = [
        Kept("world: exact match", row["messages"][-2]["content"], float(world.is_correct(row, answer)),
             {"task": row["task"], "language": row["language"], "answer": answer,
              "references": [row["messages"][-1]["content"]]})
        for row, answer in zip(tasks, greedy_answers(engine, tasks), strict=True)
    ]  # fmt: skip
    return rows + [
        Kept("world: manner", row["messages"][-2]["content"], float(world.keeps_manner(answer)),
             {"task": row["task"], "language": row["language"], "answer": answer})
        for row, answer in zip(requests, greedy_answers(engine, requests), strict=True)
    ]  # fmt: skip


def shares(rows: Sequence[Kept]) -> dict[str, Figure]:
    """`exact_match`, `exact_match_TASK` and `manner` of the world's rows, with Wilson's intervals."""
    asked = [row for row in rows if row.test == "world: exact match"]
    groups = {"exact_match": asked}
    for task in sorted({row.more["task"] for row in asked}):
        groups[f"exact_match_{task}"] = [row for row in asked if row.more["task"] == task]
    groups["manner"] = [row for row in rows if row.test == "world: manner"]
    return {name: wilson(sum(row.score for row in group), len(group)) for name, group in groups.items()}
