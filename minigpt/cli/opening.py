"""What a command's flags name: the configuration, the run, the backend, the model that is to answer."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigpt.cli.flags import Faster, Settings, Where
from minigpt.errors import DataError, check_name

if TYPE_CHECKING:
    from minigpt.config import Config
    from minigpt.generate.engine import Engine
    from minigpt.runs.run import Run


def config_of(run: Path | None, given: Settings, extra: dict | None = None) -> "Config":
    """preset < the run's saved configuration < file < flags; says what an existing run hands down."""
    from minigpt.cli import console, keys
    from minigpt.config import load_config
    from minigpt.runs.run import saved_config

    keys.refuse_other_names(given.sets or [])
    saved = saved_config(run) if run is not None and given.preset is None else None
    seed = {"seed": given.seed} if given.seed is not None else None
    config = load_config(given.preset or "tiny", given.config, given.sets or [], saved, seed, extra)
    if saved is not None:
        console.note(f"Settings that are not given here come from {run / 'config.toml'} (model, tokenizer, seed, …).")
    return config


def backend_of(name: str, device: str, quiet: bool = False) -> Any:
    """The backend of that name; one that was chosen for the user is named, with the reason."""
    from minigpt.cli import console, waiting
    from minigpt.machine import choose_backend

    check_name("device", device, ("auto", "cpu", "gpu"))
    with waiting.working("Loading the framework"):
        backend, reason = choose_backend(name, device)
    if not quiet and name == "auto":
        console.note(f"Backend: {backend.name} on {backend.device} ({reason}).")
    return backend


def engine_at(
    path: Path | None, stage: str | None, where: Where, faster: Faster, role: str = "Model"
) -> tuple["Engine", str]:
    """An engine with a stage's weights, and that stage; what the user left open is said, with the model's role."""
    from minigpt import library
    from minigpt.cli import console, waiting

    source, named = path, stage
    if path is None or not library.is_exported(path):
        source, named = open_at(path, stage)
        chosen = source.chosen(named)  # complains before a framework is imported
        if path is None or named is None:
            console.note(f"{role}: {source.directory}, stage {chosen}.")
        named = chosen
    framework = backend_of(where.backend, where.device, quiet=True)
    with waiting.working("Loading the model"):
        model = library.load_model(
            source, named, bits=faster.bits, kv_bits=faster.kv_bits, backend=framework,
            report=lambda event: console.note(event.text),
        )  # fmt: skip
    return model.engine, model.stage


def open_at(path: Path | None, stage: str | None) -> tuple["Run", str | None]:
    """The run at `path`, which may also be one of its stages, a name in runs/ or `latest`, and the stage."""
    from minigpt.runs.run import run_at
    from minigpt.stages.table import STAGES

    if stage is not None:
        check_name("stage", stage, tuple(STAGES))
    run, named = run_at(path)
    return run, stage or named


def valid(text: str, where: str) -> str:
    """The text. Raises DataError when it has bytes that are not UTF-8, which arrive as lone surrogates."""
    for character in text:
        if "\udc80" <= character <= "\udcff":
            reason = f"byte 0x{ord(character) - 0xDC00:02X} is not valid UTF-8"
            raise DataError(f"{where}: {reason}.", "Convert the text first, for example with iconv -t UTF-8.")
    return text


def tell_if_untaught(engine: "Engine", stage: str) -> None:
    """Say that a model which was only pretrained was not taught to answer."""
    from minigpt.cli import console
    from minigpt.stages.table import answers

    if not answers(stage) and engine.tokenizer.kind != "imported":
        console.note("This model is only pretrained: it continues texts, it was not taught to answer.")
