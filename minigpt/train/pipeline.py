"""A whole run: tokenizer → data → pretrain → SFT → DPO in one directory. The same call again resumes it."""

import random
import shutil
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from backends.base import Backend
from minigpt.config import STAGES, Config, build_config, differences
from minigpt.data.fields import RowError
from minigpt.data.files import is_text
from minigpt.data.formats import parse_row
from minigpt.data.named import check_source, resolve
from minigpt.data.prepare import WORLD, Reader, prepare
from minigpt.data.rows import Conversation, Parsed, Preference, Text
from minigpt.data.sources import read_rows
from minigpt.errors import DataError, Interrupted, UsageError
from minigpt.events import Note, Progress, Report, silent
from minigpt.tokenizer import Tokenizer, train_tokenizer
from minigpt.train.run import Run, check_unchanged, saved_config
from minigpt.train.stages import stage_before, train_stage


def run_pipeline(run: Run, backend: Backend, report: Report, stages: Sequence[str] = STAGES) -> None:
    """Bring a run to the end of `stages`; what is done already is kept.

    Raises UsageError when the directory belongs to a run with other settings for these stages, and turns Ctrl-C
    during training into Interrupted, which says where the same call goes on.
    """
    check_possible(run, stages)
    claim(run, backend, report, stages)
    make_tokenizer(run, stages, report)
    for stage in stages:
        make_data(run, stage, report)
        try:
            train_stage(run, stage, backend, report)
        except KeyboardInterrupt:
            kept = run.store(stage).steps_kept()
            hint = f"goes on from step {kept:,}" if kept else f"begins {stage} again: it has no checkpoint yet"
            raise Interrupted(f"Interrupted during {stage}.", f"The same command {hint}.") from None


def check_possible(run: Run, stages: Sequence[str]) -> None:
    """Raises UsageError or DataError, before anything is written, when a stage lacks its data or its first model."""
    for stage in stages:
        if not getattr(run.config.data, stage) and not run.data(stage).is_dir():
            raise UsageError(
                f"There is no data for {stage}.",
                f"Give it with --data FILE, or --set data.{stage}='[\"FILE\"]' in a run of several stages.",
            )
        stage_before(run, stage, stages)
        for source in [] if _prepared(run, stage) else getattr(run.config.data, stage):
            if source != WORLD:
                check_source(source)


def claim(run: Run, backend: Backend, report: Report, stages: Sequence[str]) -> None:
    """Save the configuration in the run's directory, so that it tells how everything there was made.

    What was made with other settings, and no model was trained with yet, is removed. Raises UsageError when the
    settings contradict those of a model that the run has.
    """
    saved = saved_config(run.directory)
    if saved is not None:
        old = build_config(saved, [(f"in {run.directory / 'config.toml'}", saved)])
        trained = [stage for stage in STAGES if run.store(stage).begun()]
        if trained:
            again = [stage for stage in trained if stage in stages]
            check_unchanged(_fixed(old, again), _fixed(run.config, again), run.directory)
            run.config = _with_trained(run.config, old, [stage for stage in trained if stage not in stages], report)
        elif _made_from(old, STAGES) != _made_from(run.config, STAGES):
            _remove([run.directory / "tokenizer", *map(run.data, STAGES)], report)
        for stage in STAGES:
            if stage not in trained and _made_from(old, [stage]) != _made_from(run.config, [stage]):
                _remove([run.data(stage), run.store(stage).directory], report)
    run.save_config(backend)


def _made_from(config: Config, stages: Sequence[str]) -> dict:
    """The settings that decide what the tokenizer and the token shards of `stages` are."""
    names: list[str] = []
    for stage in stages:
        names += ["validation_fraction", stage, f"{stage}_validation"]
        if WORLD in getattr(config.data, stage) + getattr(config.data, f"{stage}_validation"):
            names.append({"pretrain": "world_texts", "sft": "world_instructions", "dpo": "world_pairs"}[stage])
    data = {name: getattr(config.data, name) for name in names}
    return {"seed": config.seed, "tokenizer": config.tokenizer, "context": config.model.context, "data": data}


