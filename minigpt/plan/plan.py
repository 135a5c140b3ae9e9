"""The plan of a run: for each stage what it computes, in what memory and time, and the micro-batches that fit."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from minigpt.config import Config
from minigpt.data.forms import WORLD, Form
from minigpt.model.gpt import active_count, flops_per_token, parameter_count
from minigpt.model.heads import with_head
from minigpt.model.lora import trained_count
from minigpt.plan.costs import checkpoint_bytes, disk_bytes, exchanged, row_width, step_tokens
from minigpt.plan.fit import DIVISION, divisions, fit
from minigpt.plan.memory import Memory, stage_memory
from minigpt.plan.speed import Speed, slower
from minigpt.sections import ModelConfig, StageConfig
from minigpt.stages.stage import Stage
from minigpt.stages.table import STAGES

DISK_RATE = 300e6  # bytes per second that a checkpoint is copied, summed and flushed with
OWN_VOCABULARY = {"char": 300, "byte": 300}  # about: known only when the text has been read
SpeedOf = Callable[[ModelConfig, Stage, StageConfig], Speed | None]


@dataclass(frozen=True)
class Place:
    """Where a run would take place. `base` and `budget` are bytes: before the model, and that may be used in all.

    `dtype` is what "auto" means there. `cpu` is the share of all cores that may be used on average; None: all of them.
    Of several `processes` that share each step, memory is that of each.
    """

    backend: str
    device: str
    dtype: str
    base: int
    budget: int | None
    cpu: float | None = None
    processes: int = 1

    def dtype_of(self, config: StageConfig) -> str:
        """What a stage with these settings computes in."""
        return self.dtype if config.dtype == "auto" else config.dtype


@dataclass(frozen=True)
class StagePlan:
    """`seconds` is None when nothing was measured, and `longest` says that they are those of sampled answers that all
    are as long as they may be, and unlike.

    `division` (micro-batches, checkpointing, chunks) differs from what was asked where memory is short.
    """

    stage: str
    steps: int
    tokens: int
    trained: int
    flops: float
    memory: Memory
    seconds: float | None
    division: dict[str, Any]
    fits: bool
    divided: bool
    step: float | None = None  # seconds of a step's gradients, and
    update: float | None = None  # of its update
    exchange: float = 0.0  # bytes that several processes sum up, once
    every: int = 1  # in so many steps
    longest: bool = False


@dataclass(frozen=True)
class Plan:
    """The stages' plans. `note` says what the measured times do not show: other programs that were busy."""

    parameters: int
    flops_per_token: float
    disk: int
    stages: tuple[StagePlan, ...]
    place: Place
    note: str = ""
    active: int = 0  # parameters that work for one token, where experts are chosen; 0: all

    @property
    def memory(self) -> int:
        return max((stage.memory.total for stage in self.stages), default=self.place.base)

    @property
    def seconds(self) -> float | None:
        known = [stage.seconds for stage in self.stages]
        return None if None in known else sum(known)

    @property
    def fits(self) -> bool:
        return all(stage.fits for stage in self.stages)

    def of(self, stage: str) -> StagePlan | None:
        return next((one for one in self.stages if one.stage == stage), None)

    def as_dict(self) -> dict[str, Any]:
        stages = [asdict(one) | {"memory": asdict(one.memory) | {"total": one.memory.total}} for one in self.stages]
        return {
            "parameters": self.parameters, "active_parameters": self.active or self.parameters,
            "flops_per_token": self.flops_per_token, "disk": self.disk,
            "memory": self.memory, "seconds": self.seconds, "fits": self.fits, "place": asdict(self.place),
            "stages": stages, "note": self.note,
        }  # fmt: skip


def make_plan(
    config: Config, stages: Mapping[str, int], place: Place, speed_of: SpeedOf, vocab_size: int = 0,
    rows: Mapping[str, int] | None = None,
) -> Plan:
    """A plan for `stages`, each with the steps that it has done already.

    `speed_of` measures a stage, or returns None. `vocab_size` is the tokenizer's where there is one already, and
    `rows` says how many rows of data the stages have, where that is known.
    """
    model = model_with_vocabulary(config, vocab_size)
    planned = []
    for name, done in stages.items():
        found = (rows or {}).get(name) or expected_rows(config, STAGES[name])
        counted = answered(config, STAGES[name])
        shape = with_head(model, STAGES[name].head)
        planned.append(_stage(shape, STAGES[name], config.of(name), done, place, speed_of, found, counted))
    sections = {stage: config.of(stage) for stage in stages}
    beside = {name: STAGES[name].beside(model, section) for name, section in sections.items()}
    active = active_count(model) if model.experts else 0
    return Plan(parameter_count(model), flops_per_token(model, model.context), disk_bytes(model, sections, beside),
                tuple(planned), place, active=active)  # fmt: skip


