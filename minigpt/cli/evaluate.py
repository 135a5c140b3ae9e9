"""`minigpt evaluate`: a model's measures on held-out data."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from minigpt.cli import flags, opening
from minigpt.cli.command import command
from minigpt.errors import UsageError

Runs = Annotated[
    list[Path] | None,
    Argument(metavar="RUN…", help="Run directories, stages of them, or names. Default: the run trained last."),
]
RunOption = Annotated[Path | None, Option("--run", metavar="DIR", help="The same as RUN.")]
Tests = Annotated[int, Option("--tests", metavar="N", min=1, help="Questions per test of the built-in world.")]
Bits = Annotated[int, Option("--bits", metavar="N", help="4 or 8: with the weights in so many bits.")]
Details = Annotated[
    bool, Option("--details", help="Also by position, rarity, writing, source, task and language; reliability.")
]
Samples = Annotated[
    int, Option("--samples", metavar="K", min=0, help="Draw K answers to each question too, for pass@1 … pass@K.")
]
Stride = Annotated[
    int | None,
    Option("--stride", metavar="N", min=1, help="Windows begin so many tokens apart. Default: they do not overlap."),
]
Against = Annotated[
    Path | None, Option("--against", metavar="RUN2", help="Compare with this run on the same rows: is it better?")
]

Tasks = Annotated[
    str | None,
    Option(
        "--tasks", metavar="NAMES",
        help="Tests instead of data: minimal-pairs,python-choice,… or the harness's: hellaswag,arc_easy=FILE,… "
        "(list shows them).",
    ),
]  # fmt: skip
TaskFiles = Annotated[
    Path | None, Option("--task-files", metavar="DIR", help="A directory of tests in the harness's own form (YAML).")
]
Shots = Annotated[int | None, Option("--shots", metavar="N", min=0, help="Examples before each question of --tasks.")]


@command(
    "minigpt evaluate runs/demo",
    "minigpt evaluate runs/demo --stage sft --data questions.jsonl --json",
    "minigpt evaluate runs/one --against runs/two --data questions.jsonl",
    "minigpt evaluate runs/demo --tasks minimal-pairs,python-choice",
)
def evaluate(
    *,
    runs: Runs = None,
    run: RunOption = None,
    stage: flags.Stage = None,
    where: flags.Where,
    data: flags.Data = None,
    rows: flags.Rows = None,
    tests: Tests = 300,
    bits: Bits = 0,
    details: Details = False,
    stride: Stride = None,
    samples: Samples = 0,
    against: Against = None,
    tasks: Tasks = None,
    task_files: TaskFiles = None,
    shots: Shots = None,
    json: flags.AsJson = False,
) -> None:
    """Measure models on held-out data.

    Every finished stage, or the one that --stage names: loss (nats per token), perplexity and bits per byte; for DPO
    how often the chosen answer is the likelier one; exact match for a model of the built-in world. With --data these
    files are measured instead, by the answers that their rows have. Figures have 95 % intervals; what the model did on
    single rows is kept in the stage's evaluation folder, where minigpt compare finds it.
    """
    from minigpt.cli import console

    if tasks == "list":
        from minigpt.cli.benchmark_tables import show_known

        return show_known(json)
    named = [*(runs or []), *([run] if run is not None else [])]
    if against is not None and len(named) > 1:
        raise UsageError("--against compares one run with another.", "Name one run before it.")
    opened = [opening.open_at(path, stage) for path in named or [None]]
    framework = opening.backend_of(where.backend, where.device)
    found = []
    for one, chosen in opened:
        if tasks:
            from minigpt.cli.benchmark_tables import show_tests

            names = [name.strip() for name in tasks.split(",") if name.strip()]
            found.append(show_tests(one, chosen, names, framework, bits, rows, shots, task_files, json))
        elif details or stride or samples or against:
            from minigpt.cli.evaluation_tables import show_detailed
            from minigpt.evaluate.detailed import Asked

            asked = Asked(tuple(data or ()), rows, stride, bits, samples)
            other = None if against is None else opening.open_at(against, None)
            found.append(show_detailed(one, chosen, other, framework, asked, json, details))
        else:
            found.append(_measured(one, chosen, data, rows, tests, bits, framework, json))
    if json:
        console.print_json(found[0] if len(found) == 1 else found)


def _measured(run, stage, data, rows, tests, bits, backend, json: bool) -> dict:
    from minigpt import library
    from minigpt.cli import console, evaluation_tables, waiting

    with waiting.working("Measuring"):
        result = library.evaluate_run(
            run, stage, data=data or [], rows=rows, tests=tests, bits=bits, backend=backend,
            report=lambda event: console.note(event.text),
        )  # fmt: skip
    if not json:
        evaluation_tables.show_evaluation(result)
    return result
