"""A small trained run, its tokenizer and its export, which the checks share."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from ordeals.ordeal import count, prepared, small_config

from backends import get_backend
from minigpt.events import silent
from minigpt.exchange.exporting import export_run
from minigpt.generate.engine import Engine
from minigpt.runs.inputs import learn_tokenizer
from minigpt.runs.loading import load_engine
from minigpt.runs.run import Run
from minigpt.runs.training import train_stage
from minigpt.text.tokenizer import Tokenizer

__all__ = ["count", "engine", "exported", "learned_tokenizer", "trained"]


@cache
def trained(kind: str = "bpe", steps: int = 60) -> Run:
    """A run with a tokenizer of `kind`, pretrained and fine-tuned for some steps on the built-in world."""
    config = small_config(steps=steps)
    tokenizer = config.tokenizer.model_copy(update={"kind": kind, "vocab_size": 900})
    model = config.model.model_copy(update={"context": 256})
    config = config.model_copy(update={"tokenizer": tokenizer, "model": model})
    run = prepared(Path(mkdtemp(prefix="peers-run-")), config)
    for stage in ("pretrain", "sft"):
        train_stage(run, stage, get_backend("torch", "cpu"), silent)
    return run


def learned_tokenizer(kind: str) -> Tokenizer:
    """A tokenizer of that kind, learned from the built-in world."""
    config = small_config()
    wanted = config.tokenizer.model_copy(update={"kind": kind, "vocab_size": 900})
    return learn_tokenizer(["world"], config.model_copy(update={"tokenizer": wanted}))


def exported(directory: Path, to: str = "mlx", kind: str = "bpe", steps: int = 60) -> Path:
    """The run's export, unchecked: the checks are made from outside."""
    return export_run(trained(kind, steps), "sft", to, directory / f"export-{to}-{kind}").path


def engine() -> Engine:
    return load_engine(trained(), "sft", get_backend("torch", "cpu"))
