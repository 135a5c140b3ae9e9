"""A run directory as it lies on disk: state, stages, results, plan, samples. Reads files only, and bears damage.

What is missing or cannot be read is None or empty here; nothing raises an error.
"""

import contextlib
import functools
import json
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from minigpt.runs.finding import SETTINGS, written
from minigpt.store.lock import holder
from minigpt.watch.journal import Journal

NOT_RESULTS = {"step", "tokens", "pairs", "bytes", "characters"}
TAIL = 16_384  # bytes of a log that are shown
MOST_SAMPLES = 400  # of a stage
MOST_KEPT = 10_000  # files whose contents are kept

T = TypeVar("T")


def unless_changed(read: Callable[[Path], T]) -> Callable[[Path], T]:
    """`read`, which is asked again only once a path holds another file: a page looks every few seconds.

    What it gives is shared, and must not be changed.
    """
    kept: dict[Path, tuple[tuple[int, int, int], T]] = {}

    @functools.wraps(read)
    def read_again(path: Path) -> T:
        try:
            status = path.stat()
        except OSError:
            return read(path)
        mark = (status.st_ino, status.st_size, status.st_mtime_ns)
        known = kept.get(path)  # other threads read, too
        if known is None or known[0] != mark:
            if len(kept) >= MOST_KEPT:
                kept.clear()
            known = kept[path] = mark, read(path)
        return known[1]

    return read_again


@dataclass
class Stage:
    """One stage of a run. `metrics` are those of its final weights, which are those of `best_step`."""

    name: str
    step: int = 0
    steps: int | None = None
    finished: bool = False
    loss: float | None = None
    validation_loss: float | None = None
    best_step: int | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    planned: dict[str, Any] = field(default_factory=dict)
    actual: dict[str, Any] = field(default_factory=dict)


@dataclass
class RunFiles:
    """What the files of a run say. `state` is running, finished, stopped or new; `process` is who trains there now."""

    directory: Path
    config: dict[str, Any]
    stages: list[Stage]
    state: str
    process: dict[str, Any] | None
    changed: float  # seconds since 1970: when something was last written
    size: int  # bytes of all files

    @property
    def name(self) -> str:
        return self.directory.resolve().name

    @property
    def stage(self) -> Stage | None:
        """The stage that is trained, or was last."""
        return next((stage for stage in reversed(self.stages) if stage.step or stage.finished), None)

    def summary(self) -> dict[str, Any]:
        """For lists and JSON."""
        stages = [
            {"stage": s.name, "step": s.step, "steps": s.steps, "finished": s.finished, "best_step": s.best_step,
             "loss": s.loss, "validation_loss": s.validation_loss, "metrics": s.metrics, "planned": s.planned,
             "actual": s.actual}
            for s in self.stages
        ]  # fmt: skip
        demo = read_json(self.directory / "demo.json").get("measured", {})
        return {
            "name": self.name, "directory": str(self.directory), "state": self.state, "process": self.process,
            "changed": self.changed, "bytes": self.size, "stages": stages, "measured": demo,
        }  # fmt: skip


def read_run(directory: Path, sized: bool = True) -> RunFiles:
    """The state of a run; of each journal only the last lines are read. `sized` counts the bytes of all files."""
    config = read_toml(directory / SETTINGS)
    stages = [read_stage(directory, name, config.get(name)) for name in stage_names(directory, config)]
    process = holder(directory)
    data = config.get("data") if isinstance(config.get("data"), dict) else {}
    wanted = [stage for stage in stages if data.get(stage.name) or stage.step or stage.finished]
    state = "stopped" if any(stage.step for stage in stages) else "new"
    if wanted and all(stage.finished for stage in wanted):
        state = "finished"
    times = [written(directory / SETTINGS)]
    times += [written(directory / stage.name / name) for stage in stages for name in ("metrics.jsonl", "final")]
    state = "running" if process else state
    return RunFiles(directory, config, stages, state, process, max(times), size_of(directory) if sized else 0)


def stage_names(directory: Path, config: dict[str, Any]) -> list[str]:
    """The stages that have a directory, in the order of the configuration's sections."""
    found = {
        path.parent.name for name in ("metrics.jsonl", "final", "checkpoints") for path in directory.glob(f"*/{name}")
    }
    order = list(config)
    return sorted(found, key=lambda name: (order.index(name) if name in order else len(order), name))


