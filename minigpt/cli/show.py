"""minigpt show: one run in the terminal."""

from minigpt.cli import flags
from minigpt.cli.command import command
from minigpt.cli.watch import RunArgument


@command("minigpt show runs/demo")
def show(run: RunArgument = None, json: flags.AsJson = False) -> None:
    """Show one run: its state, stages and results.

    With the time that it took, its memory and its size.
    """
    from minigpt.cli import console, tables
    from minigpt.runs.finding import find_run
    from minigpt.watch.read import read_run, results
    from minigpt.watch.report import duration, figure, size

    found = read_run(find_run(run))
    summary = found.summary()
    if json:
        console.print_json(summary | {"config": found.config})
        return
    who = f" (process {found.process['pid']} since {found.process['since']})" if found.process else ""
    console.write(f"{found.directory}: {found.state}{who}, {size(found.size)}\n\n")
    rows = []
    for stage in found.stages:
        step = f"{stage.step:,}" + (f" of {stage.steps:,}" if stage.steps else "")
        best = f"{stage.best_step:,}" if stage.best_step else "–"
        times = [duration(stage.actual.get("seconds")), size(stage.actual.get("memory"))]
        rows.append([stage.name, "finished" if stage.finished else "not finished", step, best, *times])
    if rows:
        tables.table("Stages", ["", "", "step", "weights of step", "time", "memory"], rows, (0, 1))
    names = [stage.name for stage in found.stages]
    measured = results(found.stages, summary["measured"]).items()
    shown = [[name.replace("_", " "), *(figure(values.get(stage)) for stage in names)] for name, values in measured]
    if shown:
        tables.table("Results on held-out data", ["", *names], shown)
