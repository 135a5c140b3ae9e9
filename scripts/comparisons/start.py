"""What MiniGPT and its peers start from: a run with seeded random weights, and its exports, which are a llama's."""

import random
from pathlib import Path

from minigpt.config import Config, load_config
from minigpt.exchange.exporting import export_run
from minigpt.model.gpt import init_weights
from minigpt.runs.run import Run
from minigpt.store.checkpoint import save_checkpoint
from minigpt.text.learn import train_tokenizer
from minigpt.text.tokenizer import Tokenizer


def llama(preset: str, *sets: str) -> Config:
    """A preset (medium has 26 M) with the settings `sets`, in a shape that every peer knows: a llama has no QK-norm."""
    return load_config(preset, None, ["model.qk_norm=false", *sets])


def started_run(directory: Path, config: Config, tokenizer: Tokenizer) -> Run:
    """A run whose pretraining counts as finished: its weights are random, from the run's seed."""
    run = Run(directory, config)
    run.save_config()
    tokenizer.save(directory / "tokenizer")
    state = {"step": 0, "metrics": {}, "stage": "pretrain"}
    save_checkpoint(run.store("pretrain").final, {"weights": init_weights(run.model_config, config.seed)}, state)
    return run


def exported(run: Run, to: str, out: Path) -> Path:
    """The run's float32 weights as the directory `out` for `to`; nobody reads it for a check."""
    return export_run(run, "pretrain", to, out).path


def made_up_tokenizer(size: int) -> Tokenizer:
    """A BPE tokenizer of exactly `size` pieces, learned from made-up words."""
    draw = random.Random(1)
    words = [" ".join("".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=7)) for _ in range(50)) for _ in range(400)]
    tokenizer = train_tokenizer("bpe", words, size)
    assert tokenizer.vocab_size == size, tokenizer.vocab_size
    return tokenizer
