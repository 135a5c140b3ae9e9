"""`minigpt evaluate --details` and `--against`: a run's figures with intervals, and whether another run is better."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from backends.base import Backend
from minigpt.data.forms import WORLD
from minigpt.data.prepare import prepare
from minigpt.data.shards import Shard
from minigpt.errors import UsageError
from minigpt.evaluate.details import Compared, Details, differences, of_answers, of_text
from minigpt.evaluate.questions import questions_of
from minigpt.events import Report, silent
from minigpt.runs.inputs import reader_of, stage_of_source
from minigpt.runs.loading import load_engine
from minigpt.runs.run import Run
from minigpt.stages.table import STAGES, answers


@dataclass(frozen=True)
class Asked:
    """What is to be measured: files (none: the run's own held-out rows), how many rows, and how windows are laid."""

    data: tuple[str, ...] = ()
    rows: int | None = None
    stride: int | None = None
    bits: int = 0


def detailed(run: Run, stage: str | None, backend: Backend, asked: Asked, report: Report = silent) -> Details:
    """The figures of a finished stage: of predicting the rows, and of answering them where they have answers."""
    return _details(run, stage, (run, run.weights(stage)[1]), backend, asked, report)


def against(
    run: Run, stage: str | None, other: Run, other_stage: str | None, backend: Backend, asked: Asked,
    report: Report = silent,
) -> tuple[Details, Details, list[Compared]]:
    """(figures of the run, of the other, differences other - run) on the same rows: those asked for, or the run's.

    Raises UsageError when the run's own rows cannot be used, as the other has another tokenizer.
    """
    if not asked.data and _tokenizer_bytes(run) != _tokenizer_bytes(other):
        message = f"{other.directory} has another tokenizer than {run.directory}, whose held-out rows are token ids."
        raise UsageError(message, "Give the text or the rows to compare them on with --data FILE.")
    rows = run, run.weights(stage)[1]
    first = _details(run, stage, rows, backend, asked, report)
    second = _details(other, other_stage, rows, backend, asked, report)
    return first, second, differences(first, second)


def _details(
    run: Run, stage: str | None, held_out_of: tuple[Run, str], backend: Backend, asked: Asked, report: Report
) -> Details:
    """The figures of a run's stage on the rows asked for, or on the held-out rows of a run's stage."""
    stage = run.weights(stage)[1]
    engine = load_engine(run, stage, backend, asked.bits, report=report)
    if not asked.data:
        owner, kind = held_out_of
        training, held_out = owner.training_data(kind), owner.held_out(kind)
        if STAGES[kind].form.sequences > 1:
            raise UsageError(f"The rows of {kind} are pairs, which have no figures of their own.", "Give --data FILE.")
        return of_text(engine, held_out, training, asked.stride, asked.rows)
    with _shard(run, asked) as shard:
        found = of_text(engine, shard, None, asked.stride, asked.rows)
    questions = questions_of([name for name in asked.data if name != WORLD], _downloads(run), asked.rows)
    if not questions or not answers(stage):
        return found
    answered = of_answers(engine, questions)
    return Details(found.measures | answered.measures, found.more | answered.more, found.groups | answered.groups)


@contextmanager
def _shard(run: Run, asked: Asked) -> Iterator[Shard]:
    """The rows of the files as ids of the run's tokenizer, in the form that they fit."""
    kind = stage_of_source(asked.data[0], _downloads(run))
    if STAGES[kind].form.sequences > 1:
        message = f"{asked.data[0]} has pairs, which have no figures of their own."
        raise UsageError(message, "Omit --details and --against to see which answer is the likelier one.")
    with tempfile.TemporaryDirectory() as directory:
        sources = list(asked.data)
        reader = reader_of(run.config, kind, _downloads(run), train=sources, validation=sources, copies=1)
        prepare(reader, run.tokenizer, Path(directory), run.config.model.context)
        yield Shard(Path(directory) / "validation")


def _downloads(run: Run) -> Path:
    return run.directory / "data" / "downloads"


def _tokenizer_bytes(run: Run) -> list[bytes]:
    return [run.tokenizer.bytes_of(i) for i in range(run.tokenizer.vocab_size)]


def as_json(details: Details) -> dict[str, Any]:
    """Figures and groups for scripts."""
    groups = {name: [asdict(group) for group in found] for name, found in details.groups.items()}
    return {"figures": {name: asdict(figure) for name, figure in details.figures().items()}, "by": groups}


def compared_as_json(compared: list[Compared]) -> list[dict[str, Any]]:
    return [
        {"name": one.name, "difference": one.difference.value, "p_adjusted": one.p, "sentence": one.sentence}
        | asdict(one.difference) for one in compared
    ]  # fmt: skip
