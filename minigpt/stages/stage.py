"""What a training stage is: one row of the table in `minigpt.stages.table`, from which all else is built."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from backends.tree import Tree, map_leaves
from minigpt.data.forms import Form
from minigpt.data.shards import Shard
from minigpt.events import Note, Report
from minigpt.generate.engine import Engine
from minigpt.generate.scorer import Scorer
from minigpt.model.gpt import GPT
from minigpt.model.heads import WRITES
from minigpt.model.lora import Shape, is_adapted
from minigpt.sections import ModelConfig, StageConfig, TuneConfig
from minigpt.text.tokenizer import Tokenizer
from minigpt.train.loop import Objective


@dataclass(frozen=True)
class Job:
    """What a stage's objective is made from.

    `weights` are those that training starts from, of the model's backend (shared out between processes where
    `StageConfig.shard` says so: `Group.opened` makes them whole), and `start` tells them from all others ("" where that
    does not matter). `directory` is the stage's own, where it may keep what is dear to compute; None: nowhere. `load`
    opens a finished model of another run ("RUN" or "RUN/STAGE", in 8 bits where that is wanted); without it nothing is
    opened, and the rows are made up, to measure how long a step takes.
    """

    model: GPT
    weights: Tree
    config: Any  # the stage's section
    form: Form
    training: Shard
    held_out: Shard
    tokenizer: Tokenizer
    seed: int
    report: Report
    directory: Path | None = None
    start: str = ""
    load: Callable[[str, int], Engine] | None = None
    load_scorer: Callable[[str], Scorer] | None = None  # the reward model of a run likewise; "": of this run

    @property
    def context(self) -> int:
        return self.model.config.context

    @property
    def rows_at_once(self) -> int:
        """Rows that are measured or read at once: each of several processes has no more of them than of a step's."""
        return max(1, self.config.micro_batch_size // self.model.backend.group.size)

    @property
    def made_up(self) -> bool:
        """Whether nothing is trained, and only the time of a step is measured."""
        return self.load is None

    def note(self, text: str) -> None:
        """Tell the user something, where a training begins or goes on."""
        if not self.made_up:
            self.report(Note(text))

    def starting_weights(self) -> Tree:
        """The weights that training starts from, to be read while it goes on: a copy where it writes over them."""
        if is_adapted(self.config):
            return self.weights
        backend = self.model.backend
        return map_leaves(lambda x: backend.array(np.array(backend.numpy(x))), self.weights)


@dataclass(frozen=True)
class Subject:
    """A finished stage's model and the held-out rows that it is measured on, or `limit` of them."""

    made_up: ClassVar[bool] = False

    model: GPT
    weights: Tree
    tokenizer: Tokenizer
    shard: Shard
    seed: int
    batch_size: int = 16
    limit: int | None = None


@dataclass(frozen=True)
class Stage:
    """One kind of training.

    `starts_from` names the stages whose weights it may go on with, the first finished one of them; one that names
    none starts from random weights. An `optional` one is trained only where its data or settings name it. `check`
    raises UsageError, before anything is written, for settings that cannot be trained with. `answers` says that a
    model knows after it how to answer a message.
    """

    name: str
    summary: str  # what it does, and what to watch: a sentence or two
    taught: str  # what a model is after it, for the model card: a sentence
    config: type[StageConfig]
    form: Form
    objective: Callable[[Job], Objective]
    measure: Callable[[Subject], dict[str, float]]
    starts_from: tuple[str, ...] = ()
    head: str = WRITES  # what its model has on top of the trunk, a row of minigpt.model.heads.HEADS
    scored_at: str = ""  # where its model scores an answer: see minigpt.generate.scorer; "": it does not
    answers: bool = True
    optional: bool = False
    check: Callable[[Any], None] = lambda config: None
    reads_first: Callable[[Any], bool] = lambda config: False  # whether all rows are read once before the first step,
    # with the starting weights
    beside: Callable[[ModelConfig, Any], dict[str, Shape]] = lambda model, config: {}  # leaves that stand beside the
    # model's while it is trained, which are kept in checkpoints and no part of the finished model (Objective.beside)
    advice: Callable[[Any, dict[str, float]], str] = lambda config, measured: ""  # after training: what went wrong
    imported: Mapping[str, Any] = field(default_factory=dict)  # its settings for a model that came from elsewhere
    checked: Mapping[str, Any] = field(default_factory=dict)  # its settings when the backends are compared, and
    variations: tuple[str, ...] = ()  # which of `parity.trajectories.VARIATIONS` are tried, too

    @property
    def adapts(self) -> bool:
        """Whether it can train an adapter."""
        return issubclass(self.config, TuneConfig)
