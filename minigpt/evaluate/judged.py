"""Two models' answers to the same questions, to be compared."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from backends.base import Backend
from minigpt.data.forms import REQUESTS, WORLD
from minigpt.errors import UsageError
from minigpt.evaluate.judging import Judging, Pair
from minigpt.evaluate.questions import Question, greedy_answers, questions_of
from minigpt.runs.loading import load_engine
from minigpt.runs.run import Run

COUNT = 40  # of the built-in world, where no data is named


def answered(
    opened: Sequence[tuple[Run, str | None]], names: Sequence[str], backend: Backend, data: Sequence[str],
    limit: int | None, longest: int,
) -> Judging:  # fmt: skip
    """Greedy answers of both; questions that both answer alike are left out, as they tell nothing.

    Raises UsageError when no question is left.
    """
    questions = _questions(data, opened[0][0].directory / "data" / "downloads", limit, opened[0][0].config.seed)
    answers = [greedy_answers(load_engine(run, stage, backend), questions, longest) for run, stage in opened]
    pairs = [Pair(one.text, a.text.strip(), b.text.strip(), (a.reason != "stop", b.reason != "stop"))
             for one, a, b in zip(questions, *answers, strict=True)]  # fmt: skip
    pairs = [pair for pair in pairs if pair.first != pair.second]
    if not pairs:
        raise UsageError("Both models answer every question alike.", "Give other questions, or other models.")
    return Judging(names[0], names[1], pairs)


def _questions(data: Sequence[str], downloads: Path, limit: int | None, seed: int) -> list[Question]:
    if files := [name for name in data if name != WORLD]:
        found = questions_of(files, downloads, limit)
        if not found:
            raise UsageError(f"{', '.join(data)} has no rows with answers.", "Give rows with a question and an answer.")
        return found
    count = limit or COUNT
    rows = list(islice(REQUESTS.draw(seed + 1, count, "test"), count))
    return [Question(row["messages"][:-1], [row["messages"][-1]["content"]]) for row in rows]