def read_stage(directory: Path, name: str, section: Any) -> Stage:
    """One stage, from its last journal lines, its final state and its plan.json."""
    place = directory / name
    stage = Stage(name)
    with contextlib.suppress(AttributeError, TypeError, ValueError):
        stage.steps = int(section.get("steps"))
    last = _last_lines(place / "metrics.jsonl")
    stage.step = int(last.step)
    stage.loss, stage.validation_loss = last.last("loss"), last.last("validation_loss")
    stage.finished = (place / "final" / "manifest.json").is_file()
    state = read_json(place / "final" / "state.json")
    if isinstance(state.get("metrics"), dict):
        stage.metrics = {key: value for key, value in state["metrics"].items() if isinstance(value, int | float)}
    if isinstance(state.get("step"), int):
        stage.best_step, stage.step = state["step"], max(stage.step, state["step"])
    plan = read_json(place / "plan.json")
    stage.planned, stage.actual = (
        plan[key] if isinstance(plan.get(key), dict) else {} for key in ("planned", "actual")
    )
    return stage


@unless_changed
def _last_lines(path: Path) -> Journal:
    """The last lines of a journal, of any length, as a journal."""
    journal = Journal(path)
    with contextlib.suppress(OSError), path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - TAIL))
        lines = file.read().split(b"\n")
        journal._add(lines if size <= TAIL else lines[1:])
    return journal


# ---- single files ------------------------------------------------------------------------------------------


@unless_changed
def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; {} when there is none or it is damaged."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        found = json.loads(path.read_text("utf-8"))
        return found if isinstance(found, dict) else {}
    return {}


def conversations(directory: Path) -> list[dict[str, Any]]:
    """Questions with each stage's answer: the demo's, and those of the run's own data."""
    found = [read_json(directory / name).get("conversations") for name in ("demo.json", "conversations.json")]
    rows = [row for rows in found if isinstance(rows, list) for row in rows]
    return [row for row in rows if isinstance(row, dict) and "question" in row]


@unless_changed
def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file's values; {} when there is none or it is damaged."""
    with contextlib.suppress(OSError, ValueError):
        return tomllib.loads(path.read_text("utf-8"))
    return {}


def read_tail(path: Path, most: int = TAIL) -> str:
    """The last lines of a text file, "" when there is none."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - most))
        text = file.read().decode("utf-8", "replace")
        return text if size <= most else text.partition("\n")[2]
    return ""


@unless_changed
def read_samples(path: Path) -> list[dict[str, Any]]:
    """The last samples of a stage: {"step", "prompt", "text", others}, each from a line or from its `samples`."""
    found: list[dict[str, Any]] = []
    for line in read_tail(path, 1 << 20).splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            record = json.loads(line)
            if isinstance(record, dict):
                inner = record.get("samples")
                rows = inner if isinstance(inner, list) else [record]
                found += [_sample(record | row) for row in rows if isinstance(row, dict)]
    return [sample for sample in found if sample["text"] is not None][-MOST_SAMPLES:]


def _sample(row: dict[str, Any]) -> dict[str, Any]:
    names = ("text", "answer", "completion", "continuation", "output")
    text = next((str(row[name]) for name in names if row.get(name) is not None), None)
    prompt = row.get("prompt", row.get("question", ""))
    if isinstance(prompt, list):  # messages
        prompt = "\n".join(str(part.get("content", part)) if isinstance(part, dict) else str(part) for part in prompt)
    others = {k: v for k, v in row.items() if isinstance(v, int | float) and k != "step"}
    return {"step": row.get("step", 0), "prompt": str(prompt), "text": text} | ({"values": others} if others else {})


def size_of(directory: Path) -> int:
    """Bytes of all files in a directory."""
    total = 0
    for path in directory.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def results(stages: Sequence[Stage], measured: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Measure -> {stage: value}: those of the final weights on held-out data, then the demo's."""
    table: dict[str, dict[str, float]] = {}
    for stage in stages:
        for name, value in stage.metrics.items():
            if name not in NOT_RESULTS:
                table.setdefault(name, {})[stage.name] = value
    for stage, values in measured.items():
        for name, value in values.items() if isinstance(values, dict) else ():
            if isinstance(value, int | float):
                table.setdefault(f"demo: {name}", {})[stage] = value
    return table
