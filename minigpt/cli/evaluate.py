"""`minigpt evaluate`: a model's measures on held-out data."""

from pathlib import Path
from typing import Annotated

from typer import Option

from minigpt.cli import flags, opening
from minigpt.cli.command import command

Tests = Annotated[int, Option("--tests", metavar="N", min=1, help="Questions per test of the built-in world.")]
Bits = Annotated[int, Option("--bits", metavar="N", help="4 or 8: with the weights in so many bits.")]
Details = Annotated[
    bool, Option("--details", help="Figures with intervals; by position, rarity, writing and task; quality of answers.")
]
Stride = Annotated[
    int | None,
    Option("--stride", metavar="N", min=1, help="Windows begin so many tokens apart. Default: they do not overlap."),
]
Against = Annotated[
    Path | None, Option("--against", metavar="RUN2", help="Compare with this run on the same rows: is it better?")
]


@command(
    "minigpt evaluate runs/demo",
    "minigpt evaluate runs/demo --stage sft --data questions.jsonl --json",
    "minigpt evaluate runs/one --against runs/two --data questions.jsonl",
)
def evaluate(
    chosen: flags.Chosen,
    where: flags.Where,
    data: flags.Data = None,
    rows: flags.Rows = None,
    tests: Tests = 300,
    bits: Bits = 0,
    details: Details = False,
    stride: Stride = None,
    against: Against = None,
    json: flags.AsJson = False,
) -> None:
    """Measure a model on held-out data.

    Every finished stage, or the one that --stage names: loss (nats per token), perplexity and bits per byte; for DPO
    how often the chosen answer is the likelier one; exact match for a model of the built-in world. With --data these
    files are measured instead. --details and --against give every figure with its 95 % interval.
    """
    from minigpt import library
    from minigpt.cli import console, evaluation_tables, waiting

    opened, stage = opening.open_at(chosen.path, chosen.stage)
    framework = opening.backend_of(where.backend, where.device)
    if details or stride or against:
        from minigpt.cli.evaluate_details import show
        from minigpt.evaluate.detailed import Asked

        asked = Asked(tuple(data or ()), rows, stride, bits)
        show(opened, stage, None if against is None else opening.open_at(against, None), framework, asked, json)
        return
    with waiting.working("Measuring"):
        result = library.evaluate_run(
            opened, stage, data=data or [], rows=rows, tests=tests, bits=bits, backend=framework,
            report=lambda event: console.note(event.text),
        )  # fmt: skip
    if json:
        console.print_json(result)
    else:
        evaluation_tables.show_evaluation(result)
