"""The learning-rate test and the noise scale of a stage of a run, without changing the run."""

from dataclasses import dataclass
from typing import Any

from backends.base import Backend
from minigpt.errors import UsageError
from minigpt.events import silent
from minigpt.machine import choose_dtype
from minigpt.runs.inputs import is_prepared
from minigpt.runs.run import Run
from minigpt.runs.training import prepared
from minigpt.stages.table import STAGES
from minigpt.train.probe import NoiseScale, RateTest, noise_scale, rate_test


@dataclass(frozen=True)
class Probed:
    """What was found; `setting` is the rate that was tested, `now` its value, `batch_size` that of the run."""

    stage: str
    setting: str
    now: float
    batch_size: int
    rate: RateTest
    noise: NoiseScale


def probe(run: Run, stage: str, backend: Backend, low: float, high: float, steps: int, batches: int) -> Probed:
    """Test a stage from the weights that it starts from. The noise is measured there and after the rate test's best.

    Raises UsageError when the stage's data are not prepared.
    """
    if not is_prepared(run, stage):
        raise UsageError(f"{run.directory} has no data for {stage}.", f"Begin with minigpt train {stage}, then probe.")
    config: Any = run.config.of(stage)
    dtype = "float32" if backend.device == "cpu" else choose_dtype(backend, config.dtype)
    config = config.model_copy(update={"dtype": dtype})
    weights, objective, _, _ = prepared(run, STAGES[stage], backend, config, silent)
    noise = noise_scale(backend, config, objective, weights, batches, run.config.seed)
    found = rate_test(backend, config, objective, weights, low, high, steps)
    setting = "matrix_learning_rate" if config.optimizer == "muon" else "learning_rate"
    return Probed(stage, setting, getattr(config, setting), config.batch_size, found, noise)
