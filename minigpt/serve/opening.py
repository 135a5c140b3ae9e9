"""The models that a server has, from the paths that it was started with."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from backends.base import Backend
from minigpt import library
from minigpt.errors import UsageError
from minigpt.events import Report
from minigpt.model.heads import WRITES
from minigpt.runs.run import Run, run_at
from minigpt.serve.worker import Served
from minigpt.stages.table import STAGES, answers


def names_of(paths: Sequence[Path | None], every: bool) -> dict[str, tuple[Run | Path, str | None]]:
    """Name -> (run, stage) or (model directory, None) for each path that is RUN, RUN/STAGE or a model's directory; None
    means the run whose stage was finished last.

    A run is there as NAME: its last finished stage; with `every` also as NAME/STAGE for each. Raises UsageError where
    there is no such run, nothing is finished, or two have the same name.
    """
    found: dict[str, tuple[Run | Path, str | None]] = {}
    for path in paths:
        for name, what in _names(path, every).items():
            if found.setdefault(name, what) != what:
                raise UsageError(f"Two models are called {name}.", "Rename one of the run directories.")
    return found


def _names(path: Path | None, every: bool) -> dict[str, tuple[Run | Path, str | None]]:
    if path is not None and library.is_exported(path):
        return {path.resolve().name: (path, None)}
    run, stage = run_at(path)
    name = run.directory.resolve().name
    finished = [name for name in run.finished_stages() if STAGES[name].head == WRITES]
    if stage is not None:
        if stage not in finished:
            raise UsageError(f"{run.directory} has no finished stage {stage!r}.", f"Finished are: {finished}.")
        return {f"{name}/{stage}": (run, stage)}
    if not finished:
        raise UsageError(f"No stage of {run.directory} is finished yet.", "Train one: minigpt run.")
    chosen = {name: (run, finished[-1])}
    return chosen | ({f"{name}/{one}": (run, one) for one in finished} if every else {})


def opener(
    models: dict[str, tuple[Run | Path, str | None]], backend: Backend, bits: int, kv_bits: int, report: Report,
) -> Callable[[], list[Served]]:  # fmt: skip
    """What opens them, in the thread that is to use them. Two names of one model share its weights."""

    def opened() -> list[Served]:
        engines, found = {}, []
        for name, (source, stage) in models.items():
            key = (str(source.directory if isinstance(source, Run) else source), stage)
            if key not in engines:
                engines[key] = library.load_model(
                    source, stage, bits=bits, kv_bits=kv_bits, backend=backend, report=report
                )
            model = engines[key]
            found.append(Served(name, model.engine, model.stage, answers(model.stage), int(time.time())))
        return found

    return opened
