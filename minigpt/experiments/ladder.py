"""A ladder of small runs that scaling laws are fitted to, and the larger run that tests them.

    small runs of many sizes and budgets   →   E + A / N^alpha + B / D^beta   →   a run of 4.2 × the largest budget

The loss of the last run is predicted, and the prediction written down, before that run is trained. It has the size
which the law itself recommends for its budget.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from minigpt.errors import DataError
from minigpt.events import Note, Report, silent
from minigpt.experiments import rungs
from minigpt.experiments.fits import Fitted, Point, fit, fit_kaplan
from minigpt.experiments.laws import Kaplan, Law
from minigpt.experiments.rungs import Pace, Trial, body_of, size_of, tokens_of
from minigpt.experiments.trials import Setup, journal_of, run_trials
from minigpt.store.durable import write_whole
from minigpt.units import duration

PLAN, LAW, CHECK = "plan.json", "law.json", "check.json"


@dataclass(frozen=True)
class Checked:
    """The run that the law did not know: what was predicted, in which interval, and what came.

    `kaplan` is what Kaplan's form of the law, fitted to the same runs, predicted.
    """

    parameters: float
    tokens: float
    predicted: float
    low: float
    high: float
    kaplan: float
    loss: float | None

    @property
    def error(self) -> float | None:
        """(predicted - came) / came."""
        return None if self.loss is None else self.predicted / self.loss - 1

    @property
    def kaplan_error(self) -> float | None:
        return None if self.loss is None else self.kaplan / self.loss - 1


@dataclass(frozen=True)
class Climbed:
    """Both laws fitted to the ladder's runs, and the run that tested them."""

    fitted: Fitted[Law]
    kaplan: Fitted[Kaplan]
    check: Checked


def climb(
    data: Sequence[str], directory: Path, budget: float, cores: int, backend: str = "auto", device: str = "auto",
    report: Report = silent,
) -> Climbed:  # fmt: skip
    """Plan and train the ladder, fit the laws, predict a larger run, train it. Goes on where it stopped.

    Writes plan.json, law.json and check.json into `directory`. `budget` are seconds for everything; without the larger
    run the check has no loss. Raises ResourceError when the budget is too small for a ladder, DataError when it ended
    before six runs were finished.
    """
    directory.mkdir(parents=True, exist_ok=True)
    jobs = cores if device == "cpu" else 1
    setup = Setup(
        data=tuple(data), base=rungs.base(), backend=backend, device=device, pick="last", jobs=jobs,
        threads=max(1, cores // jobs),
    )  # fmt: skip
    largest = _planned(directory, setup, budget, report)
    trials = rungs.ladder(largest)
    outcomes = run_trials(directory, setup, trials, budget, report)
    points = [Point(size_of(t), tokens_of(t), outcomes[t.key(setup)].value, body_of(t)) for t in trials
              if t.key(setup) in outcomes and outcomes[t.key(setup)].value is not None]  # fmt: skip
    if len(points) < 6:
        raise DataError(f"Only {len(points)} runs of the ladder are finished.", "Give more time with --budget.")
    fitted, kaplan = fit(points), fit_kaplan(points)
    write_law(fitted.law, directory / LAW)
    last, check = _predicted(largest, fitted, kaplan.law)
    _write(directory / CHECK, asdict(check))
    interval = f"{check.low:.4f} to {check.high:.4f}"
    report(Note(f"{last.label}: predicted loss {check.predicted:.4f} ({interval}); now it is trained."))
    found = run_trials(directory, setup, [last], budget, report).get(last.key(setup))
    check = Checked(**asdict(check) | {"loss": None if found is None else found.value})
    _write(directory / CHECK, asdict(check))
    return Climbed(fitted, kaplan, check)


def _planned(directory: Path, setup: Setup, budget: float, report: Report) -> float:
    """The largest budget of operations, as two short runs tell; the one that is in plan.json for the same data.

    So more time lets a ladder go on; another directory has another ladder.
    """
    asked = {"data": list(setup.data), "backend": setup.backend, "device": setup.device}
    path = directory / PLAN
    kept = json.loads(path.read_text("utf-8")) if path.exists() else {}
    if kept.get("asked") != asked:
        pace = paced(directory, setup, budget, report)
        kept = {"asked": asked, "largest": rungs.largest_for(budget, pace, setup.jobs), "pace": asdict(pace)}
        kept["seconds"] = rungs.seconds_of(kept["largest"], pace, setup.jobs)
        _write(path, kept)
    runs = rungs.ladder(kept["largest"])
    sizes = f"{min(map(size_of, runs)):,.0f} to {max(map(size_of, runs)):,.0f} parameters"
    report(Note(f"{len(runs)} runs of {sizes} and a larger one: about {duration(kept['seconds'])}."))
    return kept["largest"]


def paced(directory: Path, setup: Setup, budget: float, report: Report = silent) -> Pace:
    """What runs take here, by two short ones. Raises DataError that says why, when they fail."""
    pilots = rungs.pilots()
    outcomes = run_trials(directory, setup, pilots, budget, report)
    found = [outcomes.get(trial.key(setup)) for trial in pilots]
    if any(one is None or one.failed for one in found):
        why = next((f": {one.failed}" for one in found if one is not None and one.failed), "")
        raise DataError(f"Two short runs that tell the pace did not end{why}.", "Give more time with --budget.")
    steps = [median(journal_of(directory, setup, trial, "seconds")) for trial in pilots]
    return rungs.pace_of(pilots, [one.seconds for one in found], steps)


def _predicted(largest: float, fitted: Fitted[Law], kaplan: Kaplan) -> tuple[Trial, Checked]:
    """The run that tests the law, of the size that the law takes for its budget, and what is to come."""
    size, _ = fitted.law.optimum(rungs.COMPUTE * largest)
    last = rungs.larger_run(largest, size)
    parameters, tokens = size_of(last), tokens_of(last)
    low, high = fitted.interval(lambda law: law.loss(parameters, tokens))
    told = kaplan.loss(body_of(last), tokens)
    return last, Checked(parameters, tokens, fitted.law.loss(parameters, tokens), low, high, told, None)


def _write(path: Path, values: dict[str, Any]) -> None:
    write_whole(path, json.dumps(values, indent=1) + "\n")


def write_law(law: Law, path: Path) -> None:
    _write(path, asdict(law))


def read_law(path: Path) -> Law:
    """A law that a ladder has written. Raises DataError for another file."""
    try:
        return Law(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        hint = "Make one with minigpt scaling --data FILE."
        raise DataError(f"{path} is not a scaling law: {error}.", hint) from None
