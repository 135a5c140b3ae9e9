"""What a run no longer needs: the checkpoints, with their optimizer states, of stages that are finished."""

from dataclasses import dataclass
from pathlib import Path

from minigpt.runs.run import Run
from minigpt.store.checkpoint import verify_checkpoint
from minigpt.store.durable import discard


@dataclass(frozen=True)
class Unneeded:
    """The checkpoints of a finished stage: how many, and their bytes."""

    stage: str
    directory: Path
    count: int
    size: int


def unneeded(run: Run) -> list[Unneeded]:
    """What can be deleted. The final weights of each such stage are whole: CheckpointError names one that is not.

    A stage that is not finished keeps all that it needs to go on exactly.
    """
    found = []
    for stage in run.finished_stages():
        directory = run.store(stage).directory / "checkpoints"
        if not directory.is_dir():
            continue
        verify_checkpoint(run.store(stage).final)
        size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
        found.append(Unneeded(stage, directory, len(run.store(stage).checkpoints()), size))
    return found


def delete(rows: list[Unneeded]) -> None:
    """Delete them, each as a whole."""
    for row in rows:
        discard(row.directory)
