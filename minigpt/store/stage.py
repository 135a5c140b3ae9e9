"""What a stage keeps on disk: checkpoints (the last ones and the best), a journal of metrics, the final weights."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from backends.base import Backend
from backends.tree import Tree, items, map_leaves, rebuild
from minigpt.errors import CheckpointError
from minigpt.events import Note, Report, silent
from minigpt.store.checkpoint import Write, load_checkpoint, read_state, save_checkpoint, verify_checkpoint
from minigpt.store.durable import discard, write_whole

State = dict[str, Any]  # at least {"step": updates done, "metrics": {"loss": …}}
Fitting = Callable[[dict[str, np.ndarray]], Tree]
Complete = Callable[[dict[str, np.ndarray], State], dict[str, Tree]]  # (weights by name, state) -> trees
BAD: State = {"health": {"streak": 1}}
AVERAGE = "average"  # among the optimizer's arrays: an average of the weights, by name


class StageStore:
    """The directory of one stage: `checkpoints/step-000200/`, `metrics.jsonl`, `final/`.

    Of several processes that train together one `writes`; to the others saving and logging mean nothing.
    """

    def __init__(self, directory: Path, writes: bool = True):
        self.directory, self.writes = directory, writes
        self.final = directory / "final"
        self.journal = directory / "metrics.jsonl"
        self.samples = directory / "samples.jsonl"
        self.memory = directory / "memory.json"

    def finished(self) -> bool:
        return (self.final / "manifest.json").is_file()

    def begun(self) -> bool:
        """Whether training would be lost with this directory."""
        return self.finished() or bool(self.checkpoints())

    def checkpoints(self) -> list[Path]:
        """Oldest first."""
        return sorted((self.directory / "checkpoints").glob("step-*"), key=lambda path: (len(path.name), path.name))

    def steps_kept(self) -> int:
        """The step of the last checkpoint, from which training goes on; 0 without one."""
        found = self.checkpoints()
        return step_of(found[-1]) if found else 0

    # ---- going on ----------------------------------------------------------------------------------------

    def resume(
        self, backend: Backend, weights: Tree, optim: Tree | Fitting, report: Report = silent
    ) -> tuple[Tree, Tree, State]:
        """(weights, optimizer state, state) of the last whole checkpoint, in the order of the trees given.

        In place of `optim` may stand a function from a checkpoint's arrays by name to the tree that they must fit;
        they and the weights stay NumPy arrays then.
        Without a checkpoint those trees and step 0. Damaged checkpoints are named and set aside. Journal lines of
        later steps are dropped. Raises CheckpointError when there are checkpoints and none is whole.
        """
        if not self.checkpoints():
            self.journal.unlink(missing_ok=True)
            self.samples.unlink(missing_ok=True)
            return weights, optim, {"step": 0}
        return self._load_last(backend, weights, optim, report, lambda state: True)

    def roll_back(
        self, backend: Backend, weights: Tree, optim: Tree | Fitting, report: Report
    ) -> tuple[Tree, Tree, State]:
        """Like `resume` with the last checkpoint that was saved in good health; later ones are deleted."""
        return self._load_last(backend, weights, optim, report, is_good)

    def _load_last(self, backend: Backend, weights: Tree, optim: Tree, report: Report, good: Callable[[State], bool]):
        errors: list[tuple[Path, CheckpointError]] = []
        passed: list[Path] = []
        for path in reversed(self.checkpoints()):
            try:
                trees, state = self._load(path, {"weights": weights, "optim": optim})
            except CheckpointError as error:
                errors.append((path, error))
                continue
            if good(state):
                break
            passed.append(path)
        else:
            raise CheckpointError(
                f"{errors[0][1].message} No other checkpoint of this stage is whole."
                if errors else f"{self.directory} has no checkpoint to go back to.",
                f"Restore it from a copy, or delete {self.directory / 'checkpoints'} to begin this stage again.",
            )  # fmt: skip
        for damaged, error in errors:
            aside = damaged.with_name(f"damaged-{damaged.name}")
            report(Note(f"{error.message} It is set aside as {aside.name}; training goes on from {path.name}."))
            discard(aside) if aside.exists() else None
            damaged.rename(aside)
        for later in passed:
            discard(later)
        self._forget_after(state["step"])
        if callable(optim):
            return trees["weights"], trees["optim"], state
        weights, moments = (map_leaves(backend.array, trees[name]) for name in ("weights", "optim"))
        return weights, moments, state

    def _load(self, path: Path, wanted: dict[str, Tree | Fitting]) -> tuple[dict[str, Tree], State]:
        """The trees of a checkpoint in the shape of those `wanted`. Raises CheckpointError when they do not fit."""
        trees, state = load_checkpoint(path)
        if state.get("step") != step_of(path):
            raise CheckpointError(f"The checkpoint {path} is that of step {state.get('step')}.")
        found = {name: trees.get(name, {}) for name in wanted}
        shapes = {name: tree(found[name]) if callable(tree) else tree for name, tree in wanted.items()}
        return {name: _fitted(found[name], tree, path, name) for name, tree in shapes.items()}, state

    # ---- saving ------------------------------------------------------------------------------------------

    def at(self, step: int) -> Path:
        """Where the checkpoint of a step is, or would be."""
        return self.directory / "checkpoints" / f"step-{step:06d}"

    def save(
        self, backend: Backend, weights: Tree, optim: Tree, state: State, keep: int = 1, write: Write | None = None
    ) -> Path:
        """Write the checkpoint of `state["step"]`, then drop all but the last `keep`, the best and the last good one.

        Nothing is dropped unless the new one reads back whole. `write` as in `save_checkpoint`.
        """
        path = self.at(state["step"])
        if not self.writes:
            return path

        def numpy(leaf: Any) -> np.ndarray:
            return leaf if isinstance(leaf, np.ndarray) else backend.numpy(leaf)

        save_checkpoint(path, {"weights": weights, "optim": optim}, state, numpy, write)
        verify_checkpoint(path)
        kept = {*self.checkpoints()[-keep:], self.last_good(), *self.by_loss()[:1]}
        for old in self.checkpoints():
            if old not in kept:
                discard(old)
        return path

    def by_loss(self) -> list[Path]:
        """The checkpoints from the lowest validation loss to the highest; of equal ones the later first."""

        def loss(path: Path) -> float:
            state = _state_or_none(path)
            value = state["metrics"]["loss"] if state else math.inf
            return math.inf if math.isnan(value) else value  # a diverged run: min() would keep its NaN

        return sorted(reversed(self.checkpoints()), key=loss)

    def last_good(self) -> Path | None:
        """The last checkpoint that was saved while training was well."""
        return next((path for path in reversed(self.checkpoints()) if is_good(_state_or_none(path) or BAD)), None)

    def last_state(self) -> State:
        """The state of the last checkpoint that has one; step 0 without a checkpoint."""
        states = (_state_or_none(path) for path in reversed(self.checkpoints()))
        return next((state for state in states if state), {"step": 0, "metrics": {}})

    def finish(self, stage: str, report: Report = silent, complete: Complete | None = None) -> Path:
        """Copy the best whole checkpoint's weights, or their averages, to `final/`, which marks the stage as done.

        `complete` makes the trees to keep from a checkpoint that holds only a part of the model.
        """
        for best in self.by_loss():
            try:
                trees, state = load_checkpoint(best)
            except CheckpointError as error:
                report(Note(f"{error.message} The next best checkpoint is used."))
                continue
            weights = averaged(trees["weights"], trees.get("optim", {}))
            kept = {"weights": weights} if complete is None else complete(weights, state)
            save_checkpoint(self.final, kept, state | {"stage": stage, "trained": self.steps_kept()})
            return self.final
        raise CheckpointError(
            f"{self.directory} has no whole checkpoint from which {self.final} could be made.",
            f"Restore it from a copy, or delete {self.directory} to train this stage again.",
        )

    # ---- the journal -------------------------------------------------------------------------------------

    def log(self, record: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl; a number that is not finite becomes null."""
        if not self.writes:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        with self.journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite) + "\n")

    def _forget_after(self, step: int) -> None:
        for file in (self.journal, self.samples):
            if file.exists():
                lines = file.read_text("utf-8", "replace").splitlines()
                write_whole(file, "".join(line + "\n" for line in lines if _step_of_line(line) <= step))


