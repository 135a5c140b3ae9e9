"""What the ordeals share: their outcome, small runs, and the comparison of two runs bit for bit."""

import argparse
import hashlib
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from minigpt.cli import tables
from minigpt.config import Config
from minigpt.events import silent
from minigpt.parity.trajectories import tiny_config
from minigpt.runs.inputs import make_data, make_tokenizer
from minigpt.runs.run import Run
from minigpt.stages.table import USUAL


@dataclass
class Outcome:
    """How often something was tried, and a sentence for each time that a promise was broken."""

    what: str
    tried: int = 0
    lost: list[str] = field(default_factory=list)
    note: str = ""

    def check(self, kept: bool, loss: str) -> None:
        """Count one try."""
        self.tried += 1
        if not kept:
            self.lost.append(loss)


def campaign(
    names: Sequence[str], run: Callable[[str, Path], list[Outcome]], prefix: str, lost: str
) -> list[Outcome]:
    """The outcomes of `run(name, an empty directory)` for every name, each with its time and losses on stderr."""
    outcomes: list[Outcome] = []
    for name in names:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=f"{prefix}-{name}-") as directory:
            found = run(name, Path(directory))
        outcomes += found
        print(f"{name}: {time.monotonic() - began:.0f} s, {sum(len(o.lost) for o in found)} {lost}", file=sys.stderr)
    return outcomes


def show(outcomes: Sequence[Outcome], title: str, columns: Sequence[str], lost: str) -> None:
    """The table, and the first losses of each outcome under it."""
    rows = [[o.what, f"{o.tried:,}", f"{o.tried - len(o.lost):,}", f"{len(o.lost):,}", o.note] for o in outcomes]
    tables.kept_table(title, columns, rows, wrap=(0, 4))
    for outcome in outcomes:
        for loss in outcome.lost[:5]:
            print(f"{lost.upper()} {outcome.what}: {loss}")


def known(names: str, all_names: Iterable[str], parser: argparse.ArgumentParser) -> list[str]:
    """The names of a comma-separated list; the parser refuses unknown ones."""
    if unknown := set(names.split(",")) - set(all_names):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; choose of {', '.join(all_names)}")
    return names.split(",")


def count(full: int, scale: float) -> int:
    return max(1, math.ceil(full * scale))


def small_config(**stage: object) -> Config:
    """A model and data so small that a stage of 20 steps takes about a second."""
    return tiny_config(USUAL, **{"batch_size": 4, "eval_every": 5, "save_every": 4, "log_every": 1} | stage)


def prepared(directory: Path, config: Config) -> Run:
    """A run with its tokenizer and data, still to be trained."""
    run = Run(directory, config)
    make_tokenizer(run, USUAL, silent)
    for stage in USUAL:
        make_data(run, stage, silent)
    return run


def files_of(directory: Path) -> dict[str, str]:
    """Name -> checksum of every file of a stage but the journal, which holds the clock."""
    kept = (path for path in directory.rglob("*") if path.is_file() and path.name != "metrics.jsonl")
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


def journal_of(directory: Path) -> list[dict]:
    """The journal of a stage without the seconds."""
    lines = map(json.loads, (directory / "metrics.jsonl").read_text("utf-8").splitlines())
    return [{key: value for key, value in line.items() if key not in ("seconds", "waited")} for line in lines]


def difference(run: Path, right: Path, stages: tuple[str, ...] = USUAL) -> str:
    """What differs between two trained runs, bit for bit; "" when nothing does.

    Compared are the final weights, the last checkpoint with its optimizer state, and the journal. Earlier
    checkpoints may be others: a stop saves one of its own.
    """
    for stage in stages:
        for part in ("final", f"checkpoints/{_last(right / stage)}"):
            if files_of(run / stage / part) != files_of(right / stage / part):
                return f"{stage}/{part} differs"
        if journal_of(run / stage) != journal_of(right / stage):
            return f"{stage}/metrics.jsonl differs"
    return ""


def _last(stage: Path) -> str:
    return max(path.name for path in (stage / "checkpoints").glob("step-*"))
