"""Two small tasks with their checkers: the rewards as a person writes them, `--reward scripts/rl/checkers.py:sorting`.

A checker sees what the answer says, and of the row the numbers that were asked for; it knows no right answer by heart.
"""

import random
import re
from collections.abc import Iterator

SORTED, COUNTED = 5, 3  # numbers of a question
EXPRESSION = re.compile(r"\d+( [-+*] \d+)*")


def sorting(prompts: list[str], answers: list[str], rows: list[dict]) -> list[float]:
    """1 for the row's numbers in their order, else half the share of places that have the right number."""
    return [_in_order(answer, row["numbers"]) for answer, row in zip(answers, rows, strict=True)]


def countdown(prompts: list[str], answers: list[str], rows: list[dict]) -> list[float]:
    """1 for an expression of the row's numbers, each used once, that makes the target; 0.2 for another one of them."""
    return [_makes(answer, row["numbers"], row["target"]) for answer, row in zip(answers, rows, strict=True)]


def sorting_rows(seed: int, held_out: bool) -> Iterator[dict]:
    """Rows `{"prompt", "numbers", "answer"}` without an end; what is held out is never among the others."""
    draw = random.Random(f"{seed} sorting {held_out}")
    while True:
        numbers = [draw.randint(0, 9) for _ in range(SORTED)]
        if (sum(n * 10**i for i, n in enumerate(sorted(numbers))) % 7 == 0) is held_out:
            asked = " ".join(map(str, numbers))
            yield {"prompt": f"Sort {asked}.", "numbers": numbers, "answer": " ".join(map(str, sorted(numbers)))}


def countdown_rows(seed: int, held_out: bool) -> Iterator[dict]:
    """Rows `{"prompt", "numbers", "target", "answer"}` without an end; what is held out is never among the others."""
    draw = random.Random(f"{seed} countdown {held_out}")
    while True:
        numbers = [draw.randint(1, 9) for _ in range(COUNTED)]
        expression = str(numbers[0]) + "".join(f" {draw.choice('+-*')} {n}" for n in numbers[1:])
        target, asked = _value(expression), draw.sample(numbers, COUNTED)
        key = target + sum(n * 100**i for i, n in enumerate(sorted(numbers)))
        if 0 < target < 100 and (key % 7 == 0) is held_out:
            prompt = f"Make {target} of {' '.join(map(str, asked))}."
            yield {"prompt": prompt, "numbers": asked, "target": target, "answer": expression}


def _in_order(answer: str, numbers: list[int]) -> float:
    said, right = answer.split(), [str(n) for n in sorted(numbers)]
    if said == right:
        return 1.0
    return 0.5 * sum(a == b for a, b in zip(said, right, strict=False)) / max(len(said), len(right))


def _makes(answer: str, numbers: list[int], target: int) -> float:
    answer = answer.strip()
    if not EXPRESSION.fullmatch(answer) or sorted(re.findall(r"\d+", answer)) != sorted(map(str, numbers)):
        return 0.0
    return 1.0 if _value(answer) == target else 0.2


def _value(expression: str) -> int:
    """The value of a sum of products of numbers with signs between them."""
    terms = re.sub(r" ([-+]) ", r" ; \1", expression).split(" ; ")
    total = 0
    for term in terms:
        product = 1
        for factor in term.lstrip("+-").split(" * "):
            product *= int(factor)
        total += -product if term.startswith("-") else product
    return total
