"""A run directory: where a run keeps its configuration, tokenizer, data and stages.

    runs/<name>/  README.txt  config.toml  env.json  tokenizer/  data/<stage>/{train,validation}/
                  <stage>/{checkpoints/step-000200/, final/, metrics.jsonl}
"""

import errno
import json
import platform
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from backends.base import Backend
from backends.tree import Tree, map_leaves, unflatten
from minigpt import __version__
from minigpt.config import Config, build_config, differences, to_toml
from minigpt.data.shards import Shard
from minigpt.errors import DataError, ResourceError, UsageError
from minigpt.model.gpt import weight_shapes
from minigpt.model.heads import WRITES, with_head
from minigpt.runs.finding import RUNS, SETTINGS, find_stage
from minigpt.runs.readme import readme
from minigpt.sections import ModelConfig
from minigpt.stages.table import STAGES
from minigpt.store.checkpoint import load_checkpoint
from minigpt.store.durable import write_whole
from minigpt.store.stage import StageStore
from minigpt.text.load import load_tokenizer
from minigpt.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Run:
    """One run directory and its configuration, which never changes: other settings make another Run."""

    directory: Path
    config: Config

    def with_section(self, name: str, **changes: object) -> "Run":
        """The same directory with other values of one section of its configuration, which are not checked again."""
        return Run(self.directory, self.config.with_section(name, **changes))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        try:
            return load_tokenizer(self.directory / "tokenizer")
        except DataError as error:
            hint = "Restore it from a copy, or start a new run: a model can only be used with its own tokenizer."
            raise DataError(error.message, hint) from None

    @property
    def model_config(self) -> ModelConfig:
        """The model's shape with the tokenizer's vocabulary filled in."""
        size = self.config.model.vocab_size or self.tokenizer.vocab_size
        if size < self.tokenizer.vocab_size:
            raise UsageError(
                f"model.vocab_size = {size} is smaller than the tokenizer's {self.tokenizer.vocab_size}.",
                "Leave it at 0 to take the tokenizer's.",
            )
        return self.config.model.model_copy(update={"vocab_size": size})

    def shape_of(self, stage: str) -> ModelConfig:
        """The shape of a stage's model, with the head that its row says."""
        return with_head(self.model_config, STAGES[stage].head)

    def store(self, stage: str, writes: bool = True) -> StageStore:
        return StageStore(self.directory / stage, writes)

    def data(self, stage: str) -> Path:
        return self.directory / "data" / stage

    def training_data(self, stage: str) -> Shard:
        """What a stage learns from. Raises UsageError when the run has none, as one whose model was imported."""
        return self._shard(stage, "train")

    def held_out(self, stage: str) -> Shard:
        """What a stage is measured on. Raises UsageError as `training_data` does."""
        return self._shard(stage, "validation")

    def _shard(self, stage: str, split: str) -> Shard:
        if not self.data(stage).exists():
            raise UsageError(f"{self.directory} has no data for {stage}.", "Give some with --data FILE.")
        return Shard(self.data(stage) / split)

    def finished_stages(self) -> list[str]:
        return [stage for stage in STAGES if self.store(stage).finished()]

    def last(self, head: str = WRITES) -> str:
        """The last finished stage whose model has that head. Raises UsageError when there is none."""
        finished = self.finished_stages()
        if not finished:
            hint = f"Go on with it: minigpt run --run {self.directory}, with the same data and settings."
            raise UsageError(f"No stage of {self.directory} is finished yet.", hint)
        if not (fitting := [stage for stage in finished if STAGES[stage].head == head]):
            able = [name for name, stage in STAGES.items() if stage.head == head]
            what = "writes" if head == WRITES else "judges"
            message = f"No finished stage of {self.directory} has a model that {what}: {', '.join(finished)}."
            raise UsageError(message, f"Train one: minigpt train {able[0]} --run {self.directory}.")
        return fitting[-1]

    def chosen(self, stage: str | None = None) -> str:
        """The finished stage that is meant, by default the last one that writes. Raises UsageError for another."""
        stage, finished = stage or self.last(), self.finished_stages()
        if stage not in finished:
            raise UsageError(
                f"{self.directory} has no finished stage {stage!r}.", f"Finished are: {', '.join(finished)}."
            )
        return stage

    def weights(self, stage: str | None = None, backend: Backend | None = None) -> tuple[Tree, str]:
        """(final weights, stage) of the stage that is `chosen`. NumPy arrays without a backend."""
        stage = self.chosen(stage)
        trees, _ = load_checkpoint(self.store(stage).final)
        weights = model_weights(trees["weights"], self.shape_of(stage), self.store(stage).final)
        return (weights if backend is None else map_leaves(backend.array, weights)), stage

    def fingerprint(self, stage: str) -> str:
        """What tells a finished stage's weights from all others: their SHA-256."""
        return json.loads((self.store(stage).final / "manifest.json").read_text("utf-8"))["weights.safetensors"]

    def make_directory(self) -> None:
        """Raises UsageError when it may not be made, ResourceError when the disk is full."""
        with self._writing():
            self.directory.mkdir(parents=True, exist_ok=True)

    def save_config(self, backend: Backend | None = None) -> None:
        """Write config.toml, README.txt and env.json (versions that matter when a figure is compared).

        Raises UsageError when the directory may not be written, ResourceError when the disk is full.
        """
        environment = {"minigpt": __version__, "python": platform.python_version(), "platform": platform.platform()}
        if backend is not None:
            environment |= {"backend": backend.name} | backend.runtime.versions()
        self.make_directory()
        with self._writing():
            write_whole(self.directory / SETTINGS, to_toml(self.config))
            write_whole(self.directory / "README.txt", readme())
            write_whole(self.directory / "env.json", json.dumps(environment, indent=1) + "\n")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            kind = ResourceError if error.errno in (errno.ENOSPC, errno.EDQUOT) else UsageError
            message = f"The run directory {self.directory} cannot be written: {error.strerror}."
            raise kind(message, "Choose another --run directory, or make room or change the permissions.") from None


