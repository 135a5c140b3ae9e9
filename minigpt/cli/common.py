"""What the commands share: the configuration, the run, the backend and the model that their flags name."""

import faulthandler
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from minigpt.cli.limits import braked
from minigpt.errors import DataError, OutOfMemory, UsageError, check_name
from minigpt.machine.limits import Limits
from minigpt.runs.supervise import LESS_MEMORY, SUPERVISED

if TYPE_CHECKING:
    from minigpt.config import Config
    from minigpt.generate.engine import Engine
    from minigpt.runs.control import Control
    from minigpt.runs.run import Run

RUNS = Path("runs")


def config_of(
    run: Path | None,
    preset: str | None,
    file: Path | None,
    sets: list[str] | None,
    seed: int | None,
    extra: dict | None = None,
) -> "Config":
    """preset < the run's saved configuration < file < flags; says what an existing run hands down."""
    from minigpt.cli import console
    from minigpt.config import load_config
    from minigpt.runs.run import saved_config

    saved = saved_config(run) if run is not None and preset is None else None
    given = {"seed": seed} if seed is not None else None
    config = load_config(preset or "tiny", file, sets or [], saved, given, extra)
    if saved is not None:
        console.note(f"Settings that are not given here come from {run / 'config.toml'} (model, tokenizer, seed, …).")
    return config


@contextmanager
def training(
    directory: Path, settings: "Config", stages: Sequence[str], backend: str, device: str,
    limits: Limits | None = None, time: str | None = None,
) -> Iterator[tuple["Run", Any, Any, "Control"]]:
    """(run, backend, report, control) for a block that trains: the run is held against other processes.

    The settings of a new run are shown once, then its plan. `limits` bound what it takes of the machine, `time` how
    long it may take. Raises ResourceError when they leave too little.
    """
    from minigpt.cli import console, machine_tables, tables
    from minigpt.runs.claim import new_run
    from minigpt.runs.control import Control
    from minigpt.runs.pipeline import check_possible
    from minigpt.runs.planning import plan_of_run
    from minigpt.store.lock import locked
    from minigpt.train.stop import Stop

    watched = os.environ.pop(SUPERVISED, None)
    run = new_run(directory, settings)
    check_possible(run, stages)
    framework = backend_of(backend, device)
    run.make_directory()
    with locked(directory) as left, ExitStack() as stack:
        if left is not None:
            console.note(f"Process {left} trained here and ended without a word; what it saved is used.")
        if watched is not None:
            stack.enter_context(framework_messages(directory / "log.txt"))
        if not (directory / "config.toml").exists():
            tables.show_settings(settings, stages, directory / "config.toml")
        stop = stack.enter_context(Stop(None if watched is None else os.getppid(), console.note))
        brake = None
        if limits is not None:
            root = os.getpid() if watched is None else os.getppid()
            brake = stack.enter_context(braked(limits, framework, stop, root))
        plan = plan_of_run(run, stages, framework, limits or Limits(), time)
        for line in machine_tables.plan_lines(plan) if plan.stages else ():
            console.note(line)
        report = stack.enter_context(console.Reporter())
        control = Control(stop, watched == LESS_MEMORY, brake, plan)
        yield run, framework, control.resting(report), control


def supervised(context: typer.Context, directory: Path, wanted: bool, restarts: int) -> bool:
    """Whether another process has done the command's work: True in the parent, once the child has ended well.

    Raises typer.Exit with the child's exit code when it has not.
    """
    if not wanted or SUPERVISED in os.environ:
        return False
    from minigpt.cli import console
    from minigpt.runs.supervise import supervise

    def tell(text: str) -> None:
        console.err.show_cursor()  # a child that was killed has left it hidden
        console.note(text)

    command = [sys.executable, "-m", "minigpt", *context.obj]
    if code := supervise(command, directory / "log.txt", restarts, tell):
        raise typer.Exit(code)
    return True


