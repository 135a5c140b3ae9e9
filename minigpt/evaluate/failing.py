"""The failures of a run's stage on rows of files, of the built-in world, or on its held-out ones."""

from collections.abc import Sequence

from backends.base import Backend
from minigpt.data.forms import WORLD
from minigpt.errors import UsageError
from minigpt.evaluate.failures import Failures, find_failures, items_of_questions, items_of_shard
from minigpt.evaluate.questions import questions_of
from minigpt.events import Report, silent
from minigpt.runs.loading import load_engine
from minigpt.runs.run import Run
from minigpt.stages.table import STAGES


def failures_of(
    run: Run, stage: str | None, backend: Backend, data: Sequence[str], limit: int | None, examples: int,
    report: Report = silent,
) -> Failures:  # fmt: skip
    """What a finished stage gets wrong. A stage of pairs is asked the rows of the stage before it.

    Raises UsageError when there are no rows to ask.
    """
    stage = run.chosen(stage)
    engine = load_engine(run, stage, backend, report=report)
    kind = _single(run, stage)
    training = run.training_data(kind) if run.data(kind).is_dir() else None
    if not data and WORLD in run.config.sources(kind).train and STAGES[stage].answers:
        data = [WORLD]
    if not data:
        return find_failures(engine, items_of_shard(engine, run.held_out(kind), limit), training, examples)
    questions = questions_of(data, run.directory / "data" / "downloads", limit, run.config.seed)
    if not questions:
        raise UsageError(f"{', '.join(data)} has no rows with answers.", "Give rows with a question and an answer.")
    return find_failures(engine, items_of_questions(engine, questions), training, examples)


def _single(run: Run, stage: str) -> str:
    """The stage itself, or of one that learns from pairs the finished stage before it that does not."""
    names = (stage, *STAGES[stage].starts_from)
    single = [name for name in names if STAGES[name].form.sequences == 1 and run.data(name).is_dir()]
    return single[0] if single else stage