def averaged(weights: Tree, optim: Tree) -> Tree:
    """What is measured, kept and used of a training: the averages of its weights, or without these the very weights.

    `optim` are the optimizer's arrays beside them, as a tree or by name.
    """
    found = {name: x for name, x in items(optim) if name.startswith(f"{AVERAGE}.")}
    return rebuild(weights, [found[f"{AVERAGE}.{name}"] for name, _ in items(weights)]) if found else weights


def is_good(state: State) -> bool:
    """Whether a checkpoint's state was saved while training was well."""
    health = state.get("health", {})
    return not health.get("streak") and not health.get("high")


def check_base(state: State, fingerprint: str, where: Path) -> None:
    """Raises CheckpointError when the adapter in `where` was trained on other weights than those of `fingerprint`."""
    if state.get("base") != fingerprint:
        raise CheckpointError(
            f"The adapter in {where} was trained on weights that the stage before it does not have any more.",
            f"Restore them from a copy, or delete {where} to train this stage again.",
        )


def step_of(checkpoint: Path) -> int:
    """The step in the name of a checkpoint, -1 where somebody else named it."""
    digits = checkpoint.name.removeprefix("step-")
    return int(digits) if digits.isdecimal() else -1


def _state_or_none(path: Path) -> State | None:
    """The state of a checkpoint; None when it is damaged."""
    try:
        state = read_state(path)
        return state if isinstance(state["metrics"]["loss"], (int, float)) and state["step"] >= 0 else None
    except (CheckpointError, KeyError, TypeError):
        return None


def _fitted(flat: dict[str, np.ndarray], tree: Tree, path: Path, kind: str) -> Tree:
    """`flat` in the order of `tree`; CheckpointError when a name or a shape is another."""
    expected = {name: tuple(leaf.shape) for name, leaf in items(tree)}
    found = {name: tuple(array.shape) for name, array in flat.items()}
    for name in [*expected, *found]:
        here, wanted = found.get(name, "missing"), expected.get(name, "unknown")
        if here != wanted:
            message = f"The checkpoint {path} does not fit the model: {kind} {name} is {here}, not {wanted}."
            raise CheckpointError(message)
    return rebuild(tree, [flat[name] for name in expected])


def _step_of_line(line: str) -> float:
    """The step of a journal line; of one that was cut off or damaged: after all steps."""
    try:
        return json.loads(line)["step"]
    except (ValueError, TypeError, KeyError):
        return math.inf
