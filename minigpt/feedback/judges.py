"""Who judges answers and makes them better: rewards, or a model behind a URL that is told the principles."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from minigpt.errors import MiniGPTError
from minigpt.feedback.principles import Principle, as_list
from minigpt.generate.endpoint import Endpoint
from minigpt.train.rewards import Reward, score

HELPFUL = [
    Principle("Answer what was asked, correctly and completely."), Principle("Be polite, and no longer than needed."),
]  # fmt: skip
ASKED = (
    "You judge answers of an assistant by these principles:\n{principles}\n\nThe user wrote:\n{prompt}\n\n{answers}\n\n"
    "Give each answer a score from 0 (breaks them) to 10 (keeps all). Reply with the {count} scores in order, as a "
    "list such as [7, 2.5], and nothing else."
)
AGAIN = "That was no list of {count} numbers from 0 to 10. Reply with the list alone, such as [7, 2.5]."
CRITIQUE = (
    "An assistant should keep to these principles:\n{principles}\n\nThe user wrote:\n{prompt}\n\nThe assistant "
    "answered:\n{answer}\n\nSay in one or two sentences where the answer breaks the principles."
)
REVISE = "Now write the answer again so that it keeps all principles. Reply with the answer alone."
Ask = Callable[[list[dict]], str]


@dataclass
class Judge:
    """What scores the answers to a prompt: the sum of weighted rewards and of an endpoint's score / 10."""

    rewards: list[Reward] = field(default_factory=list)
    endpoint: Endpoint | None = None
    principles: list[Principle] = field(default_factory=lambda: HELPFUL)

    def scores(self, prompt: str, answers: list[str], rows: list[dict]) -> list[float] | None:
        """One number for each answer; None where the endpoint answered twice with something that is no list of scores.

        `rows` are what reward functions are told of each answer.
        """
        totals = [0.0] * len(answers)
        if self.rewards:
            totals = score(self.rewards, [prompt] * len(answers), answers, rows)[0].tolist()
        if self.endpoint is not None:
            judged = self._asked(self.endpoint, prompt, answers)
            if judged is None:
                return None
            totals = [total + value / 10 for total, value in zip(totals, judged, strict=True)]
        return totals

    def _asked(self, endpoint: Endpoint, prompt: str, answers: list[str]) -> list[float] | None:
        listed = "\n\n".join(f"Answer {number}:\n{answer}" for number, answer in enumerate(answers, 1))
        told = {"principles": as_list(self.principles), "prompt": prompt, "answers": listed, "count": len(answers)}
        messages = [{"role": "user", "content": ASKED.format(**told)}]
        said = endpoint.ask(messages)
        if (found := numbers_in(said, len(answers))) is None:
            messages += [_message("assistant", said), _message("user", AGAIN.format(count=len(answers)))]
            found = numbers_in(endpoint.ask(messages), len(answers))
        return found


def numbers_in(text: str, count: int) -> list[float] | None:
    """The last list of `count` numbers from 0 to 10 in a text; None without one."""
    for inside in reversed(re.findall(r"\[([^\[\]]*)\]", text)):
        parts = [part.strip() for part in inside.split(",")]
        if len(parts) == count and all(re.fullmatch(r"\d+(\.\d+)?", part) for part in parts):
            found = [float(part) for part in parts]
            return found if max(found) <= 10 else None
    return None


def revised(ask: Ask, principles: list[Principle], prompt: str, answer: str) -> tuple[str, str]:
    """(critique, revised answer): what `ask` says is wrong with an answer, and how it would write it (Bai et al. 2022,
    section 3.1).
    """
    told = {"principles": as_list(principles), "prompt": prompt, "answer": answer}
    messages = [_message("user", CRITIQUE.format(**told))]
    critique = ask(messages)
    messages += [_message("assistant", critique), _message("user", REVISE)]
    return critique, ask(messages).strip()


def _message(role: str, content: str) -> dict:
    return {"role": role, "content": content}


def nobody() -> MiniGPTError:
    """The error where nothing judges."""
    return MiniGPTError(
        "Nobody judges the answers.",
        "Give --reward NAME (exact, length:80, FILE.py:NAME, or a run), --principles FILE with rules, or --judge URL.",
    )
