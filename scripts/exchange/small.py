"""A small trained run, its tokenizer and its export, which the checks share."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from ordeals.ordeal import prepared, small_config

from backends import get_backend
from minigpt.demo import load_engine
from minigpt.events import silent
from minigpt.exchange.exporting import export_run
from minigpt.generate.engine import Engine
from minigpt.tokenizer import Tokenizer
from minigpt.train.pipeline import learn_tokenizer
from minigpt.train.run import Run
from minigpt.train.stages import train_stage


@cache
def trained() -> Run:
    """A run that is pretrained and fine-tuned for some steps on the built-in world."""
    config = small_config(steps=60)
    model = config.model.model_copy(update={"context": 256})
    run = prepared(Path(mkdtemp(prefix="peers-run-")), config.model_copy(update={"model": model}))
    for stage in ("pretrain", "sft"):
        train_stage(run, stage, get_backend("torch", "cpu"), silent)
    return run


def learned_tokenizer(kind: str) -> Tokenizer:
    """A tokenizer of that kind, learned from the built-in world."""
    config = small_config()
    wanted = config.tokenizer.model_copy(update={"kind": kind, "vocab_size": 900})
    return learn_tokenizer(["world"], config.model_copy(update={"tokenizer": wanted}))


def exported(directory: Path) -> Path:
    """The run's export for mlx-lm, unchecked: the checks are made from outside."""
    return export_run(trained(), "sft", "mlx", directory / "export").path


def engine() -> Engine:
    return load_engine(trained(), "sft", get_backend("torch", "cpu"))