@contextmanager
def framework_messages(log: Path) -> Iterator[None]:
    """Send what frameworks write to file descriptor 2 to `log`, where the supervisor looks for reasons.

    Our own messages still go to the terminal. A crash leaves Python's traceback in the log.
    """
    ours = os.dup(2)
    stderr = os.fdopen(ours, "w", buffering=1, errors="backslashreplace")
    with stderr, log.open("a", encoding="utf-8", buffering=1) as file:
        file.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} process {os.getpid()}\n")
        before, sys.stderr = sys.stderr, stderr
        os.dup2(file.fileno(), 2)
        faulthandler.enable(file)
        try:
            yield
        except OutOfMemory as error:
            file.write(f"{error.message}\n")
            raise
        finally:
            faulthandler.disable()
            stderr.flush()
            sys.stderr = before
            os.dup2(ours, 2)


def backend_of(name: str, device: str, quiet: bool = False) -> Any:
    """The backend of that name; one that was chosen for the user is named, with the reason."""
    from minigpt.cli import console
    from minigpt.machine import choose_backend

    check_name("device", device, ("auto", "cpu", "gpu"))
    backend, reason = choose_backend(name, device)
    if not quiet and name == "auto":
        console.note(f"Backend: {backend.name} on {backend.device} ({reason}).")
    return backend


def engine_at(
    path: Path | None, stage: str | None, backend: str, device: str, bits: int = 0, kv_bits: int = 0,
    role: str = "Model",
) -> tuple["Engine", str]:  # fmt: skip
    """An engine with a stage's weights, and that stage; what the user left open is said, with the model's role."""
    from minigpt.cli import console
    from minigpt.runs.loading import load_engine

    if path is not None and (path / "config.json").exists() and not (path / "config.toml").exists():
        from minigpt.exchange.importing import open_directory

        if bits or stage:
            message = f"{path} is a model's directory: it has no stages, and its weights are used as they are."
            raise UsageError(message, "Leave --bits and --stage away, or make a run of it: minigpt import.")
        return open_directory(path, backend_of(backend, device, quiet=True), kv_bits), "exported"
    run, named = open_at(path, stage)
    stage = run.weights(named)[1]  # complains before a framework is imported
    if path is None or named is None:
        console.note(f"{role}: {run.directory}, stage {stage}.")
    framework = backend_of(backend, device, quiet=True)
    return load_engine(run, stage, framework, bits, kv_bits, lambda event: console.note(event.text)), stage


def open_at(path: Path | None, stage: str | None) -> tuple["Run", str | None]:
    """The run at `path`, which may also be the directory of one of its stages."""
    from minigpt.runs.run import open_run
    from minigpt.stages.table import STAGES

    path = path or newest_run()
    if stage is not None:
        check_name("stage", stage, tuple(STAGES))
    for part in (path, path.parent):
        if part.name in STAGES and (part.parent / "config.toml").exists():
            return open_run(part.parent), stage or part.name
    return open_run(path), stage


def newest_run() -> Path:
    """The run in runs/ that was trained last."""
    found = [max(RUNS.glob(f"*/{name}"), key=_time, default=None) for name in ("*/final/state.json", "config.toml")]
    if found[0] is not None:
        return found[0].parent.parent.parent
    if found[1] is not None:
        return found[1].parent
    raise UsageError("There is no run in runs/ yet.", "Make one with minigpt demo, or name a run directory.")


def _time(path: Path) -> float:
    return path.stat().st_mtime


def either(run: Path | None, option: Path | None) -> Path | None:
    """The run, which may be an argument or a flag."""
    if run is not None and option is not None:
        raise UsageError(f"Two runs are given: {run} and --run {option}.", "Give one of them.")
    return run or option


def valid(text: str, where: str) -> str:
    """The text. Raises DataError when it has bytes that are not UTF-8, which arrive as lone surrogates."""
    for character in text:
        if "\udc80" <= character <= "\udcff":
            reason = f"byte 0x{ord(character) - 0xDC00:02X} is not valid UTF-8"
            raise DataError(f"{where}: {reason}.", "Convert the text first, for example with iconv -t UTF-8.")
    return text
