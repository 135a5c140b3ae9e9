"""`minigpt evaluate`: one stage of a run, measured on its held-out data or on data the user names."""

import tempfile
from pathlib import Path
from typing import Any

from backends.base import Backend
from minigpt.data.forms import WORLD
from minigpt.data.prepare import prepare
from minigpt.data.shards import Shard
from minigpt.evaluate.detailed import Asked, as_json, figure_as_json, on_files
from minigpt.evaluate.details import of_text
from minigpt.evaluate.intervals import Figure, wilson
from minigpt.evaluate.kept import Kept, keep
from minigpt.evaluate.world import shares, world_rows
from minigpt.events import Report, silent
from minigpt.generate.engine import Engine
from minigpt.model.heads import WRITES
from minigpt.runs.inputs import reader_of
from minigpt.runs.loading import load_engine
from minigpt.runs.placing import stage_of_source
from minigpt.runs.run import Run
from minigpt.stages.stage import Subject
from minigpt.stages.table import STAGES
from minigpt.train.measure import divergence

DIVERGENCE_BATCH = 4  # two sets of logits at once
SHOWN = ("loss", "bits_per_byte", "perplexity", "chosen_is_likelier")


def evaluate_run(
    run: Run, stage: str | None, backend: Backend, data: list[str], limit: int | None, tests: int, bits: int = 0,
    report: Report = silent,
) -> dict[str, Any]:
    """Measurements of a finished stage (default: the last): language measures, and the world's tests where they fit.

    When no stage is named, "stages" has the same of each finished stage. With `data` those files are measured, whole,
    in the way of the stage that their rows fit. With `bits` 4 or 8 the quantized weights are measured.

    "figures" has those of the last stage that have an interval, each with `value`, `low`, `high` and `rows`, and of
    files "by" those of groups. The single rows are kept in the stage's directory (see `evaluate.kept`).
    """
    last = run.chosen(stage)
    result: dict[str, Any] = {"run": str(run.directory), "stage": last} | ({"bits": bits} if bits else {})
    if data:
        engine = _loaded(run, last, backend, bits, report)
        found = _measure_files(run, last, engine, data, limit)
        more = _figures_of_files(run, last, engine, Asked(tuple(data), limit, bits=bits), found)
        return result | found | _values_of(more["figures"], found) | more
    run.held_out(last)  # complains, before anything is measured, when the run has no data for it
    names = run.finished_stages() if stage is None and not bits else [last]
    stages = {}
    for name in names:
        engine = _loaded(run, name, backend, bits, report)
        stages[name], figures = _measure_stage(run, engine, name, limit, tests, keeping=not bits, sure=name == last)
    whole = {"stages": stages} if stage is None and not bits else {}
    shown = {name: figure_as_json(figure) for name, figure in figures.items()}
    found = stages[last] | (_values_of(shown, stages[last]) if limit else {})
    return result | found | whole | ({"figures": shown} if shown else {})


def _values_of(figures: dict[str, dict], found: dict[str, Any]) -> dict[str, float]:
    """The values of those figures that are in `found`: of some rows only, the two took others of them."""
    return {name: one["value"] for name, one in figures.items() if name in found and one["value"] is not None}


def _loaded(run: Run, stage: str, backend: Backend, bits: int, report: Report = silent) -> Engine:
    """A stage's model with its weights; one that scores is measured in the same way."""
    return load_engine(run, stage, backend, bits, report=report, writes=False)


def _measure_stage(
    run: Run, engine: Engine, stage: str, limit: int | None, tests: int, keeping: bool, sure: bool
) -> tuple[dict[str, float], dict[str, Figure]]:
    """A stage's own measures; those of the stage before it that it has none of; those of a later one, to compare.

    The second are the figures with intervals; those of the language measures only where `sure`, as they cost a pass
    more over the rows.
    """
    found, figures, rows = dict[str, float](), dict[str, Figure](), list[Kept]()
    for kind in _kinds(run, stage):
        found = measure(run, engine, kind, run.held_out(kind), limit) | found
        if sure and STAGES[kind].form.sequences == 1 and STAGES[stage].head == WRITES:
            details = of_text(engine, run.held_out(kind), limit=limit)
            figures, rows = details.figures() | figures, rows + details.rows
    figures |= _shares_of_pairs(found)
    if found and WORLD in run.config.sources(stage).train and STAGES[stage].answers:
        answered = world_rows(engine, run.config.seed + 1, tests)
        found |= {name: figure.value for name, figure in shares(answered).items()}
        figures, rows = figures | shares(answered), rows + answered
    if keeping:
        keep(run.store(stage).directory, rows)
    return found, figures


