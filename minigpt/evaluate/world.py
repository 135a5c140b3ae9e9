"""What a model trained on the built-in world can do: tasks with one right answer, manner, preference."""

from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np

from minigpt.data.world import rows as world
from minigpt.generate.engine import Engine
from minigpt.generate.sampling import GREEDY
from minigpt.text.chatml import render

MAX_ANSWER = 64  # tokens; the world's right answers are shorter
BATCH = 50


def greedy_answers(engine: Engine, rows: Sequence[dict], progress: Callable[[int], None] = lambda n: None) -> list[str]:
    """The greedy answer to the last question of each row's conversation, computed in batches of similar length.

    A question that does not fit the model's context gets no answer ("").
    """
    prompts = [render(engine.tokenizer, question(row), generation_prompt=True)[0] for row in rows]
    answers = [""] * len(rows)
    fitting = [i for i in range(len(rows)) if len(prompts[i]) < engine.model.config.context]
    fitting.sort(key=lambda i: len(prompts[i]))
    for first in range(0, len(fitting), BATCH):
        numbers = fitting[first : first + BATCH]
        found = engine.answer([prompts[i] for i in numbers], GREEDY, MAX_ANSWER)
        for i, answer in zip(numbers, found, strict=True):
            answers[i] = answer.text
        progress(first + len(numbers))
    return answers


def question(row: dict) -> list[dict]:
    """The messages up to the assistant's last turn."""
    messages = row["messages"]
    return messages[:-1] if messages[-1]["role"] == "assistant" else messages


def evaluate_world(engine: Engine, seed: int, count: int) -> dict[str, float]:
    """Shares (0 … 1) over `count` held-out test rows each.

    `exact_match` and `exact_match_TASK`: greedy answers equal to the right one. `manner`: greedy answers to
    everyday requests that are short and polite.
    """
    tasks = list(world.instructions(seed, count, "test"))
    right = [world.is_correct(row, answer) for row, answer in zip(tasks, greedy_answers(engine, tasks), strict=True)]
    result = {"exact_match": float(np.mean(right))}
    for task in sorted({row["task"] for row in tasks}):
        of_task = [ok for ok, row in zip(right, tasks, strict=True) if row["task"] == task]
        result[f"exact_match_{task}"] = float(np.mean(of_task))
    requests = list(islice(world.requests(seed, count, "test"), count))
    result["manner"] = float(np.mean([world.keeps_manner(answer) for answer in greedy_answers(engine, requests)]))
    return result
