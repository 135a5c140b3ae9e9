"""Judges that are no people: a reward model, or a model behind an OpenAI-compatible endpoint. Both see both orders."""

import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from functools import cache

from minigpt.errors import MiniGPTError, UsageError
from minigpt.evaluate.judging import Pair
from minigpt.evaluate.ranking import PositionBias, position_bias
from minigpt.generate.scorer import Scorer
from minigpt.text.chatml import render

TIMEOUT = 120  # seconds for an answer of an endpoint
ASKED = """Two assistants answered a question. Judge which answer is better: right, helpful, in the language of the \
question and not longer than needed. Where they stand means nothing.

Question:
{question}

Answer A:
{left}

Answer B:
{right}

Say one letter only: A, B, or T for a tie."""

Judge = Callable[[str, str, str], float]  # (question, left, right) -> 1.0 left, 0.0 right, 0.5 a tie


def judged(judge: Judge, pairs: Sequence[Pair]) -> tuple[list[float], PositionBias]:
    """(score of each pair's first answer, the judge's position bias) after each pair was shown in both orders.

    Where the two orders disagree the score is their mean, so that a judge who always says "left" changes nothing.
    """
    orders = [(judge(one.question, one.first, one.second), judge(one.question, one.second, one.first)) for one in pairs]
    return [(there + 1 - back) / 2 for there, back in orders], position_bias(orders)


def by_reward(scorer: Scorer) -> Judge:
    """The answer with the higher score is the better one."""

    @cache  # it is asked in both orders, and scores an answer by itself
    def score(question: str, answer: str) -> float:
        prompt = render(scorer.tokenizer, [{"role": "user", "content": question}], generation_prompt=True)[0]
        ids = [*scorer.tokenizer.encode(answer), scorer.tokenizer.stops[0]]
        return scorer.scores([prompt], [ids])[0].score

    def judge(question: str, left: str, right: str) -> float:
        a, b = score(question, left), score(question, right)
        return 0.5 if a == b else float(a > b)

    return judge


def by_endpoint(address: str, model: str, key: str = "") -> Judge:
    """A model that an OpenAI-compatible server offers at `address` (…/v1). Answers that name no letter are ties.

    Raises UsageError for an address that is none, MiniGPTError when the server does not answer.
    """
    if not re.match(r"https?://", address):
        raise UsageError(f"{address} is no address of a server.", "Give one such as http://127.0.0.1:8080/v1.")
    url = address.rstrip("/") + "/chat/completions"

    def judge(question: str, left: str, right: str) -> float:
        text = ASKED.format(question=question, left=left, right=right)
        asked = {"model": model, "messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 8}
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        request = urllib.request.Request(url, json.dumps(asked).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                said = json.loads(answer.read())["choices"][0]["message"]["content"] or ""
        except (urllib.error.URLError, OSError, ValueError, KeyError, IndexError, TypeError) as error:
            hint = "Is the server running, and the model's name right?"
            raise MiniGPTError(f"{url} gave no judgement: {error}.", hint) from None
        letter = re.search(r"\b([ABT])\b", said) or re.fullmatch(r"\W*([abt])\W*", said)  # "a" may be a word
        return {"A": 1.0, "B": 0.0}.get(letter.group(1).upper() if letter else "T", 0.5)

    return judge
