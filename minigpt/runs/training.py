"""One stage of a run: from its prepared data and the weights before it to its final weights."""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backends.base import Backend
from backends.tree import Tree
from minigpt.errors import CheckpointError
from minigpt.events import Note, Report, StageFinished, StageStarted
from minigpt.machine import choose_dtype
from minigpt.machine.formats import dtype_note
from minigpt.model.gpt import GPT, parameter_count, to_backend
from minigpt.model.heads import WRITES
from minigpt.model.lora import is_adapted
from minigpt.model.router import learns_nothing
from minigpt.plan.actual import Peak, compare, keep_plan
from minigpt.plan.fit import DIVISION, smaller
from minigpt.plan.plan import StagePlan
from minigpt.runs.control import UNSTEERED, Control
from minigpt.runs.group import check_same
from minigpt.runs.loading import load_engine, load_scorer
from minigpt.runs.run import Run, run_at
from minigpt.runs.start import completion, stage_before, start_fingerprint, starting_weights
from minigpt.sections import StageConfig, with_new_names
from minigpt.stages.adapter import adapter_note
from minigpt.stages.assemble import STAGES_OWN, Custom, assembled
from minigpt.stages.stage import Job, Stage
from minigpt.stages.table import STAGES
from minigpt.store.checkpoint import read_state, verify_checkpoint
from minigpt.store.durable import write_whole
from minigpt.store.stage import StageStore
from minigpt.train.fit import fit
from minigpt.train.fully_sharded import FULL, LAYERS
from minigpt.train.loop import Hook, Objective
from minigpt.train.samples import Samples, prompts_of

OFTEN = 20  # readings of the same data from which it is learned by heart


def train_stage(
    run: Run, name: str, backend: Backend, report: Report, control: Control = UNSTEERED, custom: Custom = STAGES_OWN
) -> Path:
    """Train one stage of a run whose data is prepared; returns the directory of its final weights.

    A finished stage is left as it is; an interrupted one goes on from its last checkpoint. `custom` replaces some of
    the stage's own objective.
    """
    stage, group = STAGES[name], backend.group
    store = run.store(name, writes=group.rank == 0)
    if group.first(store.finished):
        group.first(lambda: _make_whole(run, name, report))
        report(StageFinished(name, store.final, 0.0, skipped=True))
        return store.final
    planned = control.plan.of(name) if control.plan is not None else None
    values = group.first(lambda: _settings(run, name, backend, control.less_memory, planned).model_dump())
    config = type(run.config.of(name)).model_validate(values)
    backend.runtime.repeat_exactly(config.deterministic)
    report(StageStarted(name, config.steps, parameter_count(run.shape_of(name)), backend.name, backend.device,
                        config.dtype))  # fmt: skip
    slow = dtype_note(backend, run.config.of(name).dtype, run.model_config.d_model)
    for note in [*_notes(run, stage, config, planned), *[slow] * bool(slow)]:
        report(Note(note))

    if planned is not None:
        keep_plan(store.directory, planned)
    began, rested, kept, peak = time.perf_counter(), control.rested, store.steps_kept(), Peak(backend)
    weights, objective, hooks, fingerprint = prepared(run, stage, backend, config, report, custom)
    fit(backend, name, config, weights, objective, store, report, control.stop, control.brake, hooks, fingerprint)
    group.in_step = False
    final = Path(group.first(lambda: str(store.finish(name, report, completion(run, name)))))
    seconds, best = time.perf_counter() - began, read_state(final)["step"]
    report(StageFinished(name, final, seconds, best_step=best, last_step=store.steps_kept()))
    if planned is not None and group.rank == 0:
        seconds -= control.rested - rested
        report(compare(store.directory, planned, peak.bytes(), seconds, store.steps_kept() - kept))
    if advice := stage.advice(run.config.of(name), store.last_state()["metrics"]):
        report(Note(f"{name}: {advice}"))
    return store.final


def prepared(
    run: Run, stage: Stage, backend: Backend, config: StageConfig, report: Report, custom: Custom = STAGES_OWN
) -> tuple[Tree, Objective, list[Hook], str]:
    """(weights to train, objective, hooks, fingerprint of the frozen weights) of a stage with its starting weights."""
    name, shape, seed = stage.name, run.shape_of(stage.name), run.config.seed
    model = GPT.trained_by(config, shape, backend, config.dtype)
    weights = _begun(backend, config, starting_weights(run, name, config))
    fingerprint = start_fingerprint(run, name, weights, backend.numpy)
    store, training, held_out = run.store(name), run.training_data(name), run.held_out(name)
    data = {f"{name}'s data in {shard.directory.name}": shard.meta.get("sha256") for shard in (training, held_out)}
    check_same(backend.group, data | {f"start of {name}": fingerprint})
    start = "" if store.begun() else fingerprint
    objective = stage.objective(
        Job(model, weights, config, stage.form, training, held_out, run.tokenizer, seed, report, store.directory, start,
            lambda path, bits: load_engine(*run_at(path), backend, bits, report=report),
            lambda path: load_scorer(*(run_at(path) if path else (run, None)), backend))
    )  # fmt: skip
    for note in _read_often(stage, config, len(training.ids), shape.context):
        report(Note(note))
    weights, objective = assembled(backend, model, config, weights, seed, custom.of(model, objective))
    prompts = prompts_of(held_out, shape.context) if stage.head == WRITES else []
    base = objective.base if is_adapted(config) else None  # a teacher, which distill has there, is no part of the model
    samples = Samples(name, config, model, run.tokenizer, prompts, base, store, report)
    hooks: list[Hook] = [*objective.hooks] if backend.group.rank == 0 else []
    hooks = [samples, *hooks] if backend.group.rank == 0 or backend.group.in_step else hooks
    hooks += custom.hooks
    return weights, objective, hooks, fingerprint if is_adapted(config) else ""


