"""EleutherAI's harness on a model of ours: `lm_eval` brings the tests, this the model."""

import json
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.errors import DataError, UsageError
from minigpt.evaluate.choices import Tested
from minigpt.evaluate.intervals import Figure, bootstrap, wilson, with_ones
from minigpt.evaluate.kept import Kept
from minigpt.events import Note, Report, silent
from minigpt.generate.engine import Engine

NAME = "minigpt"  # as `lm_eval --model` knows it
PACKAGE, MODEL = "lm_eval", "minigpt.evaluate.harness_model:MiniGPTLM"
DATASETS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}


def needs_harness() -> Any:
    """The harness's module. Raises UsageError when it is not installed."""
    try:
        import lm_eval
    except ImportError:
        hint = "Install it: pip install 'minigpt[bench]'. The bundled tests need nothing."
        raise UsageError("The tests of EleutherAI's harness need lm_eval, which is not installed.", hint) from None
    return lm_eval


def register() -> None:
    """Make our model known to the harness under its name, as it knows its own ones."""
    needs_harness()
    from lm_eval.api.registry import model_registry

    if NAME not in model_registry:
        model_registry.register(NAME, target=MODEL)


def run_harness(
    engine: Engine, names: Sequence[str], limit: int | None = None, shots: int | None = None,
    task_files: Path | None = None, report: Report = silent,
) -> list[Tested]:  # fmt: skip
    """The harness's tests on an engine, with intervals over the rows.

    Raises UsageError for a name that it does not know, DataError when a test's rows can neither be found nor loaded.
    """
    harness = needs_harness()
    from minigpt.evaluate.harness_model import MiniGPTLM

    for quiet in ("lm_eval", "datasets", "httpx"):
        logging.getLogger(quiet).setLevel(logging.ERROR)
    _without_bars()
    with _tasks(names, task_files) as (tasks, manager):
        try:
            found = harness.simple_evaluate(
                model=MiniGPTLM(engine), tasks=tasks, num_fewshot=shots, limit=limit, log_samples=True,
                bootstrap_iters=0, task_manager=manager,
            )  # fmt: skip
        except (OSError, ConnectionError, ValueError) as error:
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            hint = f"Without a network give the rows yourself: --tasks {names[0].partition('=')[0]}=FILE.jsonl."
            raise DataError(f"The harness could not run {', '.join(names)}: {first[:300]}.", hint) from None
    report(Note("These tests are run by lm_eval; the intervals are over its rows."))
    return [_tested(name, rows, found["higher_is_better"].get(name, {})) for name, rows in found["samples"].items()]


def _without_bars() -> None:
    """The rows of a file are read in no time; what takes long has bars of its own."""
    from datasets.utils.logging import disable_progress_bar

    disable_progress_bar()


@contextmanager
def _tasks(names: Sequence[str], task_files: Path | None) -> Iterator[tuple[list[str], Any]]:
    """The tests as the harness takes them, and a manager that finds them; "NAME=FILE" has that file's rows."""
    manager, found = _manager("" if task_files is None else str(task_files)), []
    with tempfile.TemporaryDirectory() as directory:
        for name, _, file in (one.partition("=") for one in names):
            _check_known(name, manager)
            if file:
                definition = manager.task_index[name].yaml_path
                if definition is None or name not in manager.all_subtasks:
                    message = f"{name} stands for several tests or a program, which cannot take the rows of one file."
                    raise UsageError(message, "Name a single test of it.")
                own = Path(directory) / f"{name}.yaml"
                own.write_text(_with_rows_of(name, definition, file), "utf-8")
            found.append(str(own) if file else name)
        yield found, manager


@lru_cache(maxsize=2)
def _manager(task_files: str) -> Any:
    """It reads thousands of definitions, which takes seconds: once is enough."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=task_files or None)


def _check_known(name: str, manager: Any) -> None:
    if name not in manager.all_tasks:
        close = get_close_matches(name, manager.all_tasks, 3)
        hint = f"Did you mean {' or '.join(close)}?" if close else "--tasks list shows the best known ones."
        raise UsageError(f"There is no test {name!r}.", hint)


def _with_rows_of(name: str, definition: Path, file: str) -> str:
    """The definition of a test with a local file in place of its own data, as YAML."""
    path = Path(os.path.expanduser(file))
    if path.suffix not in DATASETS or not path.is_file():
        raise UsageError(f"{file} is no file of rows.", f"Its name ends in one of {', '.join(DATASETS)}.")
    splits = dict.fromkeys(("train", "validation", "val", "dev", "test"), str(path.resolve()))
    changed = {"include": str(definition), "task": name, "dataset_path": DATASETS[path.suffix], "dataset_name": None,
               "dataset_kwargs": {"data_files": splits}}  # fmt: skip
    return json.dumps(changed)  # which is YAML, too


def _tested(name: str, samples: Sequence[dict[str, Any]], higher: dict[str, bool]) -> Tested:
    """A test's figures from what the harness logged of each row; those that are no number per row are omitted."""
    figures: dict[str, Figure] = {}
    for metric in samples[0].get("metrics", []) if samples else ():
        values = [row[metric] for row in samples if isinstance(row.get(metric), int | float)]
        if len(values) == len(samples):
            right_or_wrong = set(values) <= {0, 1}
            rows = with_ones(np.array(values, float))
            figures[metric] = wilson(float(sum(values)), len(values)) if right_or_wrong else bootstrap(rows)
    measure = next(iter(figures), "")
    sign = 1.0 if higher.get(measure, True) else -1.0
    rows = [Kept(f"{name}: {measure}", str(row["arguments"]), sign * float(row[measure]),
                 {"answer": str(row["filtered_resps"])[:2000], "references": [str(row["target"])]})
            for row in samples] if measure else []  # fmt: skip
    return Tested(name, figures, {}, _chance(samples), rows)


def _chance(samples: Sequence[dict[str, Any]]) -> float:
    """What guessing reaches: of multiple choice one over the number of options; 0 for what the model writes itself."""
    counts = [len(row["resps"]) for row in samples]
    return float(np.mean([1 / n if n > 1 else 0.0 for n in counts])) if counts else 0.0
