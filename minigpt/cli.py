"""The command line: a command parses, loads the configuration and calls one function. Imports nothing heavy."""

import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from minigpt import __version__, flags
from minigpt.errors import DATA, INTERRUPTED, RESOURCES, RUNTIME, USAGE, DataError, MiniGPTError, UsageError, check_name

if TYPE_CHECKING:
    from minigpt.config import Config
    from minigpt.generate.engine import Engine
    from minigpt.generate.sampling import Sampling
    from minigpt.train.run import Run


def _group(name: str | None, text: str) -> typer.Typer:
    """A group of commands. Help is plain text: without rich it is there in a tenth of a second."""
    return typer.Typer(
        name=name,
        help=text,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


app = _group("minigpt", "Make a language model from nothing, on one laptop, and understand every step.")
tokenizer_app = _group("tokenizer", "Train a tokenizer, or look at what one does.")
data_app = _group("data", "Look at training data before using it.")
app.add_typer(tokenizer_app)
app.add_typer(data_app)

RUNS = Path("runs")


@app.callback(invoke_without_command=True)
def _root(
    version: flags.Version = False,
    debug: flags.Debug = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit()


# ---- training --------------------------------------------------------------------------------------------


@app.command()
def demo(
    run: flags.RunDirectory = RUNS / "demo",
    preset: flags.Preset = None,
    config: flags.ConfigFile = None,
    sets: flags.Sets = None,
    backend: flags.BackendName = "auto",
    device: flags.Device = "auto",
    seed: flags.Seed = None,
    json: flags.AsJson = False,
) -> None:
    """The whole story on built-in data, measured.

    Tokenizer → pretrain → SFT → DPO, then conversations and a table: what did each stage change? The same
    command again shows them again.
    """
    from minigpt import console
    from minigpt.config import STAGES
    from minigpt.demo import demo as run_demo
    from minigpt.demo import demo_config

    settings = demo_config(_config(run, preset, config, sets, seed))
    opened, framework = _start(run, settings, STAGES, backend, device)
    with console.Reporter() as report:
        result = run_demo(opened, framework, report)
    if json:
        console.print_json(result)
        return
    console.show_demo(result)
    console.note(f"Talk to it:  minigpt chat {run}")


@app.command(name="run")
def run_command(
    run: flags.RunDirectory = RUNS / "default",
    data: flags.Data = None,
    preset: flags.Preset = None,
    config: flags.ConfigFile = None,
    sets: flags.Sets = None,
    backend: flags.BackendName = "auto",
    device: flags.Device = "auto",
    seed: flags.Seed = None,
    skip_bad: flags.SkipBad = False,
) -> None:
    """A whole pipeline into one run directory.

    The same command again goes on where it stopped. Each --data goes to the stage that its rows fit: texts to
    pretrain, conversations to sft, preference pairs to dpo. A configuration file can name them in [data] instead.
    """
    from minigpt import console
    from minigpt.config import STAGES
    from minigpt.train.pipeline import run_pipeline, stage_of_source

    extra = _skip_bad(skip_bad)
    by_stage: dict[str, list[str]] = {}
    for source in data or []:
        by_stage.setdefault(stage_of_source(source, run / "data" / "downloads"), []).append(source)
    extra |= by_stage
    settings = _config(run, preset, config, sets, seed, {"data": extra})
    stages = [stage for stage in STAGES if getattr(settings.data, stage)]
    if not stages:
        known = preset is not None and (run / "config.toml").exists()
        other = "leave --preset out to use the run's own settings" if known else "try minigpt demo"
        raise UsageError("There is no data to train on.", f"Give it with --data FILE, or {other}.")
    opened, framework = _start(run, settings, stages, backend, device)
    with console.Reporter() as report:
        run_pipeline(opened, framework, report, stages)
    console.note(f"Talk to it:  minigpt {'chat' if stages[-1] != 'pretrain' else 'generate'} {run}")


@app.command()
def train(
    stage: flags.Stage,
    run: flags.RunDirectory = RUNS / "default",
    data: flags.Data = None,
    preset: flags.Preset = None,
    config: flags.ConfigFile = None,
    sets: flags.Sets = None,
    backend: flags.BackendName = "auto",
    device: flags.Device = "auto",
    seed: flags.Seed = None,
    skip_bad: flags.SkipBad = False,
) -> None:
    """One stage of a run.

    It starts from the model and the settings that the run already has. The same command again goes on where it
    stopped.
    """
    from minigpt import console
    from minigpt.config import STAGES
    from minigpt.train.pipeline import run_pipeline

    check_name("stage", stage, STAGES)
    extra = _skip_bad(skip_bad) | ({stage: data} if data else {})
    settings = _config(run, preset, config, sets, seed, {"data": extra})
    opened, framework = _start(run, settings, [stage], backend, device)
    with console.Reporter() as report:
        run_pipeline(opened, framework, report, [stage])


# ---- using a model ---------------------------------------------------------------------------------------


@app.command()
def generate(
    run: flags.RunArgument = None,
    run_option: flags.RunOption = None,
    prompt: flags.Prompt = None,
    prompts: flags.Prompts = None,
    stage: flags.StageOption = None,
    max_tokens: flags.MaxTokens = 128,
    temperature: flags.Temperature = 0.8,
    top_k: flags.TopK = 0,
    top_p: flags.TopP = 1.0,
    min_p: flags.MinP = 0.05,
    repetition_penalty: flags.Penalty = 1.0,
    seed: flags.Seed = None,
    samples: flags.Samples = 1,
    chat: flags.AsChat = False,
    backend: flags.BackendName = "auto",
    device: flags.Device = "auto",
    json: flags.AsJson = False,
) -> None:
    """Continue a text, or answer one message with --chat.

    Without a prompt the text begins from nothing.
    """
    from minigpt import console
    from minigpt.generate.sampling import Sampling, with_seeds

    if prompt is not None and prompts is not None:
        raise UsageError("--prompt and --prompts exclude each other.", "Give one of them.")
    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty, seed or 0)
    texts = _prompts(prompt, prompts)
    if chat and not all(text.strip() for text in texts):
        raise UsageError("The message is empty.", "Give it with --prompt.")
    engine, _ = _engine(_either(run, run_option), stage, backend, device)
    ids = [_prompt_ids(engine, text, chat) for text in texts]
    if len(ids) == samples == 1 and not json:
        console.write("" if chat else texts[0])
        _stream(engine, ids[0], sampling, max_tokens)
        return
    answers = engine.answer_each(
        [one for one in ids for _ in range(samples)], with_seeds(sampling, samples) * len(ids), max_tokens
    )
    rows = [
        {"prompt": texts[i // samples], "answer": answer.text, "tokens": len(answer.ids), "reason": answer.reason}
        for i, answer in enumerate(answers)
    ]
    if json:
        console.print_json(rows)
        return
    for row in rows:
        console.write(f"{'' if chat else row['prompt']}{row['answer']}\n\n")


@app.command()
def chat(
    run: flags.RunArgument = None,
    run_option: flags.RunOption = None,
    stage: flags.StageOption = None,
    system: flags.System = None,
    max_tokens: flags.MaxTokens = 128,
    temperature: flags.Temperature = 0.0,
    top_k: flags.TopK = 0,
    top_p: flags.TopP = 1.0,
    min_p: flags.MinP = 0.05,
    repetition_penalty: flags.Penalty = 1.0,
    seed: flags.Seed = None,
    backend: flags.BackendName = "auto",
    device: flags.Device = "auto",
) -> None:
    """Talk to a model.

    /reset forgets the conversation, /exit or the end of the input ends it.
    """
    from minigpt import console
    from minigpt.generate.engine import chat_prompt
    from minigpt.generate.sampling import Sampling

    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty, seed or 0)
    opening = [{"role": "system", "content": _valid(system, "--system")}] if system else []
    engine, stage = _engine(_either(run, run_option), stage, backend, device)
    if stage == "pretrain":
        console.note("This model is only pretrained: it continues texts, it was not taught to answer.")
    console.note("/reset forgets the conversation, /exit ends it.")
    messages = list(opening)
    while (text := console.ask("you> ")) is not None:
        if text in ("/exit", "/quit"):
            break
        if text == "/reset":
            messages = list(opening)
            continue
        if not text.strip():
            continue
        try:
            _valid(text, "your message")
        except DataError as error:
            console.note(str(error))
            continue
        messages.append({"role": "user", "content": text})
        context = engine.model.config.context
        ids, dropped = chat_prompt(engine.tokenizer, messages, context, min(max_tokens, 64))
        if len(ids) >= context:
            console.note(f"That message has {len(ids)} tokens; the model sees {context}. Shorten it.")
            messages.pop()
            continue
        if dropped:
            console.note(f"(The context is full: the oldest {dropped} messages are forgotten.)")
        answer = _stream(engine, ids, sampling, max_tokens)
        messages.append({"role": "assistant", "content": answer})


@app.command()
def evaluate(
    run: flags.RunArgument = None,
    run_option: flags.RunOption = None,
    stage: flags.StageOption = None,
    data: flags.Data = None,
    rows: flags.Rows = None,
    tests: flags.Tests = 300,
    backend: flags.BackendName = "auto",
    device: flags.Device = "auto",
    json: flags.AsJson = False,
) -> None:
    """Measure a model on held-out data.

    Loss (nats per token), perplexity and bits per byte; after DPO how often the chosen answer is the likelier
    one; exact match for a model of the built-in world. With --data these files are measured instead.
    """
    from minigpt import console
    from minigpt.evaluate.report import evaluate_run

    opened, stage = _open(_either(run, run_option), stage)
    result = evaluate_run(opened, stage, _backend(backend, device), data or [], rows, tests)
    if json:
        console.print_json(result)
    else:
        console.show_evaluation(result)


# ---- looking at data, tokenizers and backends ------------------------------------------------------------


@tokenizer_app.command("train")
def tokenizer_train(
    data: flags.Files,
    out: flags.Out,
    kind: flags.Kind = "bpe",
    vocab_size: flags.VocabSize = 6400,
    seed: flags.Seed = None,
) -> None:
    """Learn a tokenizer from files and save it."""
    from minigpt import console
    from minigpt.config import load_config
    from minigpt.train.pipeline import learn_tokenizer

    check_name("tokenizer kind", kind, ("bpe", "char", "byte"))
    if any((directory / "config.toml").exists() for directory in (out, out.parent)):
        raise UsageError(f"{out} belongs to a run, whose models need its own tokenizer.", "Choose another --out.")
    given = {"tokenizer": {"kind": kind, "vocab_size": vocab_size}} | ({"seed": seed} if seed is not None else {})
    settings = load_config("tiny", None, [], None, given)
    tokenizer = learn_tokenizer(data, settings)
    tokenizer.save(out)
    console.note(f"{tokenizer.kind} tokenizer with {tokenizer.vocab_size:,} tokens saved in {out}")


@tokenizer_app.command("inspect")
def tokenizer_inspect(
    text: flags.TextArgument,
    run: flags.TokenizerRun = None,
    json: flags.AsJson = False,
) -> None:
    """Show how a text splits into tokens.

    Bars divide the pieces; a byte for which the tokenizer has no piece is shown as <F0>.
    """
    from minigpt import console
    from minigpt.tokenizer import load_tokenizer

    directory = run or _newest_run()
    inner = directory / "tokenizer"
    tokenizer = load_tokenizer(inner if inner.is_dir() else directory)
    text = _valid(sys.stdin.read(), "stdin") if text == "-" else _valid(text, "TEXT")
    ids = tokenizer.encode(text)
    shown = [f"<{tokenizer.token_bytes[i][0]:02X}>" if tokenizer.is_byte(i) else tokenizer.show([i]) for i in ids]
    single = [tokenizer.is_byte(i) for i in ids]
    if json:
        pieces = [{"id": i, "text": t, "byte": byte} for i, t, byte in zip(ids, shown, single, strict=True)]
        console.print_json({"tokens": len(ids), "characters": len(text), "pieces": pieces})
    else:
        console.show_pieces(list(zip(shown, single, strict=True)), len(text))


@data_app.command("check")
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
    from minigpt import console
    from minigpt.config import STAGES
    from minigpt.data.check import check
    from minigpt.data.fields import RowError
    from minigpt.data.prepare import Reader
    from minigpt.tokenizer import load_tokenizer, train_tokenizer
    from minigpt.train.pipeline import learn_tokenizer, stage_of_source

    downloads = RUNS / "downloads"
    try:
        stage = stage or stage_of_source(data[0], downloads)
    except RowError:
        stage = "pretrain"  # no row is any good: each is reported
    check_name("stage", stage, STAGES)
    settings = _config(run, preset, None, sets, None, {"data": {stage: data}})
    reader = Reader(stage, settings.data, settings.seed, downloads)
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
        console.show_data(report, tokenizer, settings.model.context)
    if report.bad:
        console.note("Training stops at the first bad row; with --skip-bad it leaves them out.")
    elif not report.splits:
        console.note(f"There is no text and no row in {', '.join(data)}.")
    if report.bad or not report.splits:
        raise typer.Exit(DATA)


@app.command()
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
    from minigpt import console
    from minigpt.parity.report import compare

    frameworks = [_backend(name.strip(), "cpu", quiet=True) for name in backends.split(",")]
    with console.Reporter() as report:
        rows = compare(frameworks, quick, report)
    if json:
        console.print_json([asdict(row) for row in rows])
    else:
        console.show_parity(rows)
    if not all(row.ok for row in rows):
        raise typer.Exit(RUNTIME)


# ---- what the commands share -----------------------------------------------------------------------------


def _config(
    run: Path | None,
    preset: str | None,
    file: Path | None,
    sets: list[str] | None,
    seed: int | None,
    extra: dict | None = None,
) -> "Config":
    """preset < the run's saved configuration < file < flags; says what an existing run hands down."""
    from minigpt import console
    from minigpt.config import load_config
    from minigpt.train.run import saved_config

    saved = saved_config(run) if run is not None and preset is None else None
    given = {"seed": seed} if seed is not None else None
    config = load_config(preset or "tiny", file, sets or [], saved, given, extra)
    if saved is not None:
        console.note(f"Settings that are not given here come from {run / 'config.toml'} (model, tokenizer, seed, …).")
    return config


def _start(run: Path, settings: "Config", stages: Sequence[str], backend: str, device: str) -> tuple["Run", Any]:
    """The run and its backend; the settings of a new run are shown once."""
    from minigpt import console
    from minigpt.train.pipeline import check_possible, new_run

    opened = new_run(run, settings)
    check_possible(opened, stages)
    framework = _backend(backend, device)
    if not (run / "config.toml").exists():
        console.show_settings(settings, stages, run / "config.toml")
    return opened, framework


def _skip_bad(skip_bad: bool) -> dict[str, Any]:
    return {"skip_bad": True} if skip_bad else {}


def _backend(name: str, device: str, quiet: bool = False) -> Any:
    from minigpt import console
    from minigpt.machine import choose_backend

    check_name("device", device, ("auto", "cpu", "gpu"))
    backend, reason = choose_backend(name, device)
    if not quiet and name == "auto":
        console.note(f"Backend: {backend.name} on {backend.device} ({reason}).")
    return backend


def _either(run: Path | None, option: Path | None) -> Path | None:
    if run is not None and option is not None:
        raise UsageError(f"Two runs are given: {run} and --run {option}.", "Give one of them.")
    return run or option


def _newest_run() -> Path:
    """The run in runs/ that was trained last."""
    found = [max(RUNS.glob(f"*/{name}"), key=_time, default=None) for name in ("*/final/state.json", "config.toml")]
    if found[0] is not None:
        return found[0].parent.parent.parent
    if found[1] is not None:
        return found[1].parent
    raise UsageError("There is no run in runs/ yet.", "Make one with minigpt demo, or name a run directory.")


def _time(path: Path) -> float:
    return path.stat().st_mtime


def _open(path: Path | None, stage: str | None) -> tuple["Run", str | None]:
    """The run at `path`, which may also be the directory of one of its stages."""
    from minigpt.config import STAGES
    from minigpt.train.run import open_run

    path = path or _newest_run()
    if stage is not None:
        check_name("stage", stage, STAGES)
    for part in (path, path.parent):
        if part.name in STAGES and (part.parent / "config.toml").exists():
            return open_run(part.parent), stage or part.name
    return open_run(path), stage


def _engine(path: Path | None, stage: str | None, backend: str, device: str) -> tuple["Engine", str]:
    from minigpt import console
    from minigpt.demo import load_engine

    run, named = _open(path, stage)
    stage = run.weights(named)[1]  # complains before a framework is imported
    if path is None or named is None:
        console.note(f"Model: {run.directory}, stage {stage}.")
    return load_engine(run, stage, _backend(backend, device, quiet=True)), stage


def _prompts(prompt: str | None, file: Path | None) -> list[str]:
    if file is None:
        return [_valid(sys.stdin.read(), "stdin") if prompt == "-" else _valid(prompt or "", "--prompt")]
    try:
        text = file.read_text("utf-8-sig", "surrogateescape")
    except OSError as error:
        message = f"The prompts in {file} cannot be read: {error.strerror}."
        raise UsageError(message, "Check the path given to --prompts.") from None
    lines = [_valid(line, f"{file}:{number}") for number, line in enumerate(text.split("\n"), 1)]
    if not any(lines):
        raise UsageError(f"{file} has no prompts.", "Write one per line.")
    return [line for line in lines if line]


def _valid(text: str, where: str) -> str:
    """The text. Raises DataError when it has bytes that are not UTF-8, which arrive as lone surrogates."""
    for character in text:
        if "\udc80" <= character <= "\udcff":
            reason = f"byte 0x{ord(character) - 0xDC00:02X} is not valid UTF-8"
            raise DataError(f"{where}: {reason}.", "Convert the text first, for example with iconv -t UTF-8.")
    return text


def _prompt_ids(engine: "Engine", text: str, chat: bool) -> list[int]:
    from minigpt.generate.engine import chat_prompt
    from minigpt.tokenizer import END_OF_TEXT

    if chat:
        messages = [{"role": "user", "content": text}]
        return chat_prompt(engine.tokenizer, messages, engine.model.config.context, 0)[0]
    return engine.tokenizer.encode(text) or [END_OF_TEXT]


def _stream(engine: "Engine", ids: list[int], sampling: "Sampling", max_tokens: int) -> str:
    """Print an answer while it is made; returns its text."""
    from minigpt import console

    pieces = []
    for piece in engine.stream(ids, sampling, max_tokens):
        pieces.append(piece)
        console.write(piece)
    console.write("\n")
    return "".join(pieces)


def main() -> None:
    """The `minigpt` command: runs the app and turns every error into one sentence and an exit code."""
    _lenient_streams()
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    usage_error = typer.BadParameter.__mro__[1]  # typer's own class for wrong flags, wherever this version keeps it
    try:
        # Not app(…): that would turn Ctrl-C and a closed pipe into exit codes without a word.
        with typer.main.get_command(app).make_context("minigpt", arguments) as context:
            context.command.invoke(context)
        sys.stdout.flush()
    except typer.Exit as done:
        sys.exit(done.exit_code)
    except MiniGPTError as error:
        if debug:
            raise
        _complain(str(error))
        sys.exit(error.exit_code)
    except usage_error as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
        else:
            _complain(_usage(error))
        sys.exit(USAGE)
    except (KeyboardInterrupt, typer.Abort):
        training = arguments[:1] in (["demo"], ["run"], ["train"])
        _complain("Interrupted." + " The same command goes on with what is finished." * training)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # the reader of stdout has gone: `minigpt … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if debug:
            raise
        where = f" {error.filename}" if error.filename else ""
        _complain(f"Cannot read or write{where}: {error.strerror or error}. Check the path, its permissions, the disk.")
        sys.exit(RESOURCES if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM) else RUNTIME)
    except Exception as error:
        if debug:
            raise
        _complain(f"Unexpected {type(error).__name__}: {error}. Run again with --debug for the details.")
        sys.exit(RUNTIME)


def _lenient_streams() -> None:
    """Bytes on stdin that are not UTF-8 become surrogates, which `_valid` finds; output never fails for a character.

    A stream that the caller has closed reads nothing and writes nowhere.
    """
    for name, mode, settings in (
        ("stdin", "r", {"encoding": "utf-8", "errors": "surrogateescape"}),
        ("stdout", "w", {"errors": "backslashreplace"}),
        ("stderr", "w", {"errors": "backslashreplace"}),
    ):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (open as long as the process)
        elif hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(**settings)


def _usage(error: Any) -> str:
    """The sentence of a wrong flag or argument, and where the help for it is."""
    words = error.format_message().replace("Input should be", "it must be").rstrip(".")
    context = getattr(error, "ctx", None)
    return f"{words}. See {context.command_path if context else 'minigpt'} --help."


def _complain(text: str) -> None:
    print(f"minigpt: {' '.join(text.split())}", file=sys.stderr)


if __name__ == "__main__":
    main()
