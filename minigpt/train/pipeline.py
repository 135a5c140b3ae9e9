"""A whole run: tokenizer → data → pretrain → SFT → DPO in one directory. The same call again resumes it."""

import random
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from backends.base import Backend
from minigpt.config import STAGES, Config
from minigpt.data.fields import RowError
from minigpt.data.files import is_text
from minigpt.data.formats import parse_row
from minigpt.data.named import resolve
from minigpt.data.prepare import WORLD, Reader, prepare
from minigpt.data.rows import Conversation, Parsed, Preference, Text
from minigpt.data.sources import read_rows
from minigpt.errors import DataError, UsageError
from minigpt.events import Note, Progress, Report, silent
from minigpt.tokenizer import Tokenizer, train_tokenizer
from minigpt.train.run import Run, check_unchanged, saved_config
from minigpt.train.stages import train_stage


def run_pipeline(run: Run, backend: Backend, report: Report, stages: Sequence[str] = STAGES) -> None:
    """Bring a run to the end of `stages`; what is done already is kept.

    Raises UsageError when the directory belongs to a run with other settings for these stages.
    """
    for stage in stages:
        if not getattr(run.config.data, stage) and not run.data(stage).is_dir():
            raise UsageError(
                f"There is no data for {stage}.",
                f"Give it with --data FILE, or --set data.{stage}='[\"FILE\"]' in a run of several stages.",
            )
    claim(run, backend, stages)
    make_tokenizer(run, stages, report)
    for stage in stages:
        make_data(run, stage, report)
        train_stage(run, stage, backend, report)


def claim(run: Run, backend: Backend, stages: Sequence[str]) -> None:
    """Save the configuration, unless it contradicts what was already made in the directory."""
    saved = saved_config(run.directory)
    if saved is not None:
        begun = [stage for stage in STAGES if run.store(stage).directory.is_dir()]
        fixed = ["seed"] + (["model", "tokenizer"] if begun else []) + [s for s in begun if s in stages]
        check_unchanged(saved, run.config, fixed, run.directory)
        if begun:
            old, new = saved.get("data", {}), run.config.data.model_dump()
            for stage in begun:
                if stage in stages and old.get(stage) != new[stage]:
                    raise UsageError(
                        f"{stage} in {run.directory} was begun with the data {old.get(stage)}, not {new[stage]}.",
                        "Use the same data to continue it, or another --run directory.",
                    )
    run.save_config(backend)


def make_tokenizer(run: Run, stages: Sequence[str], report: Report) -> Tokenizer:
    """The run's tokenizer, trained on a sample of the stages' data if there is none yet."""
    directory = run.directory / "tokenizer"
    if not (directory / "tokenizer_meta.json").exists():
        report(Progress("training the tokenizer", 0))
        tokenizer = _learn(run.config, [reader(run, stage, silent) for stage in stages])
        tokenizer.save(directory)
        report(Progress("training the tokenizer", tokenizer.vocab_size, finished=True))
        report(Note(f"tokenizer: {tokenizer.kind}, {tokenizer.vocab_size:,} tokens."))
    return run.tokenizer


def make_data(run: Run, stage: str, report: Report) -> None:
    """The token shards of a stage, if they are not there yet."""
    if not (run.data(stage) / "validation" / "meta.json").exists():
        prepare(reader(run, stage, report), run.tokenizer, run.data(stage), run.config.model.context, report)


def reader(run: Run, stage: str, report: Report) -> Reader:
    return Reader(stage, run.config.data, run.config.seed, run.directory / "data" / "downloads", report)


def learn_tokenizer(sources: Sequence[str], config: Config, stage: str | None = None) -> Tokenizer:
    """A tokenizer for some data outside any run. Raises DataError when there is nothing to learn from."""
    downloads = Path("runs") / "downloads"
    stage = stage or stage_of_source(sources[0], downloads)
    data = config.data.model_copy(update={stage: list(sources), "skip_bad": True})
    return _learn(config, [Reader(stage, data, config.seed, downloads)])


def _learn(config: Config, readers: Sequence[Reader]) -> Tokenizer:
    """Train on a sample of the training text (never validation text), spread evenly over all of it."""
    c = config.tokenizer
    room = max(1, int(c.sample_mb * 1e6) // len(readers))
    texts: list[str] = []
    for source in readers:
        pieces = (text for item in source if item.split == "train" for text in _texts(item.content))
        texts += reservoir(pieces, room, random.Random(config.seed))
    if not any(texts):
        raise DataError("There is no text to train a tokenizer on.", "Check the files with minigpt data check.")
    return train_tokenizer(c.kind, texts, c.vocab_size)


def stage_of_source(source: str, downloads: Path) -> str:
    """The stage that a source's first good row fits: texts pretrain, conversations SFT, preference pairs DPO."""
    if source == WORLD:
        return "pretrain"
    for path in resolve([source], downloads):
        if is_text(path):
            return "pretrain"
        for row in islice(read_rows(path), 1000):
            try:
                parsed = parse_row(row)
            except RowError:
                continue
            return {Text: "pretrain", Conversation: "sft", Preference: "dpo"}[type(parsed)]
    raise DataError(f"There is no usable row in {source}.", "See what is wrong with: minigpt data check FILE.")


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


def _texts(content: Parsed) -> list[str]:
    if isinstance(content, Text):
        return [content.text]
    if isinstance(content, Preference):
        messages = content.prompt + content.chosen + content.rejected
    else:
        messages = content.messages
    return [message["content"] for message in messages]


def new_run(directory: Path, config: Config) -> Run:
    """A Run at `directory`. Raises UsageError when something else is there."""
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{directory} is a file.", "Choose another --run directory.")
    if directory.is_dir() and saved_config(directory) is None and any(directory.iterdir()):
        raise UsageError(f"{directory} is not empty and no run.", "Choose another --run directory.")
    return Run(directory, config)
