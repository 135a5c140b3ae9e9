"""`minigpt scaling`: a scaling law of one's own, and what a budget buys by it or by a published one."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from typer import Option

from minigpt.cli import flags
from minigpt.cli.command import command
from minigpt.errors import UsageError
from minigpt.runs.finding import RUNS

PRESETS = ("tiny", "small", "medium")
Budget = Annotated[str, Option("--budget", metavar="TIME", help="With --data: for all runs together, such as 30m.")]
Out = Annotated[Path, Option("--out", metavar="DIR", help="With --data: where runs and the law are kept.")]
LawName = Annotated[
    str, Option("--law", metavar="NAME", help="chinchilla, replication (2024), or the law.json of a ladder.")
]
Compute = Annotated[float, Option("--compute", metavar="FLOPS", min=0, help="Operations, such as 1e18.")]
Time = Annotated[str, Option("--time", metavar="TIME", help="Time to train, such as 8h.")]
Money = Annotated[float, Option("--money", metavar="DOLLARS", min=0, help="Money for a rented machine.")]
Machine = Annotated[str, Option("--machine", metavar="NAME", help="h100, a100, rtx4090, m1, m4 or m4-max.")]
Speed = Annotated[
    float, Option("--flops-per-second", metavar="N", min=0, help="Instead of --machine: what a training reaches.")
]
Price = Annotated[float, Option("--dollars-per-hour", metavar="X", min=0, help="Instead of the machine's usual price.")]


@command(
    "minigpt scaling --money 100 --machine h100",
    "minigpt scaling --time 8h --machine m4 --law replication",
    "minigpt scaling --data tinyshakespeare --budget 30m",
)
def scaling(
    where: flags.Where,
    data: flags.Data = None,
    budget: Budget = "30m",
    out: Out = RUNS / "scaling",
    law: LawName = "replication",
    compute: Compute = 0.0,
    time: Time = "",
    money: Money = 0.0,
    machine: Machine = "h100",
    flops_per_second: Speed = 0.0,
    dollars_per_hour: Price = 0.0,
    json: flags.AsJson = False,
) -> None:
    """What a budget buys, by a scaling law.

    With one of --compute, --time and --money: which model, on how many tokens, and what loss to expect. With --data a
    ladder of small runs is trained and a law fitted to them; a larger run, of four times their compute, is predicted
    before it is trained.
    """
    if data:
        return _climb(data, out, budget, where, json)
    from minigpt.experiments.budgets import MACHINES, Rate, bought, rate_of
    from minigpt.units import parse_time

    if (compute > 0) + bool(time) + (money > 0) != 1:
        raise UsageError("The budget is open.", "Give one of --compute, --time and --money, or --data to fit a law.")
    rate = Rate(flops_per_second, dollars_per_hour) if flops_per_second else rate_of(machine)
    rate = Rate(rate.flops, dollars_per_hour or rate.dollars)
    if money and not rate.dollars:
        priced = ", ".join(name for name, one in MACHINES.items() if one.dollars)
        raise UsageError("This machine has no price.", f"Give --dollars-per-hour, or one of {priced}.")
    found = bought(_law(law), rate, compute, parse_time(time) if time else 0.0, money)
    return _show_bought(found, json)


def _law(name: str):
    from minigpt.experiments.ladder import read_law
    from minigpt.experiments.laws import PUBLISHED

    return PUBLISHED[name] if name in PUBLISHED else read_law(Path(name))


def _show_bought(found, json: bool) -> None:
    from minigpt.cli import console, tables
    from minigpt.units import duration

    if json:
        console.print_json(asdict(found))
        return
    preset, size = _nearest_preset(found.parameters)
    rows = [
        ["operations", f"{found.compute:.3g}"], ["parameters", f"{found.parameters:.3g}"],
        ["tokens", f"{found.tokens:.3g} ({found.tokens / found.parameters:.0f} per parameter)"],
        ["loss (nats per token)", f"{found.loss:.3f}"], ["time", duration(found.seconds)],
        ["nearest preset", f"{preset} ({size:.3g} parameters)" if 0.25 < size / found.parameters < 4 else "none"],
    ]  # fmt: skip
    tables.table("", ["", ""], rows + ([["price", f"${found.dollars:,.2f}"]] if found.dollars else []))


def _nearest_preset(parameters: float) -> tuple[str, int]:
    """(name, parameters) of the preset whose size is nearest, by the ratio of the sizes."""
    from minigpt.config import load_config
    from minigpt.model.gpt import parameter_count

    sizes = {}
    for name in PRESETS:
        config = load_config(name)
        shape = config.model.model_copy(update={"vocab_size": config.model.vocab_size or config.tokenizer.vocab_size})
        sizes[name] = parameter_count(shape)
    name = min(sizes, key=lambda one: abs(math.log(sizes[one] / parameters)))
    return name, sizes[name]


def _climb(data: list[str], out: Path, budget: str, where: flags.Where, json: bool) -> None:
    from minigpt.cli import console, reporter, tables
    from minigpt.experiments.ladder import climb
    from minigpt.machine.cgroups import usable_cores
    from minigpt.units import parse_time

    cores = max(1, int(usable_cores()))
    with reporter.Reporter() as report:
        fitted, check = climb(data, out, parse_time(budget), cores, where.backend, where.device, report=report)
    if json:
        found = {"law": asdict(fitted.law), "points": [asdict(point) for point in fitted.points]}
        console.print_json(found | {"check": asdict(check) | {"error": check.error}})
        return
    rows = [[f"{p.parameters:,.0f}", f"{p.tokens:,.0f}", f"{p.loss:.4f}",
             f"{fitted.law.loss(p.parameters, p.tokens):.4f}"] for p in fitted.points]  # fmt: skip
    came = "" if check.loss is None else f"{check.loss:.4f}"
    interval = f"{check.predicted:.4f} ({check.low:.4f} to {check.high:.4f})" if math.isfinite(check.low) else ""
    rows.append([f"{check.parameters:,.0f}", f"{check.tokens:,.0f}", came, interval])
    tables.table("", ["parameters", "tokens", "loss", "law"], rows)
    law = fitted.law
    console.write(f"L = {law.E:.4g} + {law.A:.4g} / N^{law.alpha:.3f} + {law.B:.4g} / D^{law.beta:.3f}\n")
    if check.error is not None:
        console.write(f"The last run was not part of the fit: predicted {check.error:+.2%} from what came.\n")
    console.note(f"The law is in {out / 'law.json'}: minigpt scaling --law {out / 'law.json'} --time 8h …")
