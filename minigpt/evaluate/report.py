"""`minigpt evaluate`: one stage of a run, measured on its held-out data or on data the user names."""

import tempfile
from pathlib import Path

from backends.base import Backend
from minigpt.data.batches import PackedRows, PairRows, ValidationText
from minigpt.data.prepare import WORLD, Reader, prepare
from minigpt.data.shards import Shard
from minigpt.demo import load_engine
from minigpt.evaluate.language import evaluate_language, evaluate_preferences
from minigpt.evaluate.world import evaluate_world
from minigpt.events import Report, silent
from minigpt.generate.engine import Engine
from minigpt.train.pipeline import stage_of_source
from minigpt.train.run import Run

BATCH = 16
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
            fields = {kind: data, f"{kind}_validation": data}
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
    rows = ValidationText(shard, context) if kind == "pretrain" else PackedRows(shard, context, seed)
    return evaluate_language(engine.model, engine.weights, rows, run.tokenizer, BATCH, limit)


def before_and_after(
    run: Run, stage: str, backend: Backend, bits: int, limit: int | None = None
) -> dict[str, tuple[float, float]]:
    """Measure -> (of the final weights, of those in `bits` bits) on the stage's held-out rows (or `limit` of them)."""
    shard = run.shards(stage)[1]
    before, after = (measure(run, load_engine(run, stage, backend, n), stage, shard, limit) for n in (0, bits))
    return {name: (before[name], after[name]) for name in SHOWN if name in before}
