"""A trained stage of a run, ready to answer: all that generate and chat need of training, so that they start soon."""

from backends.base import Backend
from minigpt.events import Report, silent
from minigpt.generate.engine import Engine
from minigpt.machine import choose_dtype
from minigpt.model.gpt import GPT
from minigpt.runs.quantized import loaded_quantized
from minigpt.runs.run import Run


def load_engine(
    run: Run, stage: str | None, backend: Backend, bits: int = 0, kv_bits: int = 0, report: Report = silent
) -> Engine:
    """The finished stage of a run (by default the last one), ready to answer.

    With `bits` 4 or 8 its weights are quantized, with `kv_bits` the keys and values of an answer. CPUs answer in
    float32, whatever they trained in.
    """
    weights, stage = loaded_quantized(run, stage, backend, bits, report) if bits else run.weights(stage, backend)
    dtype = "float32" if backend.device == "cpu" else choose_dtype(backend, run.config.of(stage).dtype)
    return Engine(GPT(run.model_config, backend, dtype), weights, run.tokenizer, kv_bits)