def open_run(directory: Path) -> Run:
    """An existing run. Raises UsageError when `directory` is none."""
    saved = saved_config(directory)
    if saved is None:
        reason = "it does not exist" if not directory.exists() else "it has no config.toml"
        message = f"{directory} is not a run directory: {reason}."
        raise UsageError(message, "Make a run with minigpt demo or minigpt run, or look into runs/.")
    return Run(directory, build_config(saved, [(f"in {directory / SETTINGS}", saved)]))


def run_at(path: str | Path | None, root: Path = RUNS) -> tuple[Run, str | None]:
    """(run, stage) of a run as a user names it (see `find_stage`): by default the one that was trained last."""
    directory, stage = find_stage(None if path is None else Path(path).expanduser(), root, trained=True)
    return open_run(directory), stage


def other_start(run: Run) -> tuple[Run, str | None] | None:
    """(run, stage) of the model that this run's first stage goes on with; None where it starts from random weights.

    Raises UsageError when there is no such run.
    """
    return run_at(run.config.start) if run.config.start else None


def saved_config(directory: Path) -> dict | None:
    """The values of the run's config.toml, or None."""
    path = directory / SETTINGS
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}.", "Restore it, or start a new run.") from None


def check_unchanged(old: dict, new: dict, where: Path, allowed: bool = False) -> None:
    """Raises UsageError naming the keys in which the settings of a trained run and new ones differ.

    `allowed` says that the user allowed changes, and these are none that can be.
    """
    changed = differences(old, new)
    if not changed:
        return
    message = f"{where} was trained with other settings ({'; '.join(changed)})."
    if allowed:
        hint = "--allow-changes is for the training settings of a stage; choose another --run directory for these."
    else:
        hint = "Give the same settings, or none to keep the run's own, or choose another --run directory."
    if not allowed and all("." in line.split(":")[0] and line.split(".")[0] in STAGES for line in changed):
        hint += " With --allow-changes training goes on with the new ones."
    raise UsageError(message, hint)


def model_weights(flat: dict[str, np.ndarray], config: ModelConfig, where: Path) -> Tree:
    """The weight tree of a model from its leaves by name; UsageError names the first that does not fit."""
    expected = weight_shapes(config)
    for name in [*expected, *flat]:
        found = flat[name].shape if name in flat else None
        if found != expected.get(name):
            raise UsageError(
                f"{where}: {name} has the shape {found}, but the model needs {expected.get(name)}.",
                "Use the [model] section that the weights were trained with.",
            )
    return unflatten({name: flat[name] for name in expected})
