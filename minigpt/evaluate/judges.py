"""Judges that are no people: a reward model, or a model behind an OpenAI-compatible endpoint. Both see both orders."""

import re
from collections.abc import Callable, Sequence
from functools import cache

from minigpt.evaluate.judging import Pair
from minigpt.evaluate.ranking import PositionBias, position_bias
from minigpt.generate.endpoint import Endpoint
from minigpt.generate.scorer import Scorer
from minigpt.text.chatml import render

LONGEST = 8  # tokens of an endpoint's answer
ASKED = """Two assistants answered a question. Judge which answer is better: right, helpful, in the language of the \
question and not longer than needed. Where they stand means nothing.

Question:
{question}

Answer A:
{left}

Answer B:
{right}

Say one letter only: A, B, or T for a tie."""

Judge = Callable[[Pair], float]  # its first answer stands left: 1.0 left, 0.0 right, 0.5 a tie


def judged(judge: Judge, pairs: Sequence[Pair]) -> tuple[list[float], PositionBias]:
    """(score of each pair's first answer, the judge's position bias) after each pair was shown in both orders.

    Where the two orders disagree the score is their mean, so that a judge who always says "left" changes nothing.
    """
    orders = [(judge(one), judge(one.turned)) for one in pairs]
    return [(there + 1 - back) / 2 for there, back in orders], position_bias(orders)


def by_reward(scorer: Scorer) -> Judge:
    """The answer with the higher score is the better one. One that was cut off is scored without an end, as it was."""

    @cache  # it is asked in both orders, and scores an answer by itself
    def score(question: str, answer: str, cut: bool) -> float:
        prompt = render(scorer.tokenizer, [{"role": "user", "content": question}], generation_prompt=True)[0]
        ids = [*scorer.tokenizer.encode(answer), *([] if cut else [scorer.tokenizer.stops[0]])]
        return scorer.scores([prompt], [ids])[0].score

    def judge(pair: Pair) -> float:
        answers = zip((pair.first, pair.second), pair.cut, strict=True)
        a, b = (score(pair.question, answer, cut) for answer, cut in answers)
        return 0.5 if a == b else float(a > b)

    return judge


def by_endpoint(endpoint: Endpoint) -> Judge:
    """A model behind a URL. Answers that name no letter are ties; raises MiniGPTError where there is none."""

    def judge(pair: Pair) -> float:
        text = ASKED.format(question=pair.question, left=pair.first, right=pair.second)
        said = endpoint.ask([{"role": "user", "content": text}], LONGEST)
        letter = re.search(r"\b([ABT])\b", said) or re.fullmatch(r"\W*([abt])\W*", said)  # "a" may be a word
        return {"A": 1.0, "B": 0.0}.get(letter.group(1).upper() if letter else "T", 0.5)

    return judge
