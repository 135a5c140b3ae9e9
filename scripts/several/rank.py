"""What each process of a comparison does: `rank.py JOBS`, alone or under a launcher.

JOBS is a JSON file {"backend", "jobs": [{"run", "stage", "stop_after"}]}: each is trained, from its last checkpoint
if it has one, until the checkpoint at `stop_after` or the end.
"""

import contextlib
import json
import sys
from pathlib import Path

from backends import get_backend
from minigpt.events import Event, Saved
from minigpt.runs.group import joined
from minigpt.runs.run import open_run
from minigpt.runs.training import train_stage


class Stopped(Exception):
    """The checkpoint is there after which training was to be left."""


def train_all(file: Path) -> None:
    """Train the jobs of a file, with the other processes where there are some."""
    asked = json.loads(file.read_text("utf-8"))
    backend = get_backend(asked["backend"], "cpu")
    with joined(file.parent, backend, {"jobs": json.dumps(asked["jobs"])}, print) as group:
        for job in asked["jobs"]:

            def report(event: Event, job: dict = job) -> None:
                if isinstance(event, Saved) and event.step == job["stop_after"]:
                    raise Stopped

            with contextlib.suppress(Stopped):
                train_stage(open_run(Path(job["run"])), job["stage"], backend, report)
            group.gather(None)


if __name__ == "__main__":
    train_all(Path(sys.argv[1]))
