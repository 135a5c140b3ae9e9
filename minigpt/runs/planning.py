"""The plan of what a run still has to do."""

from collections.abc import Sequence
from dataclasses import replace

from backends.base import Backend
from minigpt.data.shards import Shard
from minigpt.machine.limits import Limits
from minigpt.plan.choose import TRIVIAL, place_of, plan_for, refuse
from minigpt.plan.plan import Plan
from minigpt.runs.inputs import is_prepared
from minigpt.runs.run import Run
from minigpt.stages.table import STAGES


def plan_of_run(
    run: Run, stages: Sequence[str], framework: Backend, limits: Limits, time: str | None, processes: int = 1
) -> Plan:
    """The plan of what a run still has to do, with the memory of each of several `processes`.

    Raises ResourceError, with what would fit, when it is over the budget.
    """
    settings = run.config
    done = {stage: run.store(stage).steps_kept() for stage in stages if not run.store(stage).finished()}
    place = replace(place_of(framework, limits, settings.model.d_model), processes=processes)
    rows = {stage: found for stage in done if (found := rows_of(run, stage))}
    plan = plan_for(settings, done, framework, place, _vocabulary(run), rows, 0.0 if time else TRIVIAL)
    refuse(plan, settings, limits, time)
    return plan


def _vocabulary(run: Run) -> int:
    """Tokens of the run's tokenizer, or 0 where it may be made again, as long as no model was trained with it.

    On a Run of its own: this one must not remember a tokenizer that is replaced afterwards.
    """
    trained = any(run.store(stage).begun() for stage in STAGES)
    return Run(run.directory, run.config).model_config.vocab_size if trained else 0


def rows_of(run: Run, stage: str) -> int:
    """About how many rows a stage's prepared examples fill; 0 before they are prepared, and for a stream of text."""
    form = STAGES[stage].form
    if form.stream or not is_prepared(run, stage):
        return 0
    tokens = sum(len(Shard(run.data(stage) / part).ids) for part in ("train", "validation"))
    return max(1, tokens // (form.width * run.config.model.context))
