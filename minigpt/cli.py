"""The command line: a command parses, loads the configuration and calls one function. Imports nothing heavy."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minigpt import __version__
from minigpt.errors import INTERRUPTED, RUNTIME, USAGE, MiniGPTError, UsageError

if TYPE_CHECKING:
    from minigpt.config import Config
    from minigpt.generate.engine import Engine
    from minigpt.generate.sampling import Sampling
    from minigpt.train.run import Run

app = typer.Typer(
    name="minigpt",
    help="Make a language model from nothing, on one laptop, and understand every step.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
tokenizer_app = typer.Typer(help="Train a tokenizer, or look at what one does.", no_args_is_help=True)
data_app = typer.Typer(help="Look at training data before using it.", no_args_is_help=True)
app.add_typer(tokenizer_app, name="tokenizer")
app.add_typer(data_app, name="data")

RUNS = Path("runs")

Preset = Annotated[
    str | None, typer.Option("--preset", help="tiny, small or medium. Default: the run's own, else tiny.")
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="A TOML file with values that replace the preset's.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="One value, as section.key=value. Repeatable.")]
BackendName = Annotated[str, typer.Option("--backend", help="auto, mlx or torch.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or gpu.")]
RunDirectory = Annotated[Path, typer.Option("--run", help="The run directory.")]
RunArgument = Annotated[
    Path | None,
    typer.Argument(metavar="[RUN]", help="A run directory, or one of its stages. Default: the newest in runs/."),
]
StageOption = Annotated[str | None, typer.Option("--stage", help="pretrain, sft or dpo. Default: the last finished.")]
Data = Annotated[
    list[str] | None,
    typer.Option(
        "--data", help="A file, directory, glob or name (world, python-docs, tinyshakespeare, …). Repeatable."
    ),
]
Seed = Annotated[int | None, typer.Option("--seed", help="The seed of everything random.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts on stdout.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave bad rows out and count them instead of stopping.")]
MaxTokens = Annotated[int, typer.Option("--max-tokens", min=1, help="Longest answer.")]
Temperature = Annotated[float, typer.Option("--temperature", help="0 always takes the likeliest token.")]
TopK = Annotated[int, typer.Option("--top-k", help="Keep the k likeliest tokens; 0 keeps all.")]
TopP = Annotated[float, typer.Option("--top-p", help="Keep the likeliest tokens that together reach p.")]
MinP = Annotated[
    float, typer.Option("--min-p", help="Drop tokens below this share of the likeliest one's probability.")
]
Penalty = Annotated[float, typer.Option("--repetition-penalty", help="Above 1: tokens of the text so far get rarer.")]


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the full traceback of an error.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit()


# ---- training --------------------------------------------------------------------------------------------


@app.command()
def demo(
    run: RunDirectory = RUNS / "demo",
    preset: Preset = None,
    config: ConfigFile = None,
    sets: Sets = None,
    backend: BackendName = "auto",
    device: Device = "auto",
    seed: Seed = None,
    json: AsJson = False,
) -> None:
    """The whole story on bundled data: tokenizer → pretrain → SFT → DPO → conversations and a table."""
    from minigpt import console
    from minigpt.demo import demo as run_demo
    from minigpt.demo import demo_config
    from minigpt.train.pipeline import new_run

    settings = demo_config(_config(run, preset, config, sets, seed))
    framework = _backend(backend, device)
    with console.Reporter() as report:
        result = run_demo(new_run(run, settings), framework, report)
    if json:
        console.print_json(result)
        return
    console.show_demo(result)
    console.note(f"Talk to it:  minigpt chat {run}")


@app.command(name="run")
def run_command(
    run: RunDirectory = RUNS / "default",
    data: Data = None,
    preset: Preset = None,
    config: ConfigFile = None,
    sets: Sets = None,
    backend: BackendName = "auto",
    device: Device = "auto",
    seed: Seed = None,
    skip_bad: SkipBad = False,
) -> None:
    """A whole pipeline into one run directory. The same command again resumes it.

    Each --data goes to the stage that its rows fit: texts to pretrain, conversations to sft, preference pairs
    to dpo. A configuration file can name them in [data] instead.
    """
    from minigpt import console
    from minigpt.config import STAGES
    from minigpt.train.pipeline import new_run, run_pipeline, stage_of_source

    extra = _skip_bad(skip_bad)
    by_stage: dict[str, list[str]] = {}
    for source in data or []:
        by_stage.setdefault(stage_of_source(source, run / "data" / "downloads"), []).append(source)
    extra |= by_stage
    settings = _config(run, preset, config, sets, seed, {"data": extra})
    stages = [stage for stage in STAGES if getattr(settings.data, stage)]
    if not stages:
        raise UsageError("There is no data to train on.", "Give it with --data FILE, or try minigpt demo.")
    framework = _backend(backend, device)
    with console.Reporter() as report:
        run_pipeline(new_run(run, settings), framework, report, stages)
    console.note(f"Talk to it:  minigpt {'chat' if stages[-1] != 'pretrain' else 'generate'} {run}")


@app.command()
def train(
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="pretrain, sft or dpo.")],
    run: RunDirectory = RUNS / "default",
    data: Data = None,
    preset: Preset = None,
    config: ConfigFile = None,
    sets: Sets = None,
    backend: BackendName = "auto",
    device: Device = "auto",
    seed: Seed = None,
    skip_bad: SkipBad = False,
) -> None:
    """One stage of a run. A stage goes on from the model that the run already has."""
    from minigpt import console
    from minigpt.config import STAGES
    from minigpt.train.pipeline import new_run, run_pipeline

    if stage not in STAGES:
        raise UsageError(f"There is no stage {stage!r}.", f"Choose one of {', '.join(STAGES)}.")
    extra = _skip_bad(skip_bad) | ({stage: data} if data else {})
    settings = _config(run, preset, config, sets, seed, {"data": extra})
    framework = _backend(backend, device)
    with console.Reporter() as report:
        run_pipeline(new_run(run, settings), framework, report, [stage])


# ---- using a model ---------------------------------------------------------------------------------------


@app.command()
def generate(
    run: RunArgument = None,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="The text to continue; - reads stdin.")] = None,
    prompts: Annotated[Path | None, typer.Option("--prompts", help="A file with one prompt per line.")] = None,
    stage: StageOption = None,
    max_tokens: MaxTokens = 128,
    temperature: Temperature = 0.8,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    min_p: MinP = 0.05,
    repetition_penalty: Penalty = 1.0,
    seed: Seed = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Answers per prompt, with different seeds.")] = 1,
    chat: Annotated[bool, typer.Option("--chat", help="Treat the prompt as a user's message.")] = False,
    backend: BackendName = "auto",
    device: Device = "auto",
    json: AsJson = False,
) -> None:
    """Continue a text, or answer a message with --chat."""
    from minigpt import console
    from minigpt.generate.sampling import Sampling, with_seeds

    if prompt is not None and prompts is not None:
        raise UsageError("--prompt and --prompts exclude each other.", "Give one of them.")
    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty, seed or 0)
    engine, _ = _engine(run, stage, backend, device)
    texts = _prompts(prompt, prompts)
    ids = [_prompt_ids(engine, text, chat, max_tokens) for text in texts]
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
    run: RunArgument = None,
    stage: StageOption = None,
    system: Annotated[str | None, typer.Option("--system", help="A system message.")] = None,
    max_tokens: MaxTokens = 128,
    temperature: Temperature = 0.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    min_p: MinP = 0.05,
    repetition_penalty: Penalty = 1.0,
    seed: Seed = None,
    backend: BackendName = "auto",
    device: Device = "auto",
) -> None:
    """Talk to a model. /reset forgets the conversation, /exit ends it."""
    from minigpt import console
    from minigpt.generate.engine import chat_prompt
    from minigpt.generate.sampling import Sampling

    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty, seed or 0)
    engine, stage = _engine(run, stage, backend, device)
    if stage == "pretrain":
        console.note("This model is only pretrained: it continues texts, it was not taught to answer.")
    console.note("/reset forgets the conversation, /exit ends it.")
    opening = [{"role": "system", "content": system}] if system else []
    messages = list(opening)
    while (text := console.ask("you> ")) is not None:
        if text in ("/exit", "/quit"):
            break
        if text == "/reset":
            messages = list(opening)
            continue
        if not text.strip():
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
    run: RunArgument = None,
    stage: StageOption = None,
    data: Data = None,
    rows: Annotated[int | None, typer.Option("--rows", min=1, help="Only so many rows, spread evenly.")] = None,
    tests: Annotated[int, typer.Option("--tests", min=1, help="Questions per test of the built-in world.")] = 300,
    backend: BackendName = "auto",
    device: Device = "auto",
    json: AsJson = False,
) -> None:
    """Loss, perplexity and bits per byte on held-out data; exact match for a model of the built-in world."""
    from minigpt import console
    from minigpt.evaluate.report import evaluate_run

    opened, stage = _open(run, stage)
    result = evaluate_run(opened, stage, _backend(backend, device), data or [], rows, tests)
    if json:
        console.print_json(result)
    else:
        console.show_evaluation(result)


# ---- looking at data, tokenizers and backends ------------------------------------------------------------


@tokenizer_app.command("train")
def tokenizer_train(
    data: Annotated[list[str], typer.Argument(metavar="FILE…", help="Texts or rows to learn from.")],
    out: Annotated[Path, typer.Option("--out", help="The directory to write.")],
    kind: Annotated[str, typer.Option("--kind", help="bpe, char or byte.")] = "bpe",
    vocab_size: Annotated[int, typer.Option("--vocab-size", help="Tokens, with special tokens and bytes.")] = 6400,
    seed: Seed = None,
) -> None:
    """Learn a tokenizer from files and save it."""
    from minigpt import console
    from minigpt.config import load_config
    from minigpt.train.pipeline import learn_tokenizer

    settings = load_config(
        "tiny", sets=[f"tokenizer.kind={kind}", f"tokenizer.vocab_size={vocab_size}", f"seed={seed or 1}"]
    )
    tokenizer = learn_tokenizer(data, settings)
    tokenizer.save(out)
    console.note(f"{tokenizer.kind} tokenizer with {tokenizer.vocab_size:,} tokens saved in {out}")


@tokenizer_app.command("inspect")
def tokenizer_inspect(
    text: Annotated[str, typer.Argument(help="A text to split; - reads stdin.")],
    run: Annotated[Path | None, typer.Option("--run", help="A run directory or a tokenizer directory.")] = None,
    json: AsJson = False,
) -> None:
    """Show how a text splits, its tokens per character, and which pieces are single bytes."""
    from minigpt import console
    from minigpt.tokenizer import load_tokenizer

    directory = run or _newest_run()
    inner = directory / "tokenizer"
    tokenizer = load_tokenizer(inner if inner.is_dir() else directory)
    text = sys.stdin.read() if text == "-" else text
    ids = tokenizer.encode(text)
    if json:
        pieces = [{"id": i, "text": tokenizer.show([i]), "byte": tokenizer.is_byte(i)} for i in ids]
        console.print_json({"tokens": len(ids), "characters": len(text), "pieces": pieces})
    else:
        console.show_pieces(tokenizer, ids, text)


@data_app.command("check")
def data_check(
    data: Annotated[list[str], typer.Argument(metavar="FILE…", help="Files, directories, globs or names.")],
    stage: Annotated[
        str | None, typer.Option("--stage", help="pretrain, sft or dpo. Default: what the rows fit.")
    ] = None,
    run: Annotated[Path | None, typer.Option("--run", help="A run whose tokenizer and context are used.")] = None,
    preset: Preset = None,
    sets: Sets = None,
    json: AsJson = False,
) -> None:
    """Form, rows, lengths, truncation, duplicates, bad rows as file:line, and an example with its loss mask."""
    from minigpt import console
    from minigpt.config import STAGES
    from minigpt.data.check import check
    from minigpt.data.prepare import Reader
    from minigpt.errors import DATA
    from minigpt.tokenizer import load_tokenizer
    from minigpt.train.pipeline import learn_tokenizer, stage_of_source

    downloads = RUNS / "downloads"
    stage = stage or stage_of_source(data[0], downloads)
    if stage not in STAGES:
        raise UsageError(f"There is no stage {stage!r}.", f"Choose one of {', '.join(STAGES)}.")
    settings = _config(run or Path("no-run"), preset, None, sets, None, {"data": {stage: data}})
    tokenizer = load_tokenizer(run / "tokenizer") if run else learn_tokenizer(data, settings, stage)
    reader = Reader(stage, settings.data, settings.seed, downloads)
    report = check(reader, tokenizer, settings.model.context)
    if json:
        console.print_json(report.as_dict())
    else:
        console.show_data(report, tokenizer, settings.model.context)
    if not report.splits or (report.bad and not report.splits.total()):
        raise typer.Exit(DATA)


@app.command()
def parity(
    backends: Annotated[str, typer.Option("--backends", help="Two or more, separated by commas.")] = "mlx,torch",
    quick: Annotated[bool, typer.Option("--quick", help="Leave out the 20-step training trajectories.")] = False,
    json: AsJson = False,
) -> None:
    """Both backends side by side: operations, gradients, training trajectories. Exits 1 when a bound is broken."""
    import os

    os.environ.setdefault("MLX_ENABLE_TF32", "0")  # full float32 products on GPUs, before mlx is imported
    from minigpt import console
    from minigpt.parity.report import compare

    frameworks = [_backend(name.strip(), "cpu", quiet=True) for name in backends.split(",")]
    with console.Reporter() as report:
        rows = compare(frameworks, quick, report)
    if json:
        console.print_json([row.as_dict() for row in rows])
    else:
        console.show_parity(rows)
    if not all(row.ok for row in rows):
        raise typer.Exit(RUNTIME)


# ---- what the commands share -----------------------------------------------------------------------------


def _config(
    run: Path,
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

    saved = saved_config(run) if preset is None else None
    flags = {"seed": seed} if seed is not None else None
    config = load_config(preset or "tiny", file, sets or [], saved, flags, extra)
    if saved is not None:
        console.note(f"Settings that are not given here come from {run / 'config.toml'} (model, tokenizer, seed, …).")
    return config


def _skip_bad(skip_bad: bool) -> dict[str, Any]:
    return {"skip_bad": True} if skip_bad else {}


def _backend(name: str, device: str, quiet: bool = False) -> Any:
    from minigpt import console
    from minigpt.machine import choose_backend

    if device not in ("auto", "cpu", "gpu"):
        raise UsageError(f"There is no device {device!r}.", "Choose auto, cpu or gpu.")
    backend, reason = choose_backend(name, device)
    if not quiet and name == "auto":
        console.note(f"Backend: {backend.name} on {backend.device} ({reason}).")
    return backend


def _newest_run() -> Path:
    found = sorted(RUNS.glob("*/config.toml"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UsageError("There is no run in runs/ yet.", "Make one with minigpt demo, or name a run directory.")
    return found[-1].parent


def _open(path: Path | None, stage: str | None) -> tuple["Run", str | None]:
    """The run at `path`, which may also be the directory of one of its stages."""
    from minigpt.config import STAGES
    from minigpt.train.run import open_run

    path = path or _newest_run()
    if stage is not None and stage not in STAGES:
        raise UsageError(f"There is no stage {stage!r}.", f"Choose one of {', '.join(STAGES)}.")
    for part in (path, path.parent):
        if part.name in STAGES and (part.parent / "config.toml").exists():
            return open_run(part.parent), stage or part.name
    return open_run(path), stage


def _engine(path: Path | None, stage: str | None, backend: str, device: str) -> tuple["Engine", str]:
    from minigpt.demo import load_engine

    run, stage = _open(path, stage)
    stage = stage or (run.finished_stages() or [None])[-1]
    run.weights(stage)  # complains before a framework is imported
    return load_engine(run, stage, _backend(backend, device, quiet=True)), stage


def _prompts(prompt: str | None, file: Path | None) -> list[str]:
    if file is not None:
        try:
            lines = [line for line in file.read_text("utf-8").splitlines() if line]
        except (OSError, UnicodeDecodeError) as error:
            message = f"The prompts in {file} cannot be read: {error}."
            raise UsageError(message, "Check the path given to --prompts.") from None
        if not lines:
            raise UsageError(f"{file} has no prompts.", "Write one per line.")
        return lines
    return [sys.stdin.read() if prompt == "-" else prompt or ""]


def _prompt_ids(engine: "Engine", text: str, chat: bool, max_tokens: int) -> list[int]:
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
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    usage_error = typer.BadParameter.__mro__[1]  # typer's own class for wrong flags, wherever this version keeps it
    try:
        sys.exit(app(arguments, standalone_mode=False) or 0)
    except MiniGPTError as error:
        if debug:
            raise
        _complain(str(error))
        sys.exit(error.exit_code)
    except usage_error as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
        else:
            _complain(f"{error.format_message()} See minigpt --help.")
        sys.exit(USAGE)
    except (KeyboardInterrupt, typer.Abort):
        _complain("Interrupted. The same command goes on from the last saved checkpoint.")
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:
        if debug:
            raise
        _complain(f"Unexpected {type(error).__name__}: {error}. Run again with --debug for the details.")
        sys.exit(RUNTIME)


def _complain(text: str) -> None:
    print(f"minigpt: {' '.join(text.split())}", file=sys.stderr)


if __name__ == "__main__":
    main()
