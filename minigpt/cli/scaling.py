"""`minigpt scaling`: a scaling law of one's own, and what a budget buys by it or by a published one."""

from pathlib import Path
from typing import Annotated

from typer import Option

from minigpt.cli import flags, opening
from minigpt.cli.command import command
from minigpt.cli.language import Language, language
from minigpt.errors import UsageError
from minigpt.runs.finding import RUNS

Budget = Annotated[str, Option("--budget", metavar="TIME", help="With --data: for all runs together, such as 30m.")]
Out = Annotated[Path, Option("--out", metavar="DIR", help="With --data: where plan, runs and law are kept.")]
LawName = Annotated[
    str, Option("--law", metavar="NAME", help="replication (2024), chinchilla, kaplan, or the law.json of a ladder.")
]
Compute = Annotated[float, Option("--compute", metavar="FLOPS", min=0, help="Operations, such as 1e18.")]
Time = Annotated[str, Option("--time", metavar="TIME", help="Time to train, such as 8h.")]
Money = Annotated[float, Option("--money", metavar="DOLLARS", min=0, help="Money for a rented machine.")]
Machine = Annotated[
    str | None,
    Option("--machine", metavar="NAME", help="here (measured), h100, a100, rtx4090, m1 … m4 or m4-max. Default: here; "
           "h100 for --money."),
]  # fmt: skip
Speed = Annotated[
    float, Option("--flops-per-second", metavar="N", min=0, help="Instead of --machine: what a training reaches.")
]
Price = Annotated[float, Option("--dollars-per-hour", metavar="X", min=0, help="Instead of the machine's usual price.")]
Svg = Annotated[
    Path | None, Option("--svg", metavar="FILE", help="With --data: the iso-FLOP curves, as SVG or (FILE.png) PNG.")
]
Html = Annotated[Path | None, Option("--html", metavar="FILE", help="With --data: write everything as a page.")]


@command(
    "minigpt scaling --money 100 --machine h100",
    "minigpt scaling --time 8h",
    "minigpt scaling --time 8h --machine m4 --law chinchilla",
    "minigpt scaling --data tinyshakespeare --budget 30m --html scaling.html",
)
def scaling(
    where: flags.Where,
    data: flags.Data = None,
    budget: Budget = "30m",
    out: Out = RUNS / "scaling",
    svg: Svg = None,
    html: Html = None,
    lang: Language = None,
    law: LawName = "replication",
    compute: Compute = 0.0,
    time: Time = "",
    money: Money = 0.0,
    machine: Machine = None,
    flops_per_second: Speed = 0.0,
    dollars_per_hour: Price = 0.0,
    json: flags.AsJson = False,
) -> None:
    """What a budget buys, by a scaling law.

    With one of --compute, --time and --money: which model, which preset, on how many tokens, and what loss to expect.
    With --data a ladder of small runs is planned and trained, and laws are fitted to them; a larger run, of four times
    their largest budget, is predicted before it is trained. The same command again goes on by the same plan, or draws
    what is there.
    """
    if data:
        return _climb(data, out, budget, where, svg, html, lang, json)
    if svg is not None or html is not None:
        raise UsageError("Only a ladder of runs has curves.", "Name the text to train it on with --data FILE.")
    from minigpt.cli.scaling_tables import show_bought
    from minigpt.experiments.budgets import HERE, bought, offers, offers_here
    from minigpt.units import parse_time

    if (compute > 0) + bool(time) + (money > 0) != 1:
        raise UsageError("The budget is open.", "Give one of --compute, --time and --money, or --data to fit a law.")
    chosen, seconds = _law(law), parse_time(time) if time else 0.0
    machine = "this rate" if flops_per_second else machine or ("h100" if money else HERE)
    plans = _measured(where) if machine == HERE else {}
    rate = _rate(machine, plans, flops_per_second, dollars_per_hour)
    if money and not rate.dollars:
        raise UsageError(f"{machine} has no price.", "Give --dollars-per-hour, or a --machine that is rented: h100.")
    found = bought(chosen, rate, compute, seconds, money)
    offered = offers_here(chosen, found.seconds, plans) if plans else offers(chosen, found.seconds, rate)
    asked = f"${money:g}" if money else time or f"{compute:.3g} operations"
    return show_bought(found, law, f"{asked}, {machine}", offered, json)


def _rate(machine: str, plans: dict, flops_per_second: float, dollars_per_hour: float):
    """What a training reaches, and its price: measured, given, or of a machine in the table."""
    from minigpt.experiments.budgets import Rate, rate_here, rate_of

    known = rate_here(plans) if plans else Rate(flops_per_second) if flops_per_second else rate_of(machine)
    return Rate(known.flops, dollars_per_hour or known.dollars)


def _law(name: str):
    from minigpt.experiments.ladder import read_law
    from minigpt.experiments.laws import PUBLISHED

    return PUBLISHED[name] if name in PUBLISHED else read_law(Path(name))


def _measured(where: flags.Where) -> dict:
    """The plan of each preset on this machine."""
    from minigpt.cli import waiting
    from minigpt.experiments.budgets import plans_here
    from minigpt.machine.limits import Limits

    framework = opening.backend_of(where.backend, where.device, quiet=True)
    with waiting.working("Measuring the presets on this machine"):
        return plans_here(framework, Limits())


def _climb(
    data: list[str], out: Path, budget: str, where: flags.Where, svg: Path | None, html: Path | None,
    lang: str | None, json: bool,
) -> None:
    from minigpt.cli import console, reporter, stopping
    from minigpt.cli.scaling_tables import as_json, show_climbed
    from minigpt.experiments.ladder import climb
    from minigpt.machine.cgroups import usable_cores
    from minigpt.units import parse_time

    said, cores = language(lang), max(1, int(usable_cores()))
    with stopping.many_runs(out), reporter.Reporter() as report:
        found = climb(data, out, parse_time(budget, "--budget"), cores, where.backend, where.device, report)
    _draw(found, svg, html, said)
    if json:
        console.print_json(as_json(found))
        return
    show_climbed(found)
    console.note(f"The law is in {out / 'law.json'}: minigpt scaling --law {out / 'law.json'} --time 8h …")


def _draw(found, svg: Path | None, html: Path | None, language: str) -> None:
    """The files that are asked for."""
    from minigpt.cli import console
    from minigpt.experiments.scaling_page import isoflop_chart, scaling_page
    from minigpt.pages.svg import write_curve
    from minigpt.pages.texts import words
    from minigpt.store.durable import write_whole

    if svg is not None:
        title = words(language, "scaling")["isoflop"]
        write_curve(isoflop_chart(found.fitted.points, found.fitted.law, title, alone=True), svg)
        console.note(f"Curves: {svg}")
    if html is not None:
        write_whole(html, scaling_page(found, language))
        console.note(f"Page: {html}")
