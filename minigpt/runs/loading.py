"""A trained stage of a run, ready to answer: all that generate and chat need of training, so that they start soon."""

from backends.base import Backend
from minigpt.errors import UsageError
from minigpt.events import Report, silent
from minigpt.generate.engine import Engine
from minigpt.generate.scorer import Scorer
from minigpt.machine import choose_dtype
from minigpt.model.gpt import GPT
from minigpt.model.heads import JUDGES, WRITES
from minigpt.runs.quantized import loaded_quantized
from minigpt.runs.run import Run
from minigpt.stages.table import STAGES


def load_engine(
    run: Run, stage: str | None, backend: Backend, bits: int = 0, kv_bits: int = 0, report: Report = silent,
    writes: bool = True,
) -> Engine:  # fmt: skip
    """The finished stage of a run (by default the last one that writes), ready to answer.

    With `bits` 4 or 8 its weights are quantized, with `kv_bits` the keys and values of an answer. CPUs answer in
    float32, whatever they trained in. Raises UsageError for a model that does not write, unless `writes` is false.
    """
    if writes and stage in run.finished_stages() and STAGES[stage].head != WRITES:
        message = f"The model of {run.directory}/{stage} gives answers a score; it writes none."
        raise UsageError(message, "Take another stage, or let it judge: minigpt generate … --best-of 8 --reward RUN.")
    weights, stage = loaded_quantized(run, stage, backend, bits, report) if bits else run.weights(stage, backend)
    dtype = "float32" if backend.device == "cpu" else choose_dtype(backend, run.config.of(stage).dtype)
    return Engine(GPT(run.shape_of(stage), backend, dtype), weights, run.tokenizer, kv_bits)


def load_scorer(run: Run, stage: str | None, backend: Backend) -> Scorer:
    """The finished stage of a run (by default the last one that scores), ready to judge. It computes in float32.

    Raises UsageError when there is none, or when that stage does not score.
    """
    stage = stage or run.last(JUDGES)
    if STAGES[stage].head != JUDGES:
        judges = [name for name, one in STAGES.items() if one.head == JUDGES]
        message = f"The model of {run.directory}/{stage} gives no scores."
        raise UsageError(message, f"Name a run with a stage that does: {' or '.join(judges)}.")
    weights, stage = run.weights(stage, backend)
    where = f"{run.directory}/{stage}"
    return Scorer(GPT(run.shape_of(stage), backend), weights, run.tokenizer, STAGES[stage].scored_at, where)
