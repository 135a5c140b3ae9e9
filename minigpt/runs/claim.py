"""A run directory and the settings that its models were made with: what may change, and what is made again."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from backends.base import Backend
from minigpt.config import Config, build_config, differences
from minigpt.errors import UsageError
from minigpt.events import Note, Report
from minigpt.runs.heartbeat import DIRECTORY
from minigpt.runs.run import Run, check_unchanged, saved_config
from minigpt.sections import form_of
from minigpt.stages.table import STAGES
from minigpt.store.durable import tidy

OURS = {".lock", ".lock.json", "log.txt", DIRECTORY}  # what a run's directory may have before its config.toml


def new_run(directory: Path, config: Config) -> Run:
    """A Run at `directory`. Raises UsageError when something else is there."""
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{directory} is a file, not a directory.", "Choose another --run directory.")
    if directory.is_dir() and saved_config(directory) is None and {p.name for p in directory.iterdir()} - OURS:
        raise UsageError(f"{directory} holds other files and is not a run.", "Choose another --run directory.")
    return Run(directory, config)


def claim(run: Run, backend: Backend, report: Report, stages: Sequence[str], allow_changes: bool = False) -> Run:
    """Save the configuration in the run's directory, so that it tells how everything there was made.

    What was made with other settings, and no model was trained with yet, is removed. Returns the run with the settings
    that it has from now on: trained stages that are not asked for keep theirs. Raises UsageError when the
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
            done: list[str] = []
            if allow_changes:
                run, done = _reopen(run, old, again, report)
            else:
                check_unchanged(_fixed(old, again), _fixed(run.config, again), run.directory)
            others = [stage for stage in trained if stage not in again or stage in done]
            run = Run(run.directory, _with_trained(run.config, old, others, report))
        elif made_from(old, tuple(STAGES)) != made_from(run.config, tuple(STAGES)):
            _remove([run.directory / "tokenizer", *map(run.data, STAGES)], report)
        for stage in STAGES:
            if stage not in trained and made_from(old, [stage]) != made_from(run.config, [stage]):
                _remove([run.data(stage), run.store(stage).directory], report)
    run.save_config(backend)
    return run


def made_from(config: Config, stages: Sequence[str]) -> dict:
    """The settings that decide what the tokenizer and the token shards of `stages` are."""
    names = [name for stage in stages for name in config.data.keys_of(STAGES[stage])]
    data = {name: getattr(config.data, name) for name in names}
    begun = {"seed": config.seed, "start": config.start, "tokenizer": config.tokenizer}
    return begun | {"context": config.model.context, "data": data}


def _fixed(config: Config, stages: Sequence[str]) -> dict:
    """The settings that must stay the same when training of `stages` goes on."""
    sections = {name: getattr(config, name).model_dump() for name in ("model", "tokenizer", *stages)}
    return {"seed": config.seed, "start": config.start, "data": made_from(config, stages)["data"]} | sections


def _reopen(run: Run, old: Config, stages: Sequence[str], report: Report) -> tuple[Run, list[str]]:
    """Let trained stages go on with other training settings: finished ones, too, when these ask for more steps.

    Returns the run, which never claims fewer steps than a stage has trained, and the finished stages that stay as
    they are. Raises UsageError when something else changed, for which the trained weights would be meaningless.
    """
    before, now = (_fixed(c, stages) | {stage: form_of(c.of(stage)) for stage in stages} for c in (old, run.config))
    check_unchanged(before, now, run.directory, allowed=True)
    done = []
    for stage in stages:
        store, section = run.store(stage), run.config.of(stage)
        changed = differences({stage: old.of(stage).model_dump()}, {stage: section.model_dump()})
        if not changed:
            continue
        kept = store.steps_kept()
        if store.finished() and not store.checkpoints() and section.steps > old.of(stage).steps:
            message = f"{stage} cannot go on: its checkpoints were deleted after it was finished (minigpt tidy)."
            raise UsageError(message, "Train it in another --run directory, or leave its steps as they are.")
        if store.finished() and (kept >= section.steps or not kept):
            done.append(stage)  # its final weights are what the old settings made
            continue
        if store.finished():
            shutil.rmtree(store.final)  # a copy of the best checkpoint, which stays
            names = list(STAGES)
            later = [name for name in names[names.index(stage) + 1 :] if run.store(name).begun()]
            if later:
                report(Note(f"{', '.join(later)} began with the earlier weights of {stage} and will not change."))
        report(Note(f"{stage} goes on from step {kept:,}; changed settings: {'; '.join(changed)}."))
        if section.steps < kept:
            run = run.with_section(stage, steps=kept)
            report(Note(f"{stage} has trained {kept:,} steps already: it ends with these, and steps is {kept:,}."))
    return run, done


def _with_trained(config: Config, old: Config, stages: Sequence[str], report: Report) -> Config:
    """The configuration with the old settings of `stages`, which are trained and not asked for now."""
    values = config.model_dump()
    for stage in stages:
        before = {stage: old.of(stage).model_dump()}
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
