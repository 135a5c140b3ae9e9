"""Written principles: rules that a program checks, and sentences that a model is asked about (Bai et al. 2022).

A file has one principle a line; # begins a comment. A rule may follow in brackets, a built-in reward, which `not` turns
round:

    Be polite.                              [regex:please|gladly|happy to]
    Do not be rude.                         [not regex:silly|go away|leave me alone]
    Keep it short.                          [length:60]
    Be honest about what you do not know.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from minigpt.errors import DataError, UsageError
from minigpt.train.rewards import Reward, RewardFunction, make_rewards

_LINE = re.compile(r"(?P<text>.*?)\s*(?:\[(?P<negated>not )?(?P<rule>[a-z]+(?::.*)?)\])?")


@dataclass(frozen=True)
class Principle:
    """A sentence, and the reward that checks it, where there is one."""

    text: str
    rule: Reward | None = None


def read_principles(path: Path) -> list[Principle]:
    """The principles of a file. Raises DataError that names the line of a rule that means nothing, or an empty file."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The file of principles {path} cannot be read: {error}.", "Check --principles.") from None
    found = []
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        assert match is not None, line  # any text fits
        if not match["text"]:
            raise DataError(f"{path}:{number}: a rule without a sentence: {line}.", "Write the principle before it.")
        found.append(Principle(match["text"], _rule(match, f"{path}:{number}")))
    if not found:
        raise DataError(f"{path} has no principle.", "Write one a line, such as: Be polite. [regex:please|gladly]")
    return found


def rules_of(principles: list[Principle]) -> list[Reward]:
    """The rules among the principles; each counts the same."""
    return [one.rule for one in principles if one.rule is not None]


def as_list(principles: list[Principle]) -> str:
    """The sentences as a model is told them."""
    return "\n".join(f"- {one.text}" for one in principles)


def _rule(match: re.Match, where: str) -> Reward | None:
    if match["rule"] is None:
        return None
    try:
        reward = make_rewards([match["rule"]])[0]
    except UsageError as error:
        raise DataError(f"{where}: {error.message}", error.hint) from None
    return Reward(f"not {reward.name}", _negated(reward.function)) if match["negated"] else reward


def _negated(function: RewardFunction) -> RewardFunction:
    """1 minus the reward; 0 for an empty answer, which would keep every prohibition."""
    return lambda prompts, answers, rows: [
        1.0 - value if answer.strip() else 0.0
        for answer, value in zip(answers, function(prompts, answers, rows), strict=True)
    ]
