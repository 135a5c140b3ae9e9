"""The commands that look at tokenizers, data and backends: tokenizer train and inspect, data check, parity."""

import os
import sys

import typer

from minigpt.cli import common, flags
from minigpt.errors import DATA, RUNTIME, DataError, UsageError, check_name


def tokenizer_train(
    data: flags.Files,
    out: flags.Out,
    kind: flags.Kind = "bpe",
    vocab_size: flags.VocabSize = 6400,
    seed: flags.Seed = None,
) -> None:
    """Learn a tokenizer from files and save it."""
    from minigpt.cli import console
    from minigpt.config import load_config
    from minigpt.runs.pipeline import learn_tokenizer

    check_name("tokenizer kind", kind, ("bpe", "char", "byte"))
    if any((directory / "config.toml").exists() for directory in (out, out.parent)):
        raise UsageError(f"{out} belongs to a run, whose models need its own tokenizer.", "Choose another --out.")
    given = {"tokenizer": {"kind": kind, "vocab_size": vocab_size}} | ({"seed": seed} if seed is not None else {})
    settings = load_config("tiny", None, [], None, given)
    tokenizer = learn_tokenizer(data, settings)
    tokenizer.save(out)
    console.note(f"{tokenizer.kind} tokenizer with {tokenizer.vocab_size:,} tokens saved in {out}")


def tokenizer_inspect(
    text: flags.TextArgument,
    run: flags.TokenizerRun = None,
    json: flags.AsJson = False,
) -> None:
    """Show how a text splits into tokens.

    Bars divide the pieces; a byte for which the tokenizer has no piece is shown as <F0>.
    """
    from minigpt.cli import console, tables
    from minigpt.text.load import load_tokenizer

    directory = run or common.newest_run()
    inner = directory / "tokenizer"
    tokenizer = load_tokenizer(inner if inner.is_dir() else directory)
    text = common.valid(sys.stdin.read(), "stdin") if text == "-" else common.valid(text, "TEXT")
    pieces = tokenizer.pieces(text)
    if json:
        rows = [{"id": i, "text": shown, "byte": single} for i, shown, single in pieces]
        console.print_json({"tokens": len(rows), "characters": len(text), "pieces": rows})
    else:
        tables.show_pieces([(tokenizer.quoted(shown), single) for _, shown, single in pieces], len(text))
        if names := tokenizer.control_names.findall(text):
            console.note(f"In a text {', '.join(dict.fromkeys(names))} is only letters, not a control token.")


def data_check(
    data: flags.Files,
    stage: flags.CheckedStage = None,
    run: flags.CheckedRun = None,
    preset: flags.Preset = None,
    sets: flags.Sets = None,
    json: flags.AsJson = False,
) -> None:
    """Find mistakes in training data before using it.

    Shows form, rows, lengths, truncation, duplicates, bad rows as file:line, and an example with its loss mask.
    Exits with 3 when there is a bad row, at which training would stop, or no row.
    """
    from minigpt.cli import console, tables
    from minigpt.config import STAGES
    from minigpt.data.check import check
    from minigpt.data.parse.fields import RowError
    from minigpt.data.prepare import Reader
    from minigpt.runs.pipeline import learn_tokenizer, stage_of_source
    from minigpt.text.learn import train_tokenizer
    from minigpt.text.load import load_tokenizer

    downloads = common.RUNS / "downloads"
    try:
        stage = stage or stage_of_source(data[0], downloads)
    except RowError:
        stage = "pretrain"  # no row is any good: each is reported
    check_name("stage", stage, STAGES)
    settings = common.config_of(run, preset, None, sets, None, {"data": {stage: data}})
    reader = Reader(stage, settings.data, settings.seed, downloads, console.note_of)
    if run is not None:
        tokenizer = load_tokenizer(run / "tokenizer")
    else:
        try:
            tokenizer = learn_tokenizer(data, settings, stage)
        except DataError:  # without a usable row any tokenizer will do; other faults come again in check
            tokenizer = train_tokenizer("byte", [], 0)
    report = check(reader, tokenizer, settings.model.context)
    if json:
        console.print_json(report.as_dict())
    else:
        tables.show_data(report, tokenizer, settings.model.context)
    if report.bad:
        console.note("Training stops at the first bad row; with --skip-bad it leaves them out.")
    elif not report.splits:
        console.note(f"There is no text and no row in {', '.join(data)}.")
    if report.bad or not report.splits:
        raise typer.Exit(DATA)


def parity(
    backends: flags.Backends = "mlx,torch",
    quick: flags.Quick = False,
    json: flags.AsJson = False,
) -> None:
    """Compare the backends with each other, number by number.

    Operations, models, gradients and training trajectories, and known mistakes that must be caught. Exits with 1
    when a bound is broken.
    """
    from dataclasses import asdict

    os.environ.setdefault("MLX_ENABLE_TF32", "0")  # full float32 products on GPUs, before mlx is imported
    from minigpt.cli import console, tables
    from minigpt.parity.report import compare

    frameworks = [common.backend_of(name.strip(), "cpu", quiet=True) for name in backends.split(",")]
    with console.Reporter() as report:
        rows = compare(frameworks, quick, report)
    if json:
        console.print_json([asdict(row) for row in rows])
    else:
        tables.show_parity(rows)
    if not all(row.ok for row in rows):
        raise typer.Exit(RUNTIME)
