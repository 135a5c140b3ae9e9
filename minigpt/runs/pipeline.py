"""A whole run: tokenizer → data → pretrain → SFT → DPO in one directory. The same call again resumes it."""

import random
import shutil
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from backends.base import Backend
from minigpt.config import STAGES, Config, build_config, differences
from minigpt.data.examples import Conversation, Parsed, Preference, Text
from minigpt.data.parse.fields import RowError
from minigpt.data.parse.formats import parse_row
from minigpt.data.prepare import WORLD, Reader, prepare
from minigpt.data.read.files import is_text
from minigpt.data.read.named import check_source, resolve
from minigpt.data.read.sources import read_rows
from minigpt.errors import DataError, Interrupted, UsageError
from minigpt.events import Note, Progress, Report, silent
from minigpt.model.lora import is_adapted, lora_shapes
from minigpt.runs.run import Run, check_unchanged, saved_config
from minigpt.stages.stages import train_stage
from minigpt.stages.start import stage_before
from minigpt.store.durable import tidy, whole_directory
from minigpt.text.learn import train_tokenizer
from minigpt.text.tokenizer import Tokenizer
from minigpt.train.control import UNSTEERED, Control, out_of_memory

OURS = {".lock", "log.txt"}  # what a run's directory may have before its config.toml


def run_pipeline(
    run: Run, backend: Backend, report: Report, stages: Sequence[str] = STAGES, control: Control = UNSTEERED,
    allow_changes: bool = False,
) -> None:
    """Bring a run to the end of `stages`; what is done already is kept.

    Raises UsageError when the directory belongs to a run with other settings for these stages (see `claim`), and
    Interrupted, which says where the same call goes on, when a signal ends training.
    """
    check_possible(run, stages)
    claim(run, backend, report, stages, allow_changes)
    make_tokenizer(run, stages, report)
    unfinished = next((stage for stage in stages if not run.store(stage).finished()), None)
    for stage in stages:
        make_data(run, stage, report)
        less_memory = control.less_memory and stage == unfinished  # that is where the last try ended
        try:
            train_stage(run, stage, backend, report, replace(control, less_memory=less_memory))
        except KeyboardInterrupt as error:
            kept = run.store(stage).steps_kept()
            hint = f"goes on from step {kept:,}" if kept else f"begins {stage} again: it has no checkpoint yet"
            number = getattr(error, "number", signal.SIGINT)
            raise Interrupted(f"Interrupted during {stage}.", f"The same command {hint}.", number) from None
        except (MemoryError, RuntimeError) as error:
            raise out_of_memory(error) or error from None
        if control.stop.requested:
            raise Interrupted(f"Stopped behind {stage}, which is finished.", "", control.stop.signal)


def check_possible(run: Run, stages: Sequence[str]) -> None:
    """Raises UsageError or DataError, before anything is written, when a stage lacks its data or its first model."""
    if "pretrain" in stages and run.config.tokenizer.kind == "imported":
        message = f"The model of {run.directory} was imported: its pretraining is finished."
        raise UsageError(message, "Go on with conversations (train sft) or preference pairs (train dpo).")
    copies, kind = run.config.data.pretrain_copies, run.config.tokenizer.kind
    if "pretrain" in stages and copies > 1 and kind != "bpe":
        message = f"data.pretrain_copies = {copies}: a tokenizer of the kind {kind!r} cuts a text one way only."
        raise UsageError(message, "Set it to 1, or tokenizer.kind to bpe.")
    for stage in stages:
        if not getattr(run.config.data, stage) and not run.data(stage).is_dir():
            raise UsageError(
                f"There is no data for {stage}.",
                f"Give it with --data FILE, or --set data.{stage}='[\"FILE\"]' in a run of several stages.",
            )
        stage_before(run, stage, stages)
        _check_adapter(run.config, stage)
        for source in [] if _prepared(run, stage) else getattr(run.config.data, stage):
            if source != WORLD:
                check_source(source)


def _check_adapter(config: Config, stage: str) -> None:
    """Raises UsageError when a stage's adapter does not fit the model."""
    if is_adapted(section := getattr(config, stage)):
        vocabulary = config.model.vocab_size or config.tokenizer.vocab_size
        lora_shapes(config.model.model_copy(update={"vocab_size": vocabulary}), section)


def claim(run: Run, backend: Backend, report: Report, stages: Sequence[str], allow_changes: bool = False) -> None:
    """Save the configuration in the run's directory, so that it tells how everything there was made.

    What was made with other settings, and no model was trained with yet, is removed. Raises UsageError when the
    settings contradict those of a model that the run has; with `allow_changes` its stages go on with other
    training settings.
    """
    if run.directory.is_dir():
        tidy(run.directory)
    saved = saved_config(run.directory)
    if saved is not None:
        old = build_config(saved, [(f"in {run.directory / 'config.toml'}", saved)])
        trained = [stage for stage in STAGES if run.store(stage).begun()]
        if trained:
            again = [stage for stage in trained if stage in stages]
            if allow_changes:
                _reopen(run, old, again, report)
            else:
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
        names += ["pretrain_copies", "bpe_dropout"] * (stage == "pretrain")
        if WORLD in getattr(config.data, stage) + getattr(config.data, f"{stage}_validation"):
            names.append({"pretrain": "world_texts", "sft": "world_instructions", "dpo": "world_pairs"}[stage])
    data = {name: getattr(config.data, name) for name in names}
    return {"seed": config.seed, "tokenizer": config.tokenizer, "context": config.model.context, "data": data}


def _fixed(config: Config, stages: Sequence[str]) -> dict:
    """The settings that must stay the same when training of `stages` goes on."""
    sections = {name: getattr(config, name).model_dump() for name in ("model", "tokenizer", *stages)}
    return {"seed": config.seed, "data": _made_from(config, stages)["data"]} | sections


def _form(section: dict) -> dict:
    """The settings of a stage that decide which leaves it trains, and what they mean."""
    keys = ("lora_rank", "lora_alpha", "lora_targets", "lora_bits", "dora")
    return {key: section[key] for key in keys if key in section}


def _reopen(run: Run, old: Config, stages: Sequence[str], report: Report) -> None:
    """Let trained stages go on with other training settings: finished ones, too, when these ask for more steps.

    Raises UsageError when something else changed, for which the trained weights would be meaningless.
    """
    before, now = (
        {k: _form(v) if k in stages else v for k, v in _fixed(c, stages).items()} for c in (old, run.config)
    )
    check_unchanged(before, now, run.directory, allowed=True)
    for stage in stages:
        store, section = run.store(stage), getattr(run.config, stage)
        changed = differences({stage: getattr(old, stage).model_dump()}, {stage: section.model_dump()})
        if not changed:
            continue
        kept = store.steps_kept()
        if store.finished() and kept < section.steps:
            shutil.rmtree(store.final)  # a copy of the best checkpoint, which stays
            later = [name for name in STAGES[STAGES.index(stage) + 1 :] if run.store(name).begun()]
            if later:
                report(Note(f"{', '.join(later)} began with the earlier weights of {stage} and will not change."))
        what = "is finished and stays as it is" if store.finished() else f"goes on from step {kept:,}"
        report(Note(f"{stage} {what}; changed settings: {'; '.join(changed)}."))


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
    if directory.is_dir() and saved_config(directory) is None and {p.name for p in directory.iterdir()} - OURS:
        raise UsageError(f"{directory} holds other files and is not a run.", "Choose another --run directory.")
    return Run(directory, config)
