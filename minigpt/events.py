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
    """Training goes on after `step`."""

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
    """One update. `loss` is per token (or pair), `norm` the gradient's before clipping.

    `seconds` are those since the step before it, or since what was measured and saved in between, with those that it
    `rested` to keep the CPU limit and those that it `waited` for its batch (none for one that was made while a GPU
    computed the step before).
    """

    stage: str
    step: int
    steps: int
    loss: float
    learning_rate: float
    norm: float
    tokens: int
    seconds: float
    metrics: dict[str, float] = field(default_factory=dict)
    rested: float = 0.0
    waited: float = 0.0


@dataclass(frozen=True)
class Eval:
    """A measurement on held-out rows; `metrics` has at least `loss`."""

    stage: str
    step: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Sampled:
    """What the model makes of the first of its fixed prompts after `step`; samples.jsonl has all of them."""

    stage: str
    step: int
    prompt: str
    text: str


@dataclass(frozen=True)
class Usage:
    """What the processes of a run take of the machine, and what they may take (None: no limit).

    `cpu` is a share of all cores, averaged over the last half minute; `memory` is in bytes.
    """

    cpu: float
    max_cpu: float | None
    memory: int
    max_memory: int | None
    power: str


@dataclass(frozen=True)
class Paused:
    """Training waits after `step` until the reason has gone; `saved`: a checkpoint of this step is there."""

    stage: str
    step: int
    reason: str
    saved: bool


@dataclass(frozen=True)
class Continued:
    """The end of a pause of so many `seconds`."""

    stage: str
    step: int
    seconds: float


@dataclass(frozen=True)
class Saved:
    stage: str
    step: int
    path: Path


@dataclass(frozen=True)
class StageFinished:
    """The final weights in `path` are those of `best_step`, with the lowest loss on held-out rows, of `last_step`."""

    stage: str
    path: Path
    seconds: float
    skipped: bool = False
    best_step: int = 0
    last_step: int = 0


@dataclass(frozen=True)
class Compared:
    """What a stage took (without pauses) beside what was planned: bytes at the peak, seconds (None: not planned)."""

    stage: str
    memory: int
    planned_memory: int
    seconds: float
    planned_seconds: float | None


Event = (
    Note | Progress | StageStarted | Resumed | Skipped | Step | Usage | Paused | Continued | Eval | Saved
    | StageFinished | Compared | Sampled
)  # fmt: skip
Report = Callable[[Event], None]


def silent(event: Event) -> None:
    """A report that nobody reads."""
