"""`minigpt errors`: where a model fails, how, and what from."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from minigpt.cli import flags, opening
from minigpt.cli.command import command
from minigpt.cli.language import Language, language

if TYPE_CHECKING:
    from minigpt.evaluate.failures import Failures

Examples = Annotated[int, Option("--examples", metavar="N", min=0, help="Wrong answers of each kind to show.")]
Html = Annotated[Path | None, Option("--html", metavar="FILE", help="Write everything as a page.")]
ROWS = 200


@command("minigpt errors runs/demo", "minigpt errors runs/demo --data questions.jsonl --html errors.html")
def errors(
    chosen: flags.Chosen,
    where: flags.Where,
    data: flags.Data = None,
    rows: flags.Rows = ROWS,
    examples: Examples = 2,
    html: Html = None,
    lang: Language = None,
    json: flags.AsJson = False,
) -> None:
    """Show where a model fails, how, and what from.

    Wrong answers by kind (wrong fact, too long, repetition, …) and task, what is confused with what, the rows whose
    right answers surprise the model most, and its loss by length, position and rarity. Of some wrong answers also
    which words of the question spoke for them, and the training rows that are most like them. Without --data on
    held-out rows of the stage.
    """
    from minigpt.cli import console, waiting
    from minigpt.evaluate.failing import failures_of
    from minigpt.store.durable import write_whole

    opened, stage = opening.open_at(chosen.path, chosen.stage)
    framework = opening.backend_of(where.backend, where.device)
    with waiting.working("Looking for errors"):
        found = failures_of(opened, stage, framework, data or [], rows, examples, console.note_of)
    if html is not None:
        from minigpt.watch.errors_page import errors_page

        write_whole(html, errors_page(found, opened.directory.resolve().name, language(lang)))
        console.note(f"Page: {html}")
    if json:
        console.print_json(found.as_dict())
    else:
        show(found)


def show(found: "Failures") -> None:
    """The tables of the command."""
    from minigpt.cli import console, tables
    from minigpt.evaluate.mistakes import KINDS

    if found.right is not None:
        console.write(f"Right answers: {found.right.said()}\n\n")
        tables.table("Wrong answers", ["kind", "answers", ""],
                     [[kind, f"{count:,}", KINDS[kind]] for kind, count in found.kinds.items()], (0, 2))  # fmt: skip
    if found.by_task:
        kinds = ["right", *found.kinds]
        lines = [[task, *(str(counts.get(kind, "")) for kind in kinds)] for task, counts in found.by_task.items()]
        tables.table("By task", ["task", *kinds], lines)
    if found.confused:
        lines = [[one.task, one.wanted, one.said, f"{one.count:,}"] for one in found.confused[:12]]
        title = "What is confused, in answers of the right form"
        tables.table(title, ["task", "right", "said", "times"], lines, (0, 1, 2))
    for name, groups in found.groups.items():
        lines = [[one.label, f"{one.tokens:,}", one.figures["loss"].said(2)] for one in groups]
        tables.table(f"Loss by {name}", ["", "tokens", "nats per token"], lines)
    lines = [[one.question or "–", one.right, f"{one.loss:.2f}", f"{one.token!r} {one.nats:.1f}"] for one in found.hard]
    tables.table("Rows whose right answer surprises it most", ["row", "right answer", "loss", "most"], lines, (0, 1, 3))
    for one in found.wrong:
        console.write(f"{one.kind}: {one.question}\n  said:  {one.answer or '(nothing)'}\n  right: {one.right}\n")
        if one.attribution:
            console.write(f"  words that spoke for it: {spoken_for(one.attribution)}\n")
        for text, cosine in one.near[:1]:
            console.write(f"  nearest training row ({cosine:.2f}): {' '.join(text.split())}\n")
        console.write("\n")


def spoken_for(attribution: list[tuple[str, float]], most: int = 5) -> str:
    """The tokens with the largest attributions, in the order of the text: "Lucy +0.31, drum -0.12"."""
    largest = sorted(range(len(attribution)), key=lambda i: -abs(attribution[i][1]))[:most]
    return ", ".join(f"{attribution[i][0]!r} {attribution[i][1]:+.2f}" for i in sorted(largest))