def _begun(backend: Backend, config: StageConfig, weights: Tree) -> Tree:
    """NumPy weights as arrays of the backend, shared out between the processes where that is wanted."""
    group = backend.group
    group.in_step = config.shard == FULL and group.size > 1
    return group.shared_out(weights, LAYERS, config.transfer) if group.in_step else to_backend(backend, weights)


def _settings(
    run: Run, stage: str, backend: Backend, less_memory: bool, planned: StagePlan | None
) -> StageConfig:
    """The stage's settings with the micro-batches and the number format that it is trained with here."""
    config = fitted(run.store(stage), run.config.of(stage), less_memory, planned and planned.division)
    return config.model_copy(update={"dtype": _dtype(run, stage, backend)})


def _read_often(stage: Stage, config: StageConfig, tokens: int, context: int) -> Iterator[str]:
    """A warning when training will read its data so often that it learns them by heart."""
    times = config.steps * config.batch_size * stage.form.width * context / max(1, tokens)
    if times < OFTEN:
        return
    steps = max(1, int(config.steps * OFTEN / times))
    name = stage.name
    ways = [f"fewer steps (--set {name}.steps={steps})", f"dropout (--set {name}.dropout=0.1)", "a smaller model"]
    ways += ["other copies of the text (--set data.pretrain_copies=4)"] if stage.form.stream else []
    yield (
        f"{name}: {tokens:,} tokens of data will be read about {times:,.0f} times: the model will learn them by heart. "
        f"What helps: more data, {', '.join(ways)}, or --set {name}.patience=3, which ends it when nothing gets better."
    )


def fitted(
    store: StageStore, config: StageConfig, less_memory: bool, planned: dict[str, Any] | None = None
) -> StageConfig:
    """The settings with the `planned` micro-batches, those that an earlier try ended with, or smaller ones.

    It is kept in the stage's memory.json, so that the same command fits at once the next time.
    """
    config = config.model_copy(update=planned or {})
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # there is none, or it is for another batch
        kept = with_new_names(json.loads(store.memory.read_text("utf-8")))
        kept = {name: kept[name] for name in DIVISION if name in kept}
        found = type(config).model_validate(config.model_dump() | kept)
        if _fineness(found) >= _fineness(config):
            config = found
    if less_memory:
        config = smaller(config)
        store.directory.mkdir(parents=True, exist_ok=True)
        write_whole(store.memory, json.dumps({name: getattr(config, name) for name in DIVISION}))
    return config


def _fineness(config: StageConfig) -> tuple[bool, int]:
    return config.activation_checkpointing, config.grad_accumulation


def _dtype(run: Run, stage: str, backend: Backend) -> str:
    """What the stage computes in: what it was begun with, as what suits a machine may be a close decision."""
    wanted, store = run.config.of(stage).dtype, run.store(stage)
    if wanted == "auto" and store.begun():
        usual = "bfloat16" if backend.device == "gpu" and backend.runtime.fast_bfloat16() else "float32"
        return store.last_state().get("dtype", usual)
    return choose_dtype(backend, wanted, run.model_config.d_model)


def _make_whole(run: Run, stage: str, report: Report) -> None:
    """Make damaged final weights again from the best checkpoint. Raises CheckpointError when that is gone, too."""
    store = run.store(stage)
    try:
        verify_checkpoint(store.final)
    except CheckpointError as error:
        store.finish(stage, report, completion(run, stage))
        report(Note(f"{error.message} It was made again from the best checkpoint."))


def _notes(run: Run, stage: Stage, config: StageConfig, planned: StagePlan | None) -> Iterator[str]:
    """What a user should know before the first step."""
    name = stage.name
    if (before := stage_before(run, name)) and not run.store(name).steps_kept():
        yield f"{name}: starts from the weights of {before} ({run.store(before).final})."
    yield from _rate_of_zero(name, config)
    if cut_off := learns_nothing(run.config.model):
        yield cut_off
    yield from _divided(run.config.of(name), name, config, planned)
    if note := adapter_note(run.shape_of(name), name, config):
        yield note


def _rate_of_zero(stage: str, config: StageConfig) -> Iterator[str]:
    """A warning when nothing, or only a part, can be learned."""
    rates = {"learning_rate": config.learning_rate}
    if config.optimizer == "muon":
        rates["matrix_learning_rate"] = config.matrix_learning_rate
    zero = [f"{stage}.{name}" for name, rate in rates.items() if rate == 0]
    what = "nothing is learned" if len(zero) == len(rates) else "a part of the weights stays as it is"
    if zero:
        yield f"{' and '.join(zero)} = 0: {what}."


def _divided(asked: StageConfig, stage: str, config: StageConfig, planned: StagePlan | None) -> Iterator[str]:
    """What was changed because memory is short."""
    if all(getattr(config, name) == getattr(asked, name) for name in DIVISION):
        return
    if planned is not None and planned.division == {name: getattr(config, name) for name in DIVISION}:
        return  # the plan has said so
    more = config.activation_checkpointing and not asked.activation_checkpointing
    yield (
        f"{stage}: a step is computed in {config.grad_accumulation} micro-batches"
        f"{' and with activation checkpointing' if more else ''}, since earlier tries with fewer died; the batch, and "
        "so the result, stays the same."
    )
