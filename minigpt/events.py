"""What long work reports while it runs. Library code calls `report(event)` and never prints."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Note:
    """A sentence the user should read once."""

    text: str


@dataclass(frozen=True)
class Progress:
    """`done` of `total` (None: unknown) units of a task; the last one of a task has `finished`."""

    task: str
    done: int
    total: int | None = None
    finished: bool = False


@dataclass(frozen=True)
class StageStarted:
    stage: str
    steps: int
    parameters: int
    backend: str
    device: str
    dtype: str


@dataclass(frozen=True)
class Resumed:
    """Training goes on behind `step`."""

    stage: str
    step: int


@dataclass(frozen=True)
class Skipped:
    """A step without an update, and why; `total` counts those of the stage."""

    stage: str
    step: int
    reason: str
    total: int


@dataclass(frozen=True)
class Step:
    """One update. `loss` is per token (or pair), `norm` the gradient's before clipping, `seconds` this step's."""

    stage: str
    step: int
    steps: int
    loss: float
    learning_rate: float
    norm: float
    tokens: int
    seconds: float
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Eval:
    """A measurement on held-out rows; `metrics` has at least `loss`."""

    stage: str
    step: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Saved:
    stage: str
    step: int
    path: Path


@dataclass(frozen=True)
class StageFinished:
    stage: str
    path: Path
    seconds: float
    skipped: bool = False


Event = Note | Progress | StageStarted | Resumed | Skipped | Step | Eval | Saved | StageFinished
Report = Callable[[Event], None]


def silent(event: Event) -> None:
    """A report that nobody reads."""
