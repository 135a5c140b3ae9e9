"""Copies of a run up to a stage, each with a seed of its own, and a stage trained in one of them."""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minigpt import library
from minigpt.cli import tables
from minigpt.cli.reporter import Reporter
from minigpt.config import to_toml
from minigpt.events import Event, StageStarted
from minigpt.runs.run import Run, open_run


def copied(source: Path, target: Path, stages: Sequence[str], seed: int, **data: Any) -> Run:
    """The run with the tokenizer and the final weights of some stages, and with another seed and settings of [data]."""
    run = Run(target, open_run(source).config.model_copy(update={"seed": seed}).with_section("data", **data))
    target.mkdir(parents=True)
    shutil.copytree(source / "tokenizer", target / "tokenizer")
    for stage in stages:
        shutil.copytree(source / stage / "final", target / stage / "final")
    (target / "config.toml").write_text(to_toml(run.config), "utf-8")
    return run


def trained(stage: str, path: Path, backend: str, data: Sequence[str] = (), **settings: Any) -> float:
    """Train a stage; the seconds from its first step on, without the reading of the data."""
    began = [time.perf_counter()]
    with Reporter() as report:

        def heard(event: Event) -> None:
            if isinstance(event, StageStarted):
                began[0] = time.perf_counter()
            report(event)

        library.train_stage(stage, path, data=data, settings=settings, report=heard, backend=backend)
    return time.perf_counter() - began[0]


def show(title: str, names: Sequence[str], columns: dict[str, Sequence[dict[str, float]]]) -> None:
    """A table with a row for each measure: of each column's seeds the mean, and the spread where there are several."""
    rows = [[name, *(_said([one[name] for one in found if name in one]) for found in columns.values())]
            for name in names]  # fmt: skip
    tables.kept_table(title, ["", *columns], rows)


def _said(values: Sequence[float]) -> str:
    if not values:
        return ""
    small = all(abs(value) <= 1 for value in values)
    mean, factor, unit = float(np.mean(values)), 100 if small else 1, " %" if small else ""
    spread = f" ± {factor * np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{factor * mean:.1f}{spread}{unit}"
