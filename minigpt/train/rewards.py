"""Reward functions: how good an answer is, as a number. Built in, or a person's own.

A reward function takes three lists of one length and returns as many scores:

    def reward(prompts: list[str], answers: list[str], rows: list[dict]) -> list[float]:
        ...

`prompts` are the questions (the last user message), `answers` what the model wrote (without its end token), `rows` the
data rows that the prompts come from, with every field that they had (`answer`, `label`, …), and with `prompt_ids` and
`answer_ids`, the tokens themselves. Larger is better; a bool counts as 0 or 1. What it raises or returns wrongly is
reported with the row that caused it.

A reward model is a function, too: "run" is that of the run in training, "run:PATH" or PATH that of another run.
"""

import importlib.util
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType

import numpy as np

from minigpt.errors import DataError, MiniGPTError, UsageError, check_name
from minigpt.train.builtin_rewards import REWARDS
from minigpt.units import shortened

RUN = "run"
RewardFunction = Callable[[list[str], list[str], list[dict]], Sequence[float]]


@dataclass(frozen=True)
class Reward:
    """A reward function with its name (as it was asked for) and weight."""

    name: str
    function: RewardFunction
    weight: float = 1.0


def make_rewards(
    names: Sequence[str], weights: Sequence[float] = (), judge: Callable[[str], RewardFunction] | None = None
) -> list[Reward]:
    """The rewards called `names`: a name in REWARDS, with its argument after a colon where it takes one
    ("regex:^\\\\d+$"), "file.py:function", or a run. `weights` are 1 where none are given.

    `judge` makes a function of the reward model of a run ("": that of the run in training); without it such a reward is
    only looked for, and must not be called.

    Raises UsageError for names that mean nothing, files that do not import, and as many weights as there are not names.
    """
    if not names:
        raise UsageError("There is no reward.", f"Name {', '.join(REWARDS)}, {RUN}, or your own as file.py:function.")
    if weights and len(weights) != len(names):
        raise UsageError(f"There are {len(names)} rewards and {len(weights)} weights for them.",
                         "Give one weight for each reward, or none.")  # fmt: skip
    return [Reward(name, _function(name, judge), weight)
            for name, weight in zip(names, weights or [1.0] * len(names), strict=True)]  # fmt: skip


def score(
    rewards: Sequence[Reward], prompts: list[str], answers: list[str], rows: list[dict]
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted sums (N,) and the single rewards (N, F), float64, of N answers by F functions.

    Raises MiniGPTError that names the function, the row and its answer when a function fails.
    """
    single = np.stack([_numbers(reward, prompts, answers, rows) for reward in rewards], axis=1)  # (N, F)
    return single @ np.array([reward.weight for reward in rewards]), single


def run_of(name: str) -> str | None:
    """The path of the run (or RUN/STAGE) whose reward model a reward's name means; "" for the run in training, None
    for another reward. Raises UsageError for a path that is no run.
    """
    if name == RUN:
        return ""
    given = name.removeprefix(f"{RUN}:")
    path = Path(given).expanduser()
    places = (path, path.parent) if path.is_dir() or given != name else ()  # "exact" is no stage of the run around us
    if any((place / "config.toml").is_file() for place in places):
        return str(path)
    if given != name:
        raise UsageError(f"The reward {name} names no run: {path} has no config.toml.", "Give a run's directory.")
    return None


def _function(name: str, judge: Callable[[str], RewardFunction] | None) -> RewardFunction:
    """A built-in reward, a function of a file, or a run's reward model."""
    if (run := run_of(name)) is not None:
        return judge(run) if judge is not None else _not_opened
    path, _, attribute = name.rpartition(":")
    if path.endswith(".py"):
        return _own(Path(path), attribute)
    kind, colon, argument = name.partition(":")
    check_name("reward", kind, (*REWARDS, RUN))
    row = REWARDS[kind]
    if row.argument and not argument:
        raise UsageError(f"The reward {kind} needs {row.argument}.", f"Write it after a colon: {kind}:{row.example}")
    if colon and not row.argument:
        raise UsageError(f"The reward {kind} takes no argument, but got {argument!r}.", f"Write {kind} alone.")
    return row.make(argument) if row.argument else row.make()


def _not_opened(prompts: list[str], answers: list[str], rows: list[dict]) -> list[float]:
    raise AssertionError("a reward model that was only looked for")


class _Newest(SourceFileLoader):
    """Reads what the file says now: kept bytecode is also taken for a file that was changed within the same second."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def _own(path: Path, attribute: str) -> RewardFunction:
    if not path.is_file():
        raise UsageError(f"There is no reward file {path}.", "Give the path of a Python file.")
    name = f"minigpt_reward_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path, loader=_Newest(name, str(path)))
    assert spec is not None and spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look a module up by its name
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(f"The reward file {path} does not import: {_said(error)}.",
                         f"Try `python {path}`, which must run without an error.") from error  # fmt: skip
    found = getattr(module, attribute, None)
    if not callable(found):
        functions = [key for key, x in vars(module).items() if callable(x) and not key.startswith("_")]
        raise UsageError(f"{path} has no function {attribute!r}.",
                         f"It has {', '.join(functions) or 'none'}; write {path}:NAME.")  # fmt: skip
    return found


def _numbers(reward: Reward, prompts: list[str], answers: list[str], rows: list[dict]) -> np.ndarray:
    """(N,) float64 rewards of one function, each checked."""
    try:
        found = reward.function(list(prompts), list(answers), list(rows))
    except Exception as error:
        if isinstance(error, MiniGPTError):
            raise
        raise _failure(reward, prompts, answers, rows, error) from error
    if isinstance(found, (str, bytes)) or not hasattr(found, "__len__"):
        raise UsageError(f"The reward {reward.name} returned {found!r} for {len(answers)} answers.",
                         "It must return a list with one number for each answer.")  # fmt: skip
    if len(found) != len(answers):
        raise UsageError(f"The reward {reward.name} returned {len(found)} numbers for {len(answers)} answers.",
                         "It must return one number for each answer, in their order.")  # fmt: skip
    for i, value in enumerate(found):
        if not _is_number(value):
            raise DataError(f"The reward {reward.name} returned {value!r} for {_row(i, prompts, answers)}.",
                            "Each reward must be a finite number.")  # fmt: skip
    return np.array([float(value) for value in found])


def _is_number(value: object) -> bool:
    """Whether it is a finite number: a string of digits is none."""
    if isinstance(value, (str, bytes)):
        return False
    try:
        return math.isfinite(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return False


def _failure(
    reward: Reward, prompts: list[str], answers: list[str], rows: list[dict], error: Exception
) -> MiniGPTError:
    """The error with the first row that raises when it stands alone; else with all rows."""
    for i in range(len(answers)):
        try:
            reward.function(prompts[i : i + 1], answers[i : i + 1], rows[i : i + 1])
        except Exception as alone:
            return DataError(f"The reward {reward.name} failed for {_row(i, prompts, answers)}: {_said(alone)}.",
                             "Mend the function, or the row.")  # fmt: skip
    return DataError(f"The reward {reward.name} failed for {len(answers)} answers together: {_said(error)}.",
                     "Each alone passes: look for what it assumes about their number.")  # fmt: skip


def _row(i: int, prompts: list[str], answers: list[str]) -> str:
    return f"row {i + 1} (prompt {_short(prompts[i])}, answer {_short(answers[i])})"


def _short(text: str, most: int = 60) -> str:
    return repr(shortened(text, most))


def _said(error: BaseException) -> str:
    text = str(error).strip().rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
