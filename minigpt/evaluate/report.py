"""`minigpt evaluate`: one stage of a run, measured on its held-out data or on data the user names."""

import tempfile
from pathlib import Path

from backends.base import Backend
from minigpt.data.batches import PackedRows, PairRows, Rows, ValidationText
from minigpt.data.prepare import WORLD, Reader, prepare
from minigpt.data.shards import Shard
from minigpt.evaluate.language import divergence, evaluate_language, evaluate_preferences
from minigpt.evaluate.world import evaluate_world
from minigpt.events import Report, silent
from minigpt.generate.engine import Engine
from minigpt.runs.loading import load_engine
from minigpt.runs.pipeline import stage_of_source
from minigpt.runs.run import Run

BATCH = 16
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
        downloads = run.directory / "data" / "downloads"
        kind = stage_of_source(data[0], downloads)
        with tempfile.TemporaryDirectory() as directory:
            fields = {kind: data, f"{kind}_validation": data, "pretrain_copies": 1}
            reader = Reader(kind, run.config.data.model_copy(update=fields), run.config.seed, downloads)
            prepared = prepare(reader, run.tokenizer, Path(directory), run.config.model.context)
            lost = {"rows_cut": prepared.cut // 2, "rows_left_out": prepared.dropped // 2}  # each row is read twice
            result |= {name: count for name, count in lost.items() if count}
            return result | measure(run, engine, kind, Shard(Path(directory) / "validation"), limit)
    result |= measure(run, engine, stage, run.shards(stage)[1], limit)
    if WORLD in getattr(run.config.data, stage) and stage != "pretrain":
        result |= evaluate_world(engine, run.config.seed + 1, tests)
    return result


def measure(run: Run, engine: Engine, kind: str, shard: Shard, limit: int | None = None) -> dict[str, float]:
    """The language measures on a shard's rows, or `limit` of them; for pairs which answer is the likelier one."""
    context, seed = run.config.model.context, run.config.seed
    if kind == "dpo":
        rows = PairRows(shard, context, seed)  # no reference: which answer is likelier in itself
        found = evaluate_preferences(engine.model, engine.weights, rows, run.config.dpo.beta, "sigmoid", BATCH, limit)
        return {"pairs": found["pairs"], "chosen_is_likelier": found["accuracy"]}
    return evaluate_language(engine.model, engine.weights, _rows(run, kind, shard), run.tokenizer, BATCH, limit)


def _rows(run: Run, kind: str, shard: Shard) -> Rows:
    context = run.config.model.context
    return ValidationText(shard, context) if kind == "pretrain" else PackedRows(shard, context, run.config.seed)


def before_and_after(
    run: Run, stage: str, backend: Backend, bits: int, limit: int | None = None
) -> dict[str, tuple[float, float]]:
    """Measure -> (of the final weights, of those in `bits` bits) on the stage's held-out rows (or `limit` of them).

    The divergence (see `language.divergence`) of the final weights from themselves is 0. Nothing is measured when
    there is no such data, as in a run that was imported.
    """
    if not run.data(stage).is_dir():
        return {}
    shard = run.shards(stage)[1]
    engines = [load_engine(run, stage, backend, n) for n in (0, bits)]
    before, after = (measure(run, engine, stage, shard, limit) for engine in engines)
    found = {name: (before[name], after[name]) for name in SHOWN if name in before}
    if stage != "dpo":
        trees = (engine.weights for engine in engines)
        apart = divergence(engines[0].model, *trees, _rows(run, stage, shard), DIVERGENCE_BATCH, limit)
        found |= {"kl_divergence": (0.0, apart["kl_divergence"]), "same_choice": (1.0, apart["same_choice"])}
    return found
