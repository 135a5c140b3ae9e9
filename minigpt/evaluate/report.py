"""`minigpt evaluate`: one stage of a run, measured on its held-out data or on data the user names."""

import tempfile
from pathlib import Path

from backends.base import Backend
from minigpt.data.forms import WORLD
from minigpt.data.prepare import prepare
from minigpt.data.shards import Shard
from minigpt.evaluate.world import evaluate_world
from minigpt.events import Report, silent
from minigpt.generate.engine import Engine
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
) -> dict[str, float | str]:
    """Measurements of a finished stage (default: the last): language measures, and the world's tests where they fit.

    With `data` those files are measured, whole, in the way of the stage that their rows fit. With `bits` 4 or 8
    the quantized weights are measured.
    """
    stage = run.weights(stage)[1]
    engine = load_engine(run, stage, backend, bits, report=report)
    result: dict[str, float | str] = {"run": str(run.directory), "stage": stage} | ({"bits": bits} if bits else {})
    if data:
        return result | _measure_files(run, engine, data, limit)
    result |= measure(run, engine, stage, run.held_out(stage), limit)
    if WORLD in run.config.sources(stage).train and STAGES[stage].answers:
        result |= evaluate_world(engine, run.config.seed + 1, tests)
    return result


def _measure_files(run: Run, engine: Engine, data: list[str], limit: int | None) -> dict[str, float]:
    downloads = run.directory / "data" / "downloads"
    kind = stage_of_source(data[0], downloads)
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
    engines = [load_engine(run, stage, backend, n) for n in (0, bits)]
    before, after = (measure(run, engine, stage, shard, limit) for engine in engines)
    found = {name: (before[name], after[name]) for name in SHOWN if name in before}
    if form.sequences == 1:
        trees = (engine.weights for engine in engines)
        rows = form.held_out(shard, run.config.model.context, run.config.seed)
        apart = divergence(engines[0].model, *trees, rows, DIVERGENCE_BATCH, limit)
        found |= {"kl_divergence": (0.0, apart["kl_divergence"]), "same_choice": (1.0, apart["same_choice"])}
    return found
