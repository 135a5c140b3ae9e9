"""`minigpt diagnose`: what is likely wrong with a training."""

from minigpt.cli import flags, opening
from minigpt.cli.command import command


@command("minigpt diagnose runs/mine", "minigpt diagnose runs/mine --stage sft --json")
def diagnose(chosen: flags.Chosen, where: flags.Where, json: flags.AsJson = False) -> None:
    """Say what is likely wrong with a training.

    From its curves and settings: a learning rate that is too high or too low, over-fitting and since when, gradients
    that are always cut, spikes and the rows that made them. From its data: held-out rows that are training rows as
    well. From its weights: layers that do nothing.
    """
    from dataclasses import asdict

    from minigpt.cli import console
    from minigpt.runs.run import run_at
    from minigpt.watch.diagnosis import diagnose as look

    run, named = run_at(chosen.path)
    found = look(run, chosen.stage or named, lambda: opening.backend_of(where.backend, where.device, quiet=True))
    if json:
        console.print_json(asdict(found))
        return
    console.write(f"{run.directory}, {found.stage}: looked at {', '.join(found.looked)}.\n")
    for one in found.findings:
        likely = "" if one.certain else " (likely)"
        console.write(f"\n{one.name}{likely}: {one.shows}.\n  {one.advice}\n")
    if not found.findings:
        console.write("No problems found. That is no proof: minigpt sweep tells whether other settings do better.\n")
