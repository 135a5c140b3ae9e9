"""What the training tests share: a prepared run on a small world, and copies of it with other settings."""

import shutil

import pytest

from minigpt.events import silent
from minigpt.parity.trajectories import tiny_config
from minigpt.runs.inputs import make_data, make_tokenizer
from minigpt.runs.run import Run
from minigpt.runs.training import train_stage
from minigpt.stages.table import STAGES, USUAL

MADE: dict[tuple[str, str], Run] = {}  # pytest forgets a backend's fixtures as often as it goes to the other one


@pytest.fixture(scope="session")
def world_run(backend, tmp_path_factory):
    """A run whose tokenizer and data are there, pretrained and fine-tuned for two steps. Nobody changes it."""
    key = backend.name, backend.device
    if key not in MADE:
        MADE[key] = _trained(Run(tmp_path_factory.mktemp(f"world-{backend.name}") / "run", _config()), backend)
    return MADE[key]


def _config():
    config = tiny_config(steps=2, batch_size=2, warmup_steps=0, eval_rows=2, save_every=2)
    small = {"world_texts": 60, "world_lessons": 0, "world_instructions": 60, "world_pairs": 30, "world_solutions": 30}
    model = config.model.model_copy(update={"context": 80})
    return config.model_copy(update={"model": model, "data": config.data.model_copy(update=small)})


def _trained(run, backend):
    make_tokenizer(run, USUAL, silent)
    for stage in STAGES:
        make_data(run, stage, silent)
        if stage in ("pretrain", "sft"):
            train_stage(run, stage, backend, silent)
    return run


@pytest.fixture
def copied(world_run, tmp_path):
    """copied(stage, …settings): a copy of the run in which `stage` is still to be done, with those settings."""

    def copy(stage, name="copy", **settings):
        run = Run(tmp_path / name, world_run.config.with_section(stage, **settings))
        shutil.copytree(world_run.directory, run.directory)
        for later in list(STAGES)[list(STAGES).index(stage) :]:
            shutil.rmtree(run.store(later).directory, ignore_errors=True)
        return run

    return copy
