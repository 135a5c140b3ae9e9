"""What a run's models are made from before training begins: its tokenizer and its token shards."""

import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from minigpt.config import Config
from minigpt.data.prepare import prepare
from minigpt.data.reader import Reader
from minigpt.errors import DataError
from minigpt.events import Note, Progress, Report, silent
from minigpt.runs.placing import stage_of_source
from minigpt.runs.run import Run, other_start
from minigpt.stages.table import STAGES
from minigpt.store.durable import whole_directory
from minigpt.text.learn import train_tokenizer
from minigpt.text.messages import ROLES
from minigpt.text.tokenizer import Tokenizer

ROLES_EVERY = 2_000  # characters of text, so that a role becomes one piece where conversations come later only


def make_tokenizer(run: Run, stages: Sequence[str], report: Report) -> Tokenizer:
    """The run's tokenizer, trained on a sample of the stages' data if there is none yet."""
    directory = run.directory / "tokenizer"
    if (directory / "tokenizer_meta.json").exists() or any(run.store(stage).begun() for stage in STAGES):
        return run.tokenizer  # complains when it is gone: the models were trained with it, not with a new one
    if (other := other_start(run)) is not None:
        with whole_directory(directory) as temporary:
            other[0].tokenizer.save(temporary)
        report(Note(f"tokenizer: that of {other[0].directory}, with whose model this run begins."))
        return run.tokenizer
    report(Note("tokenizer: finds the frequent pieces of the text; the model reads and writes their numbers."))
    report(Progress("training the tokenizer", 0))
    tokenizer = _learn(run.config, [reader(run, stage, silent) for stage in stages])
    for stage in STAGES:
        shutil.rmtree(run.data(stage), ignore_errors=True)  # ids of a tokenizer that is gone
    with whole_directory(directory) as temporary:
        tokenizer.save(temporary)
    report(Progress("training the tokenizer", tokenizer.vocab_size, finished=True))
    report(Note(f"tokenizer: {tokenizer.kind}, {tokenizer.vocab_size:,} tokens."))
    wanted = run.config.tokenizer.vocab_size
    if tokenizer.kind == "bpe" and tokenizer.vocab_size < wanted:
        report(Note(f"The text is too small for the {wanted:,} tokens that were asked for."))
    return run.tokenizer


def make_data(run: Run, stage: str, report: Report) -> None:
    """The token shards of a stage, if they are not there yet."""
    if not is_prepared(run, stage):
        prepare(reader(run, stage, report), run.tokenizer, run.data(stage), run.config.model.context, report)


def is_prepared(run: Run, stage: str) -> bool:
    """Whether the stage's token shards are there."""
    return all((run.data(stage) / split / "meta.json").exists() for split in ("train", "validation"))


def reader(run: Run, stage: str, report: Report) -> Reader:
    """What reads the stage's sources."""
    return reader_of(run.config, stage, run.directory / "data" / "downloads", report)


def reader_of(config: Config, stage: str, downloads: Path, report: Report = silent, **changes: object) -> Reader:
    """What reads a stage's sources as the configuration has them, with `changes` of them (see Sources)."""
    sources = config.sources(stage)
    return Reader(stage, STAGES[stage].form, replace(sources, **changes), config.seed, downloads, report)


def learn_tokenizer(sources: Sequence[str], config: Config, stage: str | None = None) -> Tokenizer:
    """A tokenizer for some data outside any run. Raises DataError when there is nothing to learn from."""
    downloads = Path("runs") / "downloads"
    stage = stage or stage_of_source(sources[0], downloads)
    return _learn(config, [reader_of(config, stage, downloads, train=list(sources), skip_bad=True)])


def _learn(config: Config, readers: Sequence[Reader]) -> Tokenizer:
    """Train on a sample of the training text (never validation text), spread evenly over all of it."""
    c = config.tokenizer
    room = max(1, int(c.sample_mb * 1e6) // len(readers))
    texts: list[str] = []
    for source in readers:
        pieces = (text for item in source if item.split == "train" for text in item.content.texts())
        texts += reservoir(pieces, room, random.Random(config.seed))
    if not any(texts):
        sources = ", ".join(name for one in readers for name in one.sources.train)
        bad = next((f"The first row: {one.bad[0]}" for one in readers if one.bad), "Is it empty?")
        raise DataError(f"{sources}: there is no text to train a tokenizer on.", bad)
    if c.kind == "bpe" and not set(ROLES).intersection(texts):  # a conversation's roles are texts of their own
        texts += ROLES * (sum(map(len, texts)) // ROLES_EVERY)
    return train_tokenizer(c.kind, texts, c.vocab_size, c.alone)


def reservoir(texts: Iterator[str], size: int, rng: random.Random) -> list[str]:
    """A uniform sample of about `size` characters from a stream of any length (Vitter's algorithm R over pieces)."""
    kept: list[str] = []
    characters = seen = 0
    for text in texts:
        for start in range(0, len(text), 4096):
            piece = text[start : start + 4096]
            seen += 1
            if characters + len(piece) <= size or not kept:
                kept.append(piece)
                characters += len(piece)
            elif (place := rng.randrange(seen)) < len(kept):
                characters += len(piece) - len(kept[place])
                kept[place] = piece
    return kept
