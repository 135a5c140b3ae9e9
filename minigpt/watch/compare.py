"""Runs side by side: settings that differ, curves over one another, results, the same questions' answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minigpt.config import flattened
from minigpt.errors import UsageError
from minigpt.evaluate.kept import ROWS, read_scores
from minigpt.evaluate.significance import mcnemar
from minigpt.pages.html import Html, page, table, tag
from minigpt.pages.svg import Line, chart
from minigpt.pages.texts import measure, words
from minigpt.watch.curves import metrics_of
from minigpt.watch.journal import PLACES, Journal
from minigpt.watch.read import RunFiles, conversations, read_json, read_run, read_samples, results
from minigpt.watch.report import figure, lines_of

WHOLE = 64 << 20  # bytes of journals that are read whole; of more only some lines are
MOST_CURVES = 8  # that can be told apart in one chart


@dataclass
class Comparison:
    """`settings`: key -> value of each run. `results`: (stage, measure) -> value of each run.

    `answers`: question -> answer of each run. `tests`: (stage, test) -> what `sign_test` says of the first run and
    each other one, where both kept the results of single rows. None stands for what a run does not have.
    """

    names: list[str]
    runs: list[RunFiles]
    settings: dict[str, list[Any]]
    results: dict[tuple[str, str], list[float | None]]
    answers: dict[str, list[str | None]]
    tests: dict[tuple[str, str], list[dict[str, Any] | None]]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        keyed = [{"stage": stage, "measure": name, "values": values} for (stage, name), values in self.results.items()]
        tests = [{"stage": stage, "test": name, "against_first": found} for (stage, name), found in self.tests.items()]
        return {
            "runs": self.names,
            "settings": self.settings,
            "results": keyed,
            "answers": self.answers,
            "tests": tests,
        }


def compare_runs(directories: Sequence[Path]) -> Comparison:
    """What differs between runs. Raises UsageError for fewer than two, or for the same one twice."""
    if len({path.resolve() for path in directories}) < max(2, len(directories)):
        raise UsageError("There is nothing to compare.", "Name two or more different runs.")
    runs = [read_run(path, sized=False) for path in directories]
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        names = [str(path) for path in directories]
    flat = [flattened(run.config) for run in runs]
    keys = dict.fromkeys(key for values in flat for key in values)
    settings = {key: [values.get(key) for values in flat] for key in keys}
    demos = [read_json(path / "demo.json") for path in directories]
    found: dict[tuple[str, str], list[float | None]] = {}
    for number, (run, demo) in enumerate(zip(runs, demos, strict=True)):
        for name, values in results(run.stages, demo.get("measured", {})).items():
            for stage, value in values.items():
                found.setdefault((stage, name), [None] * len(runs))[number] = value
    differing = {key: values for key, values in settings.items() if any(value != values[0] for value in values)}
    order = list(dict.fromkeys(stage for stage, _ in found))
    found = dict(sorted(found.items(), key=lambda item: order.index(item[0][0])))
    return Comparison(names, runs, differing, found, _answers(runs), _tests(runs))


# ---- answers and tests -------------------------------------------------------------------------------------


def _answers(runs: Sequence[RunFiles]) -> dict[str, list[str | None]]:
    """What at least two runs answered: questions as the last stage answers them, and the last samples."""
    found: dict[str, list[str | None]] = {}
    for number, run in enumerate(runs):
        for stage in run.stages:
            for sample in read_samples(run.directory / stage.name / "samples.jsonl")[-50:]:
                found.setdefault(f"{stage.name}: {sample['prompt']}", [None] * len(runs))[number] = sample["text"]
        for row in conversations(run.directory):
            if answers := [row[stage.name] for stage in run.stages if stage.name in row]:
                found.setdefault(str(row.get("question")), [None] * len(runs))[number] = str(answers[-1])
    return {key: answers for key, answers in found.items() if sum(answer is not None for answer in answers) > 1}


def _tests(runs: Sequence[RunFiles]) -> dict[tuple[str, str], list[dict[str, Any] | None]]:
    found: dict[tuple[str, str], list[dict[str, Any] | None]] = {}
    stages = dict.fromkeys(stage.name for run in runs for stage in run.stages)
    for stage in stages:
        rows = [read_scores(run.directory / stage / ROWS) for run in runs]
        for test in dict.fromkeys(test for test, _ in rows[0]):
            own = {question: score for (name, question), score in rows[0].items() if name == test}
            for number, other in enumerate(rows[1:]):
                pairs = [(score, other[test, question]) for question, score in own.items() if (test, question) in other]
                if pairs:
                    found.setdefault((stage, test), [None] * (len(runs) - 1))[number] = sign_test(pairs)
    return found


def sign_test(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Scores (first, second) on the same rows: the mean difference, and the probability of one as lopsided by chance.

    The exact two-sided sign test over the rows that differ; for right-or-wrong answers that is McNemar's exact test.
    """
    better, worse = sum(b > a for a, b in pairs), sum(b < a for a, b in pairs)
    p = mcnemar(better, worse, mid=False)
    return {"rows": len(pairs), "difference": sum(b - a for a, b in pairs) / len(pairs), "better": better,
            "worse": worse, "p": p}  # fmt: skip


