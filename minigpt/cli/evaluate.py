"""`minigpt evaluate`: a model's measures on held-out data."""

from typing import Annotated

from typer import Option

from minigpt.cli import flags, opening
from minigpt.cli.command import command

Tests = Annotated[int, Option("--tests", metavar="N", min=1, help="Questions per test of the built-in world.")]
Bits = Annotated[int, Option("--bits", metavar="N", help="4 or 8: with the weights in so many bits.")]


@command("minigpt evaluate runs/demo", "minigpt evaluate runs/demo --stage sft --data questions.jsonl --json")
def evaluate(
    chosen: flags.Chosen,
    where: flags.Where,
    data: flags.Data = None,
    rows: flags.Rows = None,
    tests: Tests = 300,
    bits: Bits = 0,
    json: flags.AsJson = False,
) -> None:
    """Measure a model on held-out data.

    Loss (nats per token), perplexity and bits per byte; after DPO how often the chosen answer is the likelier
    one; exact match for a model of the built-in world. With --data these files are measured instead.
    """
    from minigpt import library
    from minigpt.cli import console, tables

    opened, stage = opening.open_at(chosen.path, chosen.stage)
    framework = opening.backend_of(where.backend, where.device)
    with console.working("Measuring"):
        result = library.evaluate_run(
            opened, stage, data=data or [], rows=rows, tests=tests, bits=bits, backend=framework,
            report=lambda event: console.note(event.text),
        )  # fmt: skip
    if json:
        console.print_json(result)
    else:
        tables.show_evaluation(result)