def _fixed(config: Config, stages: Sequence[str]) -> dict:
    """The settings that must stay the same when training of `stages` goes on."""
    sections = {name: getattr(config, name).model_dump() for name in ("model", "tokenizer", *stages)}
    return {"seed": config.seed, "data": _made_from(config, stages)["data"]} | sections


def _with_trained(config: Config, old: Config, stages: Sequence[str], report: Report) -> Config:
    """The configuration with the old settings of `stages`, which are trained and not asked for now."""
    values = config.model_dump()
    for stage in stages:
        before = {stage: getattr(old, stage).model_dump()}
        if changed := differences(before, {stage: values[stage]}):
            report(Note(f"{stage} is trained already and keeps its settings; not used: {'; '.join(changed)}."))
        values |= before
        values["data"] |= {name: getattr(old.data, name) for name in (stage, f"{stage}_validation")}
    return build_config(values)


def _remove(directories: Sequence[Path], report: Report) -> None:
    for directory in directories:
        if directory.is_dir():
            if any(directory.iterdir()):
                report(Note(f"{directory} was made with other settings: removed, to be made again."))
            shutil.rmtree(directory)


def make_tokenizer(run: Run, stages: Sequence[str], report: Report) -> Tokenizer:
    """The run's tokenizer, trained on a sample of the stages' data if there is none yet."""
    directory = run.directory / "tokenizer"
    if (directory / "tokenizer_meta.json").exists() or any(run.store(stage).begun() for stage in STAGES):
        return run.tokenizer  # complains when it is gone: the models were trained with it, not with a new one
    report(Progress("training the tokenizer", 0))
    tokenizer = _learn(run.config, [reader(run, stage, silent) for stage in stages])
    for stage in STAGES:
        shutil.rmtree(run.data(stage), ignore_errors=True)  # ids of a tokenizer that is gone
    tokenizer.save(directory)
    report(Progress("training the tokenizer", tokenizer.vocab_size, finished=True))
    report(Note(f"tokenizer: {tokenizer.kind}, {tokenizer.vocab_size:,} tokens."))
    wanted = run.config.tokenizer.vocab_size
    if tokenizer.kind == "bpe" and tokenizer.vocab_size < wanted:
        report(Note(f"The text is too small for the {wanted:,} tokens that were asked for."))
    return run.tokenizer


def make_data(run: Run, stage: str, report: Report) -> None:
    """The token shards of a stage, if they are not there yet."""
    if not _prepared(run, stage):
        prepare(reader(run, stage, report), run.tokenizer, run.data(stage), run.config.model.context, report)


def _prepared(run: Run, stage: str) -> bool:
    return all((run.data(stage) / split / "meta.json").exists() for split in ("train", "validation"))


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
        sources = ", ".join(name for one in readers for name in getattr(one.config, one.stage))
        bad = next((f"The first row: {one.bad[0]}" for one in readers if one.bad), "Is it empty?")
        raise DataError(f"{sources}: there is no text to train a tokenizer on.", bad)
    return train_tokenizer(c.kind, texts, c.vocab_size)


def sources_by_stage(sources: Sequence[str], downloads: Path) -> dict[str, list[str]]:
    """Stage -> the sources whose rows fit it."""
    found: dict[str, list[str]] = {}
    for source in sources:
        found.setdefault(stage_of_source(source, downloads), []).append(source)
    return found


def stage_of_source(source: str, downloads: Path) -> str:
    """The stage that a source's first good row fits: texts pretrain, conversations SFT, preference pairs DPO."""
    if source == WORLD:
        return "pretrain"
    first: RowError | None = None
    for path in resolve([source], downloads):
        if is_text(path):
            return "pretrain"
        for row in islice(read_rows(path), 1000):
            try:
                parsed = parse_row(row)
            except RowError as error:
                first = first or error
                continue
            return {Text: "pretrain", Conversation: "sft", Preference: "dpo"}[type(parsed)]
    raise first or DataError(f"There is no usable row in {source}.", "Is it empty?")


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
        raise UsageError(f"{directory} is a file, not a directory.", "Choose another --run directory.")
    if directory.is_dir() and saved_config(directory) is None and any(directory.iterdir()):
        raise UsageError(f"{directory} holds other files and is not a run.", "Choose another --run directory.")
    return Run(directory, config)
