"""`minigpt quantize`: a trained model's weights in 4 or 8 bits."""

from typing import Annotated

from typer import Option

from minigpt.cli import flags, opening
from minigpt.cli.command import command

Bits = Annotated[int, Option("--bits", metavar="N", help="4 or 8.")]
GroupSize = Annotated[
    int, Option("--group-size", metavar="N", help="32 or 64 weights share a scale. Default: 64 where that divides.")
]
Method = Annotated[
    str, Option("--method", metavar="NAME", help="round-to-nearest, or gptq, which makes up for its own errors.")
]


@command("minigpt quantize runs/demo --bits 4 --method gptq")
def quantize(
    chosen: flags.Chosen,
    where: flags.Where,
    bits: Bits = 8,
    group_size: GroupSize = 0,
    method: Method = "round-to-nearest",
    rows: flags.Rows = None,
    json: flags.AsJson = False,
) -> None:
    """Store a trained model's weights in 4 or 8 bits.

    Shows the error of each layer and the held-out measures before and after. generate, chat and evaluate take the
    result with --bits.
    """
    from minigpt.cli import console, reporter, tables, waiting
    from minigpt.evaluate.report import before_and_after
    from minigpt.runs.quantized import quantize_stage
    from minigpt.stages.table import answers
    from minigpt.store.lock import locked

    opened, stage = opening.open_at(chosen.path, chosen.stage)
    stage = opened.chosen(stage)  # complains before a framework is imported
    framework = opening.backend_of(where.backend, where.device)
    with locked(opened.directory), reporter.Reporter() as report:
        made = quantize_stage(opened, stage, framework, bits, group_size, method, report)
    with waiting.working("Measuring the weights before and after"):
        measured = before_and_after(opened, stage, framework, bits, rows)
    if json:
        console.print_json(made.as_dict() | {"measured": measured})
    else:
        tables.show_quantized(made, measured)
    if not measured:
        console.note(f"Measure it on data of yours:  minigpt evaluate {opened.directory} --bits {bits} --data FILE")
    use = "chat" if answers(stage) else "generate"
    console.note(f"Use it:  minigpt {use} {opened.directory} --stage {stage} --bits {bits}")
