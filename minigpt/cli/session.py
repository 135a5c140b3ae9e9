"""What demo, run and train share: the process that trains, its run held against others, and who watches it."""

import atexit
import faulthandler
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from minigpt.cli.flags import Follow, Watched, Where
from minigpt.cli.language import spoken
from minigpt.cli.launching import backend_named, launch_command, launched_by
from minigpt.cli.limits import braked
from minigpt.cli.opening import backend_of
from minigpt.errors import MiniGPTError, OutOfMemory
from minigpt.machine.limits import Limits
from minigpt.runs.finding import is_run
from minigpt.runs.supervise import LESS_MEMORY, PARENT, SUPERVISED

if TYPE_CHECKING:
    from minigpt.config import Config
    from minigpt.events import Report
    from minigpt.runs.control import Control
    from minigpt.runs.run import Run


@contextmanager
def training(
    directory: Path, settings: "Config", stages: Sequence[str], where: Where, limits: Limits | None = None,
    time: str | None = None, follow: Follow | None = None, verbose: bool = True,
) -> Iterator[tuple["Run", Any, Any, "Control"]]:
    """(run, backend, report, control) for a block that trains: the run is held against other processes.

    The settings of a new run are shown once (if `verbose`), then its plan. `limits` bound what it takes of the machine,
    `time` how long it may take. Raises ResourceError when they leave too little.
    """
    from minigpt.cli import console, machine_tables, reporter, tables, waiting
    from minigpt.events import silent
    from minigpt.runs.claim import new_run
    from minigpt.runs.control import Control
    from minigpt.runs.group import alone, joined
    from minigpt.runs.pipeline import check_possible, check_processes
    from minigpt.runs.planning import plan_of_run
    from minigpt.store.lock import locked
    from minigpt.train.stop import Stop

    follow = follow or Follow()
    speech = spoken(follow.lang)
    watched = os.environ.pop(SUPERVISED, None)
    parent, rank = int(os.environ.pop(PARENT, os.getppid())), 0
    if found := launched_by():
        parent, rank = os.getppid(), found.rank  # the launcher, whose processes count together
    run = new_run(directory, settings)
    check_possible(run, stages)
    framework = backend_of(found.backend if found and where.backend == "auto" else where.backend, where.device)
    run.make_directory()
    with ExitStack() as stack:
        left = stack.enter_context(locked(directory)) if rank == 0 else None
        if rank == 0:
            stack.enter_context(story(directory / "log.txt", stages))
        if left is not None:
            console.note(f"Process {left} trained here and ended without a word; what it saved is used.")
        if watched is not None:
            stack.enter_context(framework_messages(directory / "log.txt"))
        same = {"stages": list(stages), "settings": settings.model_dump(mode="json")}
        group = stack.enter_context(joined(directory, framework, same, console.aloud))
        check_processes(settings, stages, framework)
        if group.size > 1:
            console.note(f"{group.size} processes train together, started by {found.launcher}.")
        if verbose and not is_run(directory):
            tables.show_settings(settings, stages, directory / "config.toml")
        unwatched = watched is None and found is None
        stop = stack.enter_context(Stop(None if unwatched else parent, console.note))
        brake = None
        if limits is not None:
            root = os.getpid() if unwatched else parent
            brake = stack.enter_context(braked(limits, framework, stop, root))
        plan, report = None, silent
        if group.rank == 0:
            with waiting.working("Planning: how much memory and time this takes here"), alone(framework):
                plan = plan_of_run(run, stages, framework, limits or Limits(), time, group.size)
            for line in machine_tables.plan_lines(plan) if plan.stages else ():
                console.note(line)
            report = stack.enter_context(followed(run, stack.enter_context(reporter.Reporter(speech)), follow))
        control = Control(stop, watched == LESS_MEMORY, brake, plan)
        yield run, framework, control.resting(report), control
    if rank:
        raise typer.Exit()  # the first process tells the rest


@contextmanager
def followed(run: "Run", report: "Report", follow: Follow) -> Iterator["Report"]:
    """The report with those that keep usage.jsonl, write TensorBoard's files and log to a tracker."""
    from minigpt.watch.tensorboard import TensorBoard
    from minigpt.watch.trackers import all_of, tracker
    from minigpt.watch.usage import UsageJournal

    reports = [report, UsageJournal(run.directory)] + [TensorBoard(run.directory)] * follow.tensorboard
    if follow.track is None:
        yield all_of(reports)
        return
    logged = tracker(follow.track, run.directory, run.config.model_dump(mode="json"))
    try:
        yield all_of([*reports, logged])
    finally:
        logged.finish()


def live_page(directory: Path, lang: str | None) -> None:
    """Start the live page in a process of its own, which ends with this one."""
    command = [sys.executable, "-m", "minigpt", "watch", str(directory), "--wait", *(["--lang", lang] if lang else [])]
    atexit.register(subprocess.Popen(command).terminate)


def supervised(
    context: typer.Context, directory: Path, watched: Watched, follow: Follow | None, where: Where
) -> bool:
    """Whether another process has done the command's work: True in the parent, once the child has ended well.

    With several processes the child is their launcher, and they come here again.

    With `follow.watch` the live page is started. Raises typer.Exit with the child's exit code when it has not.
    """
    from minigpt.cli import console

    found = launched_by()
    if found and found.rank:
        console.hush()
    elif follow is not None and follow.watch and SUPERVISED not in os.environ:
        live_page(directory, follow.lang)
    if found or SUPERVISED in os.environ or (not watched.supervise and watched.processes == 1):
        return False
    from minigpt.runs.supervise import supervise

    def tell(text: str) -> None:
        console.err.show_cursor()  # a child that was killed has left it hidden
        if directory.is_dir():
            with (directory / "log.txt").open("a", encoding="utf-8") as file, console.logged(file):
                console.note(text)
        else:
            console.note(text)

    command, count = [sys.executable, "-m", "minigpt", *context.obj], watched.processes
    if count > 1:
        command = launch_command(backend_named(where.backend), count, ["-m", "minigpt", *context.obj])
    restarts = watched.restarts if watched.supervise else 0
    if code := supervise(command, directory / "log.txt", restarts, tell, count):
        raise typer.Exit(code)
    return True


@contextmanager
def story(log: Path, stages: Sequence[str]) -> Iterator[None]:
    """What is said in the block is kept in `log`, with the error that ends it."""
    from minigpt.cli import console

    with log.open("a", encoding="utf-8", errors="backslashreplace") as file, console.logged(file):
        console.log(f"training of {', '.join(stages)}")
        try:
            yield
        except MiniGPTError as error:
            console.log(str(error))
            raise
        except BaseException as error:
            console.log(f"ended by {type(error).__name__} {error}".rstrip())
            raise


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
