"""What a stage keeps on disk: checkpoints (the last and the best), a journal of metrics, the final weights."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

from backends.base import Backend
from backends.tree import Tree, arranged, map_leaves
from minigpt.checkpoint import load_checkpoint, read_state, save_checkpoint


class StageStore:
    """The directory of one stage: `checkpoints/step-000200/`, `metrics.jsonl`, `final/`."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.final = directory / "final"
        self.journal = directory / "metrics.jsonl"

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
        return int(found[-1].name.removeprefix("step-")) if found else 0

    def resume(self, backend: Backend, weights: Tree, optim: Tree) -> tuple[Tree, Tree, int]:
        """(weights, optimizer state, steps done) of the last checkpoint, in the order of the trees given.

        Without a checkpoint those trees and 0. Journal lines of later steps are dropped.
        """
        found = self.checkpoints()
        if not found:
            self.journal.unlink(missing_ok=True)
            return weights, optim, 0
        trees, state = load_checkpoint(found[-1])
        self._forget_after(state["step"])
        saved = [arranged(tree, trees[name]) for name, tree in (("weights", weights), ("optim", optim))]
        return *(map_leaves(backend.array, tree) for tree in saved), state["step"]

    def save(self, backend: Backend, weights: Tree, optim: Tree, step: int, metrics: dict[str, float]) -> Path:
        """Write the checkpoint after `step` updates and drop those that are neither the last nor the best."""
        path = self.directory / "checkpoints" / f"step-{step:06d}"
        save_checkpoint(
            path, {"weights": weights, "optim": optim}, {"step": step, "metrics": metrics}, backend.numpy
        )
        best = self.best()
        for old in self.checkpoints():
            if old not in (path, best):
                old.rename(old.with_name(f".{old.name}.old"))  # out of the way first: whole or not at all
        for old in path.parent.glob(".step-*.old"):
            shutil.rmtree(old, ignore_errors=True)
        return path

    def best(self) -> Path:
        """The checkpoint with the lowest validation loss; of equal ones the later."""

        def loss(path: Path) -> float:
            value = read_state(path)["metrics"]["loss"]
            return math.inf if math.isnan(value) else value  # a diverged run: min() would keep its NaN

        return min(reversed(self.checkpoints()), key=loss)

    def last_metrics(self) -> dict[str, float]:
        """What the validation before the last checkpoint measured."""
        return read_state(self.checkpoints()[-1])["metrics"]

    def finish(self, stage: str) -> Path:
        """Copy the best checkpoint's weights to `final/`, which marks the stage as done."""
        best = self.best()
        trees, state = load_checkpoint(best)
        save_checkpoint(self.final, {"weights": trees["weights"]}, state | {"stage": stage})
        return self.final

    def log(self, record: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with self.journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def _forget_after(self, step: int) -> None:
        if not self.journal.exists():
            return
        lines = self.journal.read_text("utf-8", "replace").splitlines()
        write_whole(self.journal, "".join(line + "\n" for line in lines if _step_of(line) <= step))


def _step_of(line: str) -> float:
    """The step of a journal line; of one that was cut off or damaged: after all steps."""
    try:
        return json.loads(line)["step"]
    except (ValueError, TypeError, KeyError):
        return math.inf


def write_whole(path: Path, text: str) -> None:
    """Write a file that is there whole or, when this is interrupted, as it was before."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, "utf-8")
    temporary.replace(path)