def _figures_of_files(
    run: Run, stage: str, engine: Engine, asked: Asked, found: dict[str, float]
) -> dict[str, Any]:
    """What is found in detail on the files; of pairs the interval of the share."""
    if shares := _shares_of_pairs(found):
        return {"figures": {name: figure_as_json(figure) for name, figure in shares.items()}}
    if STAGES[stage].head != WRITES:  # it has no words to measure
        return {"figures": {}}
    return as_json(on_files(run, engine, stage, asked))


def _shares_of_pairs(found: dict[str, Any]) -> dict[str, Figure]:
    """The shares of pairs that were ranked as preferred, with their intervals."""
    pairs = int(found.get("pairs", 0))
    return {name: wilson(found[name] * pairs, pairs) for name in ("chosen_is_likelier", "accuracy")
            if pairs and name in found}  # fmt: skip


def _kinds(run: Run, stage: str) -> list[str]:
    """The stages in whose way, and on whose held-out rows, the model after `stage` is measured; its own come first.

    After a stage that learns from pairs the loss on answers is told, too, and before it how the pairs are ranked. A
    model that scores is measured in its own way only.
    """
    if STAGES[stage].head != WRITES:
        return [stage]
    kinds, before = [stage], STAGES[stage].starts_from
    if STAGES[stage].form.sequences > 1:
        kinds += [name for name in before if STAGES[name].form.sequences == 1 and run.store(name).finished()][:1]
    for name in run.finished_stages():
        started = [one for one in STAGES[name].starts_from if run.store(one).finished()][:1]
        pairs = STAGES[name].form.sequences > 1 and STAGES[name].head == WRITES
        kinds += [name] if pairs and stage in started else []
    return [kind for kind in dict.fromkeys(kinds) if run.data(kind).is_dir()]


def _measure_files(run: Run, stage: str, engine: Engine, data: list[str], limit: int | None) -> dict[str, float]:
    downloads = run.directory / "data" / "downloads"
    kind = stage if STAGES[stage].head != WRITES else stage_of_source(data[0], downloads)
    with tempfile.TemporaryDirectory() as directory:
        reader = reader_of(run.config, kind, downloads, train=data, validation=data, copies=1)
        prepared = prepare(reader, run.tokenizer, Path(directory), run.config.model.context)
        lost = {"rows_cut": prepared.cut // 2, "rows_left_out": prepared.dropped // 2}  # each row is read twice
        found = {name: count for name, count in lost.items() if count}
        return found | measure(run, engine, kind, Shard(Path(directory) / "validation"), limit)


def measure(run: Run, engine: Engine, kind: str, shard: Shard, limit: int | None = None) -> dict[str, float]:
    """What the stage `kind` measures on a shard's rows, or `limit` of them."""
    subject = Subject(engine.model, engine.weights, run.tokenizer, shard, run.config.seed, limit=limit)
    return STAGES[kind].measure(subject)


def before_and_after(
    run: Run, stage: str, backend: Backend, bits: int, limit: int | None = None
) -> dict[str, tuple[float, float]]:
    """Measure -> (of the final weights, of those in `bits` bits) on the stage's held-out rows (or `limit` of them).

    The divergence (see `measure.divergence`) of the final weights from themselves is 0. Nothing is measured when
    there is no such data, as in a run that was imported.
    """
    if not run.data(stage).is_dir():
        return {}
    shard, form = run.held_out(stage), STAGES[stage].form
    engines = [_loaded(run, stage, backend, n) for n in (0, bits)]
    before, after = (measure(run, engine, stage, shard, limit) for engine in engines)
    found = {name: (before[name], after[name]) for name in SHOWN if name in before}
    if form.sequences == 1 and STAGES[stage].head == WRITES:
        trees = (engine.weights for engine in engines)
        rows = form.held_out(shard, run.config.model.context, run.config.seed)
        apart = divergence(engines[0].model, *trees, rows, DIVERGENCE_BATCH, limit)
        found |= {"kl_divergence": (0.0, apart["kl_divergence"]), "same_choice": (1.0, apart["same_choice"])}
    return found
