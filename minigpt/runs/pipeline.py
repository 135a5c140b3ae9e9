"""A whole run: tokenizer → data → one stage after the other, in one directory. The same call again resumes it."""

import signal
from collections.abc import Sequence
from dataclasses import replace

from backends.base import Backend
from minigpt.config import Config, build_config
from minigpt.data.forms import WORLD
from minigpt.data.read.named import check_source
from minigpt.errors import Interrupted, UsageError, out_of_memory
from minigpt.events import Report
from minigpt.model.heads import with_head
from minigpt.model.lora import is_adapted, lora_shapes
from minigpt.runs.claim import claim
from minigpt.runs.control import UNSTEERED, Control
from minigpt.runs.inputs import is_prepared, make_data, make_tokenizer
from minigpt.runs.run import Run
from minigpt.runs.start import stage_before
from minigpt.runs.training import train_stage
from minigpt.stages.assemble import STAGES_OWN, Custom
from minigpt.stages.table import FIRST, STAGES, USUAL
from minigpt.train.fully_sharded import check_shards
from minigpt.train.together import check_rows


def run_pipeline(
    run: Run, backend: Backend, report: Report, stages: Sequence[str] = USUAL,
    control: Control = UNSTEERED, allow_changes: bool = False, custom: Custom = STAGES_OWN,
) -> Run:
    """Bring a run to the end of `stages`; what is done already is kept. Returns it with the settings that it has now.

    Raises UsageError when the directory belongs to a run with other settings for these stages (see `claim`), and
    Interrupted, which says where the same call goes on, when a signal ends training.
    """
    check_possible(run, stages)
    group = backend.group
    check_processes(run.config, stages, backend)
    run = _claimed(run, backend, report, stages, allow_changes)
    group.first(lambda: make_tokenizer(run, stages, report) and None)
    unfinished = group.first(lambda: next((stage for stage in stages if not run.store(stage).finished()), None))
    for stage in stages:
        group.first(lambda stage=stage: make_data(run, stage, report))
        less_memory = control.less_memory and stage == unfinished  # that is where the last try ended
        try:
            train_stage(run, stage, backend, report, replace(control, less_memory=less_memory), custom)
        except KeyboardInterrupt as error:
            kept = run.store(stage).steps_kept()
            hint = f"goes on from step {kept:,}" if kept else f"begins {stage} again: it has no checkpoint yet"
            number = getattr(error, "number", signal.SIGINT)
            raise Interrupted(f"Interrupted during {stage}.", f"The same command {hint}.", number) from None
        except (MemoryError, RuntimeError) as error:
            raise out_of_memory(error) or error from None
        if any(group.gather(control.stop.requested)):
            number = control.stop.signal or signal.SIGTERM
            raise Interrupted(f"Stopped after {stage}, which is finished.", "", number)
    return run


def _claimed(run: Run, backend: Backend, report: Report, stages: Sequence[str], allow_changes: bool) -> Run:
    """`claim`, which one process does; the others take over its settings."""
    if backend.group.size == 1:
        return claim(run, backend, report, stages, allow_changes)
    values = backend.group.first(
        lambda: claim(run, backend, report, stages, allow_changes).config.model_dump(mode="json")
    )
    return Run(run.directory, build_config(values))


def check_processes(config: Config, stages: Sequence[str], backend: Backend) -> None:
    """Raises UsageError when the processes cannot share out these stages as the settings say."""
    for stage in stages:
        check_rows(config.of(stage).batch_size, stage, backend.group.size)
        check_shards(stage, config.of(stage), config.model, backend.name, backend.group)


def check_possible(run: Run, stages: Sequence[str]) -> None:
    """Raises UsageError or DataError, before anything is written, when a stage lacks its data or its first model."""
    kind = run.config.tokenizer.kind
    if FIRST in stages and kind == "imported":
        message = f"The model of {run.directory} was imported: its pretraining is finished."
        ways = [f"{stage.form.needs} (train {name})" for name, stage in STAGES.items() if stage.starts_from]
        raise UsageError(message, f"Go on with {' or '.join(ways)}.")
    copies = max(run.config.sources(stage).copies for stage in stages)
    if copies > 1 and kind != "bpe":
        message = f"data.pretrain_copies = {copies}: a tokenizer of the kind {kind!r} cuts a text one way only."
        raise UsageError(message, "Set it to 1, or tokenizer.kind to bpe.")
    for stage in stages:
        if not run.config.sources(stage).train and not run.data(stage).is_dir():
            raise UsageError(
                f"There is no data for {stage}.",
                f"Give it with --data FILE, or --set data.{stage}='[\"FILE\"]' in a run of several stages.",
            )
        STAGES[stage].check(run.config.of(stage))
        stage_before(run, stage, stages)
        _check_adapter(run.config, stage)
        for source in [] if is_prepared(run, stage) else run.config.sources(stage).train:
            if source != WORLD:
                check_source(source)


def _check_adapter(config: Config, stage: str) -> None:
    """Raises UsageError when a stage's adapter does not fit the model."""
    if is_adapted(section := config.of(stage)):
        vocabulary = config.model.vocab_size or config.tokenizer.vocab_size
        shape = with_head(config.model.model_copy(update={"vocab_size": vocabulary}), STAGES[stage].head)
        lora_shapes(shape, section)