def model_with_vocabulary(config: Config, vocab_size: int = 0) -> ModelConfig:
    """The model's shape with the vocabulary that it has or will have."""
    asked = config.tokenizer
    size = config.model.vocab_size or vocab_size or OWN_VOCABULARY.get(asked.kind, asked.vocab_size)
    return config.model.model_copy(update={"vocab_size": size})


def expected_rows(config: Config, stage: Stage) -> int:
    """Rows before the data is read: the built-in world's, or as many as the steps need, once."""
    sources, world, section = config.sources(stage.name), stage.form.world, config.of(stage.name)
    if world and world.tokens and set(sources.train) <= {WORLD}:
        return max(1, round(sources.world_rows * world.tokens / (stage.form.width * config.model.context)))
    return section.steps * section.batch_size


def answered(config: Config, stage: Stage) -> float:
    """The share of tokens that are part of the loss: the built-in world's, or all, as rows of others may be."""
    own = set(config.sources(stage.name).train) - {WORLD}
    return 1.0 if own or not stage.form.world else stage.form.world.counted


def _stage(
    model: ModelConfig, stage: Stage, config: StageConfig, done: int, place: Place, speed_of: SpeedOf,
    rows: int, counted: float,
) -> StagePlan:  # fmt: skip
    form, framework, beside = stage.form, (place.backend, place.device), stage.beside(model, config)

    def memory(divided: StageConfig) -> Memory:
        return stage_memory(model, form, divided, framework, place.dtype_of(config), place.base, counted, beside,
                            place.processes)  # fmt: skip

    def fits(divided: StageConfig) -> bool:
        return place.budget is None or memory(divided).total <= place.budget

    fitting = fit(config, fits)
    chosen = fitting or list(divisions(config))[-1]
    steps, tokens = max(0, config.steps - done), step_tokens(model, form, config)
    speed = speed_of(model, stage, config)
    seconds = None
    if speed is not None:
        first = stage.reads_first(config)
        reading = rows if first and not done else 0
        held_out = min(config.eval_rows, max(1, rows // 20)) if first else config.eval_rows
        speed = slower(speed, chosen.activation_checkpointing and not config.activation_checkpointing)
        saved = checkpoint_bytes(model, chosen, beside)
        seconds = _seconds(model, form, chosen, steps, speed, reading, held_out, saved)
    return StagePlan(
        stage.name, steps, steps * tokens, trained_count(model, config, beside),
        steps * tokens * flops_per_token(model, row_width(model, form)), memory(chosen), seconds,
        {name: getattr(chosen, name) for name in DIVISION}, fitting is not None, chosen != config,
        None if speed is None else tokens * speed.token, None if speed is None else speed.update,
        exchanged(trained_count(model, config, beside), chosen, place.backend),
        max(1, config.outer_every), config.samples,
    )  # fmt: skip


def _seconds(
    model: ModelConfig, form: Form, config: StageConfig, steps: int, speed: Speed, reading: int, held_out: int,
    saved: int,
) -> float:  # fmt: skip
    """Training, measuring on held-out rows, saving (so many bytes), and reading all rows first where a stage does."""
    width, last = row_width(model, form), config.steps
    done, both = last - steps, math.lcm(config.save_every, config.eval_every)
    saves = _multiples(config.save_every, done, last) + (last % config.save_every != 0 and steps > 0)
    looks = saves + _multiples(config.eval_every, done, last) - _multiples(both, done, last)
    looks -= last % config.eval_every == 0 and last % config.save_every != 0 and steps > 0  # the last step, once
    training = steps * (step_tokens(model, form, config) * speed.token + speed.update)
    measuring = ((looks + (steps == last)) * held_out + reading) * width * speed.forward  # the start, too
    saving = looks * saved / DISK_RATE  # each measurement may be the best one
    return training + measuring + saving


def _multiples(of: int, above: int, last: int) -> int:
    """How many multiples there are in above + 1 … last."""
    return last // of - above // of
