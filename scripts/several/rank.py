"""What each process of a comparison does: `rank.py JOBS`, alone or under a launcher.

JOBS is a JSON file {"backend", "jobs": [{"run", "stage", "stop_after", "rows"}]}: each is trained, from its last
checkpoint if it has one, until the checkpoint at `stop_after` or the end, on batches of the first `rows` rows where
that is not 0. The first process writes into the run's sent.json how many bytes it gave to exchanges: {"training",
"all"}, the latter with what measuring, saving and beginning took.
"""

import contextlib
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from backends import get_backend
from backends.group import Group
from backends.tree import Tree
from minigpt.data.batches import Batch, normalized
from minigpt.events import Event, Note, Saved, Step
from minigpt.model.gpt import GPT
from minigpt.runs.group import joined
from minigpt.runs.run import open_run
from minigpt.runs.training import train_stage
from minigpt.stages.assemble import Custom
from minigpt.train.loop import Objective


class Sent:
    """Bytes that a process gave to exchanges: within steps, and in all."""

    def __init__(self, group: Group):
        self.group, self.training = group, 0
        self.first = self.last = group.sent

    def __call__(self, event: Event) -> None:
        """A step is reported when its exchange is done; measuring and saving tell of themselves after theirs."""
        if isinstance(event, Note):  # may stand between a step's exchange and its report
            return
        if isinstance(event, Step):
            self.training += self.group.sent - self.last
        self.last = self.group.sent

    def write(self, run: Path) -> None:
        if self.group.rank == 0:
            found = {"training": self.training, "all": self.group.sent - self.first}
            (run / "sent.json").write_text(json.dumps(found), "utf-8")


@dataclass(frozen=True)
class Few(Custom):
    """The first rows of a stage's own batches, all of them with `rows` 0."""

    rows: int = 0

    def of(self, model: GPT, objective: Objective) -> Objective:
        whole = objective.batches

        def some(step: int, weights: Tree) -> Batch:
            return normalized({name: x[: self.rows] for name, x in whole(step, weights).items()})

        return replace(objective, batches=some) if self.rows else objective


class Stopped(Exception):
    """The checkpoint is there after which training was to be left."""


def train_all(file: Path) -> None:
    """Train the jobs of a file, with the other processes where there are some."""
    asked = json.loads(file.read_text("utf-8"))
    backend = get_backend(asked["backend"], "cpu")
    with joined(file.parent, backend, {"jobs": json.dumps(asked["jobs"])}, print) as group:
        for job in asked["jobs"]:
            sent = Sent(group)

            def report(event: Event, job: dict = job, sent: Sent = sent) -> None:
                sent(event)
                if isinstance(event, Saved) and event.step == job["stop_after"]:
                    raise Stopped

            with contextlib.suppress(Stopped):
                few = Few(rows=job["rows"])
                train_stage(open_run(Path(job["run"])), job["stage"], backend, report, custom=few)
            sent.write(Path(job["run"]))
            group.gather(None)


if __name__ == "__main__":
    train_all(Path(sys.argv[1]))
