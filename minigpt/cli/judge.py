"""`minigpt judge`: which of two models gives the better answers, by people or by another model."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from minigpt.cli import flags, opening
from minigpt.cli.command import command
from minigpt.cli.language import Language, language
from minigpt.errors import UsageError
from minigpt.runs.finding import RUNS

if TYPE_CHECKING:
    from minigpt.evaluate.judging import Judging, Results

Two = Annotated[list[Path] | None, Argument(metavar="RUN RUN2", help="Two runs, or stages of them.")]
Out = Annotated[Path | None, Option("--out", metavar="DIR", help="Where answers and votes are. Default: in runs/.")]
ShowResults = Annotated[bool, Option("--results", help="Print what the votes say, and end.")]
Reward = Annotated[Path | None, Option("--reward", metavar="RUN", help="A reward model is the judge.")]
EndpointURL = Annotated[
    str, Option("--endpoint", metavar="URL", help="An OpenAI-compatible server is the judge (…/v1).")
]
Model = Annotated[str, Option("--model", metavar="NAME", help="With --endpoint: the model's name there.")]
Need = Annotated[
    float | None, Option("--need", metavar="RATE", help="How many votes show a true win rate such as 0.6, and end.")
]
Port = Annotated[int | None, Option("--port", metavar="N", min=1, max=65535, help="Default: 8321, or any.")]
Browser = Annotated[bool, Option("--browser/--no-browser", help="Open the page in a browser.")]
Longest = Annotated[int, Option("--max-tokens", metavar="N", min=1, help="Longest answer.")]
KEY = "OPENAI_API_KEY"  # read for --endpoint only
PATIENCE = 120.0  # seconds for one of its answers


@command(
    "minigpt judge runs/a runs/b --data questions.jsonl",
    "minigpt judge runs/a runs/b --results",
    "minigpt judge runs/a runs/b --reward runs/judge",
    "minigpt judge --need 0.6",
)
def judge(
    *,
    runs: Two = None,
    where: flags.Where,
    data: flags.Data = None,
    rows: flags.Rows = 40,
    max_tokens: Longest = 128,
    out: Out = None,
    show_results: ShowResults = False,
    reward: Reward = None,
    endpoint: EndpointURL = "",
    model: Model = "",
    need: Need = None,
    port: Port = None,
    browser: Browser = True,
    lang: Language = None,
    json: flags.AsJson = False,
) -> None:
    """Compare two models by the answers that are preferred.

    Both answer the same questions (of --data, or everyday requests of the built-in world). A page shows the answers
    side by side without names, sides drawn at random; votes are kept, and the same command goes on. With --reward or
    --endpoint a model is the judge: it sees each pair in both orders, so that its bias for a place is measured.
    """
    from minigpt.cli import console
    from minigpt.evaluate.judging import read_votes, results
    from minigpt.evaluate.ranking import needed_votes
    from minigpt.generate.endpoint import check_endpoint

    if need is not None:
        if not 0 < need < 1 or need == 0.5:
            raise UsageError(f"A win rate of {need} cannot be shown.", "Give one between 0 and 1, but not 0.5.")
        votes = needed_votes(need)
        console.print_json({"votes": votes}) if json else console.write(
            f"{votes:,} votes (ties not counted) show a true win rate of {need:g} in 80 % of all cases.\n")
        return
    if endpoint:
        check_endpoint(endpoint)
        if not model:
            raise UsageError("The endpoint's model is open.", "Name it with --model.")
    if len(runs or []) != 2:
        raise UsageError("judge compares two runs.", "Name two: minigpt judge runs/a runs/b.")
    opened = [opening.open_at(path, None) for path in runs]
    names = [f"{run.directory.resolve().name}/{run.chosen(stage)}" for run, stage in opened]
    if names[0] == names[1]:
        raise UsageError(f"Both are {names[0]}.", "Name two different ones.")
    directory = out or RUNS / "judged" / "-and-".join(name.replace("/", "-") for name in names)
    judging = _judging(directory, opened, names, where, data or [], rows, max_tokens)
    if reward is not None or endpoint:
        _by_model(directory, judging, where, reward, endpoint, model, json)
    elif show_results:
        _show(judging, results(judging, read_votes(directory)), json)
    else:
        _page(directory, judging, port, browser, language(lang))


def _judging(
    directory: Path, opened: list[Any], names: list[str], where: flags.Where, data: list[str], rows: int | None,
    longest: int,
) -> "Judging":
    """The answers that are kept, else new ones."""
    from minigpt.cli import console, waiting
    from minigpt.evaluate.judged import answered
    from minigpt.evaluate.judging import read_pairs, save_pairs

    kept = read_pairs(directory)
    if kept is not None:
        if [kept.first, kept.second] != names:
            raise UsageError(f"{directory} has answers of {kept.first} and {kept.second}.", "Give another --out.")
        return kept
    framework = opening.backend_of(where.backend, where.device, quiet=True)
    with waiting.working("Both models answer"):
        judging = answered(opened, names, framework, data, rows, longest)
    save_pairs(directory, judging)
    console.note(f"{len(judging.pairs):,} pairs of answers are in {directory}.")
    return judging


def _page(directory: Path, judging: "Judging", port: int | None, browser: bool, lang: str) -> None:
    from minigpt.cli.page import show_page
    from minigpt.watch.judge import serve_judging

    show_page(serve_judging(directory, judging, port, lang), "Vote", "; the votes are kept", browser)


def _by_model(
    directory: Path, judging: "Judging", where: flags.Where, reward: Path | None, endpoint: str, model: str, json: bool
) -> None:
    from minigpt.cli import console, waiting
    from minigpt.evaluate.judges import by_endpoint, by_reward, judged
    from minigpt.evaluate.judging import Vote, add_vote, results
    from minigpt.generate.endpoint import Endpoint
    from minigpt.runs.loading import load_scorer

    if reward is not None:
        framework = opening.backend_of(where.backend, where.device, quiet=True)
        decide, rater = by_reward(load_scorer(*opening.open_at(reward, None), framework)), f"reward model {reward}"
    else:
        judge = Endpoint(endpoint, model, os.environ.get(KEY, "none"), PATIENCE)
        decide, rater = by_endpoint(judge), f"endpoint {model}"
    with waiting.working("Judging"):
        scores, bias = judged(decide, judging.pairs)
    votes = [Vote(item, rater, score, None) for item, score in enumerate(scores)]
    for vote in votes:
        add_vote(directory, vote)
    _show(judging, results(judging, votes), json)
    if not json:
        first = f"{bias.left.said(2)} of the votes went to what stood first (0.5: no bias)"
        console.write(f"Shown in both orders: {first}; in {bias.steady.said(2)} of the pairs the winner stayed.\n")


def _show(judging: "Judging", found: "Results", json: bool) -> None:
    from dataclasses import asdict

    from minigpt.cli import console, tables

    if json:
        console.print_json({"first": judging.first, "second": judging.second} | asdict(found))
        return
    verdict = "Chance alone could do this"
    if found.wins.low > 0.5 or found.wins.high < 0.5:
        verdict = f"{judging.first if found.wins.low > 0.5 else judging.second} is preferred"
    console.write(f"{judging.first} against {judging.second}: {found.votes:,} votes, {found.ties:,} ties\n")
    console.write(f"It wins {found.wins.said()}: {verdict}.\n\n")
    rows = [[name, figure.said(0), f"{found.elo[name]:.0f}"] for name, figure in found.ratings.items()]
    tables.table("Ratings (Elo points, mean 1,000)", ["", "Bradley-Terry", "Elo, in the order of the votes"], rows)
    rows = [[name, f"{votes:,}", f"{reliability:.2f}"] for name, (votes, reliability) in found.raters.items()]
    tables.table("Raters", ["", "votes", "reliability (Dawid-Skene)"], rows)
    if found.agreement:
        rows = [[name.replace("_", " "), "–" if value is None else f"{value:.3f}"]
                for name, value in found.agreement.items()]  # fmt: skip
        tables.table("Agreement beyond chance", ["", ""], rows)
        console.write(f"With unreliable raters counted less, {judging.first} wins {found.consensus:.3f}.\n")
    if found.left is not None:
        console.write(f"What stood on the left got {found.left.said(2)} of the votes.\n")
    if found.needed and found.needed > found.votes and verdict.startswith("Chance"):
        rate = f"{found.wins.value:.2f}"
        console.write(f"If the win rate is really {rate}, about {found.needed:,} votes would show it.\n")
