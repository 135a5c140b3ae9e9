"""Which run a user means: a directory, one of its stages, a name in runs/, `latest`, or nothing: the newest."""

from collections.abc import Sequence
from pathlib import Path

from minigpt.errors import UsageError

RUNS = Path("runs")
LATEST = "latest"
SETTINGS = "config.toml"


def is_run(path: Path) -> bool:
    """Whether the directory is that of a run."""
    return (path / SETTINGS).is_file()


def run_directories(root: Path = RUNS) -> list[Path]:
    """The run directories in `root`, the one that was written last first."""
    found = [path.parent for path in root.glob(f"*/{SETTINGS}") if not path.parent.is_symlink()]
    return sorted(found, key=lambda path: (-last_written(path), path.name))


def last_written(directory: Path) -> float:
    """When a run's training or configuration was last written, in seconds since 1970."""
    return max([written(directory / SETTINGS), *map(written, directory.glob("*/metrics.jsonl"))])


def find_run(path: Path | None, root: Path = RUNS, trained: bool = False) -> Path:
    """The directory of the run that a user means; see `find_stage`."""
    return find_stage(path, root, trained)[0]


def find_stage(path: Path | None, root: Path = RUNS, trained: bool = False) -> tuple[Path, str | None]:
    """(run, stage) of a run directory, one of its stages, a name in `root`, `latest` or nothing: the newest.

    The stage is None where none is named. The newest is what was written last; with `trained` the run whose stage was
    finished last, where any is. Raises UsageError when there is no such run.
    """
    if path is None or (path.parts[-1:] == (LATEST,) and not path.exists()):
        return _newest(run_directories(root), root, trained), None
    for place in (path, root / path):
        if is_run(place):
            return place, None
        if is_run(place.parent) and (place.is_dir() or _is_stage(place.name)):
            return place.parent, place.name if _is_stage(place.name) else None
        if is_run(place.parent.parent) and _is_stage(place.parent.name):  # RUN/STAGE/final
            return place.parent.parent, place.parent.name
    if path.parent.name == LATEST and _is_stage(path.name):
        return _newest(run_directories(root), root, trained), path.name
    reason = "it has no config.toml" if path.exists() else "it does not exist"
    names = ", ".join(found.name for found in run_directories(root)[:8])
    raise UsageError(f"{path} is not a run directory: {reason}.", f"Runs in {root}/ are: {names}." if names else
                     "Make one with minigpt demo or minigpt run.")  # fmt: skip


def _newest(found: Sequence[Path], root: Path, trained: bool) -> Path:
    if not found:
        raise UsageError(f"There is no run in {root}/ yet.", "Make one with minigpt demo, or name a run directory.")
    return max(found, key=_finished) if trained and any(map(_finished, found)) else found[0]


def _finished(directory: Path) -> float:
    """When a stage of the run was last finished; 0 where none is."""
    return max(map(written, directory.glob("*/final/state.json")), default=0.0)


def _is_stage(name: str) -> bool:
    from minigpt.stages.table import STAGES  # only where a stage may be meant: the command line begins without it

    return name in STAGES


def written(path: Path) -> float:
    """When a file was last written, in seconds since 1970; 0 when there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
