"""Which stage each file of some sources goes to."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from minigpt.data.forms import WORLD
from minigpt.data.sort import KIND_OF, FileKind, kinds_of_files
from minigpt.errors import DataError
from minigpt.events import Report, silent
from minigpt.stages.table import FIRST, STAGES


class NothingUsable(DataError):
    """A file without a row that any stage could learn from."""


@dataclass(frozen=True)
class Placed:
    """A source, or a file of one whose files go to several stages, and the stage that it fits; `why` says so."""

    source: str
    stage: str
    why: str


def placed(sources: Sequence[str], downloads: Path, report: Report = silent) -> list[Placed]:
    """Each source with the stage that its rows fit; a folder whose files fit several stages is taken file by file.

    Raises NothingUsable for a file that no stage can learn from, with its first fault.
    """
    found: list[Placed] = []
    for source in sources:
        if source == WORLD:
            found.append(Placed(source, FIRST, "the built-in world"))
            continue
        files = [(file, _stage_of(file)) for file in kinds_of_files([source], downloads, report)]
        if len({stage for _, stage in files}) == 1:
            found.append(Placed(source, files[0][1], _summary([file for file, _ in files])))
        else:
            found += [Placed(str(file.path), stage, file.why) for file, stage in files]
    return found


def by_stage(rows: Sequence[Placed]) -> dict[str, list[str]]:
    """Stage -> its sources, as the section [data] has them."""
    sources: dict[str, list[str]] = {}
    for row in rows:
        sources.setdefault(row.stage, []).append(row.source)
    return sources


def stage_of_source(source: str, downloads: Path) -> str:
    """The stage that a source fits; the first one where its files fit several."""
    return placed([source], downloads)[0].stage


def _stage_of(file: FileKind) -> str:
    """The first stage that is made for what most rows of the file are."""
    for kind, _ in file.kinds.most_common():
        for name, stage in STAGES.items():
            if KIND_OF.get(stage.form.kind) == kind:
                return name
    if file.bad:
        raise NothingUsable(file.bad)
    if file.kinds:
        raise DataError(f"{file.path}: its rows are {file.why}; no stage learns from these.")
    raise NothingUsable(f"There is no usable row in {file.path}.", "Is it empty?")


def _summary(files: Sequence[FileKind]) -> str:
    if len(files) == 1:
        return files[0].why
    kinds = sorted({file.kind for file in files})
    return f"{len(files):,} files of {', '.join(kinds)}"
