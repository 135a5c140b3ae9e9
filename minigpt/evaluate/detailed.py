"""`minigpt evaluate --details` and `--against`: a run's figures with intervals, and whether another run is better."""

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from backends.base import Backend
from minigpt.config import Config
from minigpt.data.forms import WORLD
from minigpt.data.prepare import prepare
from minigpt.data.shards import Shard, joined
from minigpt.errors import UsageError
from minigpt.evaluate.details import Compared, Details, differences, of_answers, of_text
from minigpt.evaluate.intervals import Figure
from minigpt.evaluate.kept import keep
from minigpt.evaluate.perplexity import Group
from minigpt.evaluate.questions import questions_of
from minigpt.events import Report, silent
from minigpt.generate.engine import Engine
from minigpt.runs.inputs import reader_of, stage_of_source
from minigpt.runs.loading import load_engine
from minigpt.runs.run import Run
from minigpt.stages.table import STAGES, answers


@dataclass(frozen=True)
class Asked:
    """What is to be measured: files (none: the run's own held-out rows), how many rows, how windows are laid, how many
    answers are drawn for pass@k, and whether the single rows are kept in the stage's directory."""

    data: tuple[str, ...] = ()
    rows: int | None = None
    stride: int | None = None
    bits: int = 0
    samples: int = 0


def on_files(run: Run, engine: Engine, stage: str, asked: Asked) -> Details:
    """The same on the files that are asked for, by a stage's engine; the single rows are kept."""
    found = _on_files(run, engine, stage, asked, run)
    _keep(run, stage, asked, found)
    return found


def detailed(run: Run, stage: str | None, backend: Backend, asked: Asked, report: Report = silent) -> Details:
    """The figures of a finished stage: of predicting the rows, and of answering them where they have answers."""
    return _details(run, stage, (run, run.chosen(stage)), backend, asked, report)


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
    rows = run, run.chosen(stage)
    first = _details(run, stage, rows, backend, asked, report)
    second = _details(other, other_stage, rows, backend, asked, report)
    return first, second, differences(first, second)


def _details(
    run: Run, stage: str | None, held_out_of: tuple[Run, str], backend: Backend, asked: Asked, report: Report
) -> Details:
    """The figures of a run's stage on the rows asked for, or on the held-out rows of a run's stage.

    Of pairs these are none: there a run that learned the built-in world is asked its questions.
    """
    stage = run.chosen(stage)
    owner, kind = held_out_of
    if not asked.data and STAGES[kind].form.sequences > 1 and WORLD in owner.config.sources(kind).train:
        asked = replace(asked, data=(WORLD,))
    engine = load_engine(run, stage, backend, asked.bits, report=report)
    found = _on_files(run, engine, stage, asked, owner) if asked.data else _on_held_out(engine, held_out_of, asked)
    _keep(run, stage, asked, found)
    return found


def _keep(run: Run, stage: str, asked: Asked, found: Details) -> None:
    """Keep what the weights as they are did on single rows."""
    if not asked.bits:
        keep(run.store(stage).directory, found.rows)


def _on_held_out(engine: Engine, held_out_of: tuple[Run, str], asked: Asked) -> Details:
    owner, kind = held_out_of
    training, held_out = owner.training_data(kind), owner.held_out(kind)
    if STAGES[kind].form.sequences > 1:
        raise UsageError(f"The rows of {kind} are pairs, which have no figures of their own.", "Give --data FILE.")
    return of_text(engine, held_out, training, asked.stride, asked.rows)


def _on_files(run: Run, engine: Engine, stage: str, asked: Asked, owner: Run) -> Details:
    """The figures on the rows of files; what the built-in world asks is as it is for the run `owner`."""
    with _shards(run, asked, owner.config) as shards:
        whole = shards[0][1] if len(shards) == 1 else joined([shard for _, shard in shards])
        sources = [name for name, shard in shards for _ in range(len(shard))]
        training = run.training_data(stage) if run.data(stage).is_dir() else None
        test = ", ".join(Path(name).name for name in asked.data)
        found = of_text(engine, whole, training, asked.stride, asked.rows, sources=sources, test=test)
    questions = questions_of(asked.data, _downloads(run), asked.rows, owner.config.seed)
    if not questions or not answers(stage):
        return found
    return found.with_others(of_answers(engine, questions, samples=asked.samples, test=test))


@contextmanager
def _shards(run: Run, asked: Asked, config: Config) -> Iterator[list[tuple[str, Shard]]]:
    """(name, its rows as ids of the run's tokenizer) of each source, in the form that the first one fits."""
    kind = stage_of_source(asked.data[0], _downloads(run))
    if STAGES[kind].form.sequences > 1:
        message = f"{asked.data[0]} has pairs, which have no figures of their own."
        raise UsageError(message, "Omit --details and --against to see which answer is the likelier one.")
    with tempfile.TemporaryDirectory() as directory:
        found = []
        for number, source in enumerate(asked.data):
            reader = reader_of(config, kind, _downloads(run), train=[source], validation=[source], copies=1)
            prepare(reader, run.tokenizer, Path(directory) / str(number), run.config.model.context)
            found.append((Path(source).name, Shard(Path(directory) / str(number) / "validation")))
        yield found


def _downloads(run: Run) -> Path:
    return run.directory / "data" / "downloads"


def _tokenizer_bytes(run: Run) -> list[bytes]:
    return [run.tokenizer.bytes_of(i) for i in range(run.tokenizer.vocab_size)]


def as_json(details: Details) -> dict[str, Any]:
    """Figures, groups and the reliability table for scripts; a bound that is not known is null."""
    figures = {name: figure_as_json(figure) for name, figure in details.figures().items()}
    groups = {name: [_group_as_json(group) for group in found] for name, found in details.groups.items()}
    bins = [asdict(line) for line in details.reliability]
    return {"figures": figures, "by": groups} | ({"reliability": bins} if bins else {})


def figure_as_json(figure: Figure) -> dict[str, Any]:
    return {name: value if math.isfinite(value) else None for name, value in asdict(figure).items()}


def _group_as_json(group: Group) -> dict[str, Any]:
    figures = {name: figure_as_json(figure) for name, figure in group.figures.items()}
    return {"label": group.label, "tokens": group.tokens, "figures": figures}


def compared_as_json(compared: list[Compared]) -> list[dict[str, Any]]:
    return [
        {"name": one.name, "difference": one.difference.value, "p_adjusted": one.p, "sentence": one.sentence}
        | asdict(one.difference) for one in compared
    ]  # fmt: skip
