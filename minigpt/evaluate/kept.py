"""What a model did on single rows, kept in its stage's directory: so runs are compared row by row."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from minigpt.store.durable import write_whole

ROWS = Path("evaluation") / "rows.jsonl"  # below the directory of a stage


@dataclass(frozen=True)
class Kept:
    """One row of a test. A higher `score` is better: 1 for a right answer, a log-probability, a reward.

    `more` holds what else is known of the row: its task, the answer, the right answers.
    """

    test: str
    question: str
    score: float
    more: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        found = asdict(self)
        return found | found.pop("more")


def keep(stage: Path, rows: Iterable[Kept]) -> Path | None:
    """Write the rows in place of those that the stage had of the same tests. None when there are none."""
    new = list(rows)
    if not new:
        return None
    tests = {row.test for row in new}
    path = stage / ROWS
    lines = [line for line in _lines(path) if line.get("test") not in tests] + [row.as_dict() for row in new]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return path


def read_scores(path: Path) -> dict[tuple[str, str], float]:
    """(test, question) -> score of each line; those that cannot be read are left out."""
    found: dict[tuple[str, str], float] = {}
    for row in _lines(path):
        try:
            found[str(row["test"]), str(row["question"])] = float(row["score"])
        except (ValueError, TypeError, KeyError):
            continue
    return found


def _lines(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return found
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            found.append(row)
    return found
