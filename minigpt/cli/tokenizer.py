"""`minigpt tokenizer train` and `inspect`: learn a tokenizer, or look at what one does."""

import sys
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from minigpt.cli import flags, opening
from minigpt.cli.command import command
from minigpt.errors import UsageError, check_name
from minigpt.runs.finding import find_run, is_run

Out = Annotated[Path, Option("--out", metavar="DIR", help="The directory to write.")]
Kind = Annotated[str, Option("--kind", metavar="KIND", help="bpe, char or byte.")]
VocabSize = Annotated[int, Option("--vocab-size", metavar="N", min=300, help="Tokens, with special tokens and bytes.")]
Seed = Annotated[int | None, Option("--seed", metavar="N", min=0, help="The seed of the sample of texts.")]
Text = Annotated[str, Argument(metavar="TEXT", help="A text to split; - reads stdin.")]
Run = Annotated[
    Path | None, Option("--run", metavar="DIR", help="A run or tokenizer directory. Default: the newest run.")
]


@command("minigpt tokenizer train book.txt --out runs/tokens --vocab-size 4000")
def tokenizer_train(
    data: flags.Files,
    out: Out,
    kind: Kind = "bpe",
    vocab_size: VocabSize = 6400,
    seed: Seed = None,
) -> None:
    """Learn a tokenizer from files and save it."""
    from minigpt.cli import console, waiting
    from minigpt.config import load_config
    from minigpt.runs.inputs import learn_tokenizer

    check_name("tokenizer kind", kind, ("bpe", "char", "byte"))
    if any(map(is_run, (out, out.parent))):
        raise UsageError(f"{out} belongs to a run, whose models need its own tokenizer.", "Choose another --out.")
    given = {"tokenizer": {"kind": kind, "vocab_size": vocab_size}} | ({"seed": seed} if seed is not None else {})
    settings = load_config("tiny", None, [], None, given)
    with waiting.working("Learning the tokenizer"):
        tokenizer = learn_tokenizer(data, settings)
    tokenizer.save(out)
    console.note(f"{tokenizer.kind} tokenizer with {tokenizer.vocab_size:,} tokens saved in {out}")


@command("minigpt tokenizer inspect 'The cat, 小猫' --run runs/demo")
def tokenizer_inspect(
    text: Text,
    run: Run = None,
    json: flags.AsJson = False,
) -> None:
    """Show how a text splits into tokens.

    Bars divide the pieces; a byte for which the tokenizer has no piece is shown as <F0>.
    """
    from minigpt.cli import console, tables
    from minigpt.text.load import load_tokenizer

    directory = run or find_run(None, trained=True)
    inner = directory / "tokenizer"
    tokenizer = load_tokenizer(inner if inner.is_dir() else directory)
    text = opening.valid(sys.stdin.read(), "stdin") if text == "-" else opening.valid(text, "TEXT")
    pieces = tokenizer.pieces(text)
    if json:
        rows = [{"id": i, "text": shown, "byte": single} for i, shown, single in pieces]
        console.print_json({"tokens": len(rows), "characters": len(text), "pieces": rows})
    else:
        tables.show_pieces([(tokenizer.quoted(shown), single) for _, shown, single in pieces], len(text))
        if names := tokenizer.control_names.findall(text):
            console.note(f"In a text {', '.join(dict.fromkeys(names))} is only letters, not a control token.")