# ---- as a page and as a picture ----------------------------------------------------------------------------


def compare_page(compared: Comparison, language: str = "en") -> str:
    """The comparison as a page without scripts."""
    say, names = words(language), compared.names
    rows = [
        [key, *("–" if value is None else str(value) for value in values)] for key, values in compared.settings.items()
    ]
    settings = (
        table([say["setting"], *names], rows, say["differs"], text=True) if rows else tag("p", say["no_difference"])
    )
    measured = [[f"{stage}: {measure(name, language)}", *map(figure, values)] for (stage, name), values
                in compared.results.items()]  # fmt: skip
    blocks = [tag("h2", say["differs"]), settings]
    if measured:
        blocks += [tag("h2", say["results"]), table([say["measure"], *names], measured, say["results"])]
    if compared.tests:
        lines = [[f"{stage}: {test}", *map(said, found)] for (stage, test), found in compared.tests.items()]
        columns = ["", *(f"{name} − {names[0]}" for name in names[1:])]
        blocks += [tag("p", say["significance"]), table(columns, lines, say["significance"])]
    blocks += _curves(compared, say, language)
    if compared.answers:
        lines = [
            [key, *("–" if text is None else text or "∅" for text in texts)] for key, texts in compared.answers.items()
        ]
        blocks += [tag("h2", say["answers"]), table([say["question"], *names], lines, say["answers"], text=True)]
    head = tag("header", tag("h1", f"{say['compare']}: {', '.join(names)}"))
    return page(say["compare"], head + tag("main", blocks), language=language)


def said(found: dict[str, Any] | None) -> str:
    """A test in words: +0.040 (12 better, 4 worse, p 0.077)."""
    if found is None:
        return "–"
    return f"{found['difference']:+.3f} ({found['better']} better, {found['worse']} worse, p {found['p']:.2g})"


def _curves(compared: Comparison, say: dict[str, str], language: str) -> list[Html]:
    blocks = []
    for stage in dict.fromkeys(stage.name for run in compared.runs for stage in run.stages):
        journals = journals_of([run.directory for run in compared.runs[:MOST_CURVES]], stage)
        bases = dict.fromkeys(name.removeprefix("validation_") for one in journals for name in metrics_of(one))
        drawings = []
        for base in bases:
            title = f"{stage}: {measure(base, language)}"
            lines = _overlay(journals, compared.names, base, say)
            if len(lines) > 1:  # one alone compares nothing
                drawings.append(tag("figure", tag("figcaption", title), chart(lines, title)))
        if drawings:
            blocks += [tag("h3", stage), tag("div", drawings, class_="charts")]
    return [tag("h2", say["curves"]), *blocks] if blocks else []


def _overlay(journals: Sequence[Journal], names: Sequence[str], base: str, say: dict[str, str]) -> list[Line]:
    """A curve of each run that has the metric: on held-out data where that was measured, else in training."""
    lines = []
    for number, (journal, name) in enumerate(zip(journals, names, strict=False)):
        both = lines_of(journal, base, [name, f"{name} ({say['validation']})"], number)
        lines += both[-1:]
    return lines


def journals_of(directories: Sequence[Path], stage: str) -> list[Journal]:
    """The journals of a stage, read whole, or when they are very long only in part (see `Journal.sketch`)."""
    journals = [Journal(path / stage / "metrics.jsonl") for path in directories]
    size = sum(one.path.stat().st_size for one in journals if one.path.exists())
    places = max(30, 2000 // max(1, len(journals)))
    for journal in journals:
        journal.sketch(min(PLACES, places)) if size > WHOLE else journal.update()
    return journals


def curve_of(
    directories: Sequence[Path], stage: str | None, metric: str, log_x: bool = False, log_y: bool = False
) -> str:
    """One metric of one or several runs as an SVG that stands alone; by default of the stage that was trained last.

    Raises UsageError when no run has such a curve.
    """
    runs = [read_run(path, sized=False) for path in directories]
    stage = stage or next((run.stage.name for run in runs if run.stage), "")
    journals, lines = journals_of(directories, stage), []
    base = metric.removeprefix("validation_")
    for number, (run, journal) in enumerate(zip(runs, journals, strict=True)):
        alone = len(runs) == 1
        names = ["training", "validation"] if alone else [run.name, f"{run.name} validation"]
        both = lines_of(journal, base, names, None if alone else number)
        lines += [line for line in both if metric == base or line.dots]
    if not lines:
        known = dict.fromkeys(name for journal in journals for name in metrics_of(journal))
        message = f"There is no curve of {metric!r} in {', '.join(str(path / stage) for path in directories)}."
        raise UsageError(message, f"There are: {', '.join(known)}." if known else "Nothing was measured there yet.")
    title = f"{', '.join(run.name for run in runs)}, {stage}: {metric.replace('_', ' ')}"
    return chart(lines, title, log_x, log_y, alone=True)
