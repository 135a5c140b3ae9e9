"""`minigpt probe`: which learning rate and which batch size a training could use."""

from pathlib import Path
from typing import Annotated

from typer import Option

from minigpt.cli import flags, opening
from minigpt.cli.command import command

Low = Annotated[float, Option("--from", metavar="RATE", min=0, help="The lowest rate that is tried.")]
High = Annotated[float, Option("--to", metavar="RATE", min=0, help="The highest one.")]
Steps = Annotated[int, Option("--steps", metavar="N", min=10, help="Of the rate test.")]
Batches = Annotated[int, Option("--batches", metavar="N", min=3, help="Whose gradients are compared.")]
Svg = Annotated[Path | None, Option("--svg", metavar="FILE", help="Write the curve of the rate test.")]


@command("minigpt probe runs/mine --stage pretrain", "minigpt probe runs/mine --stage sft --svg rates.svg")
def probe(
    chosen: flags.Chosen,
    where: flags.Where,
    low: Low = 1e-5,
    high: High = 1.0,
    steps: Steps = 60,
    batches: Batches = 12,
    svg: Svg = None,
    json: flags.AsJson = False,
) -> None:
    """Find a learning rate and a batch size.

    The rate grows from step to step until the loss rises; a third of where the loss was lowest is a usual choice.
    Gradients of several batches tell the noise scale: the batch size beyond which more rows save few steps. The run
    stays as it is: the stage is tried from the weights that it starts from, or is at.
    """
    from dataclasses import asdict

    from minigpt.cli import console, tables, waiting
    from minigpt.errors import UsageError
    from minigpt.experiments.probing import probe as look
    from minigpt.pages.svg import Line, chart, write_curve
    from minigpt.stages.table import FIRST

    if not 0 < low < high:
        raise UsageError("--from must be above 0 and below --to.")
    run, stage = opening.open_at(chosen.path, chosen.stage)
    framework = opening.backend_of(where.backend, where.device)
    with waiting.working("Trying rates"):
        found = look(run, stage or FIRST, framework, low, high, steps, batches)
    test, noise = found.rate, found.noise
    if svg is not None:
        title = f"{run.directory.name}, {found.stage}: loss while {found.setting} grows"
        write_curve(chart([Line("loss", test.rates, test.losses, 0)], title, log_x=True, alone=True), svg)
        console.note(f"Curve: {svg}")
    if json:
        console.print_json(asdict(found))
        return
    shown = range(0, len(test.rates), max(1, len(test.rates) // 12))
    tables.table(f"{found.stage}: the loss while the rate grows", [found.setting, "loss"],
                 [[f"{test.rates[i]:.2g}", f"{test.losses[i]:.3f}"] for i in shown])  # fmt: skip
    if test.lowest_at == test.rates[-1]:
        console.note("The loss still fell at the highest rate: raise --to, or give more --steps.")
    console.write(f"Lowest at {test.lowest_at:.2g}; try {found.stage}.{found.setting}={test.suggested:.1g} "
                  f"(now {found.now:g}).\n")
    console.write(f"Noise scale: {noise.rows:,.0f} rows ({noise.low:,.0f} to {noise.high:,.0f}); a step has "
                  f"{found.batch_size}. {advice(noise.rows, found.batch_size)}\n")


def advice(noise: float, rows: int) -> str:
    """What the noise scale says about a batch size."""
    if rows < noise / 3:
        return "Twice the rows would need nearly half of the steps."
    if rows > 3 * noise:
        return "Half of the rows would need hardly more steps."
    return "The batch size fits. It may grow later: the noise grows while a model learns."
