"""Runs MiniGPT and its peers one after the other, several times, and tells their ratios."""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

Figures = dict[str, float]
GIVEN = "given"  # beside the directories of all contestants: what `prepare` made for them


@dataclass(frozen=True)
class Contestant:
    """A program under comparison. `measure` runs it once, in an empty directory, and returns its figures."""

    name: str
    measure: Callable[[Path], Figures]


@dataclass(frozen=True)
class Duel:
    """One piece of work and those who do it; the first contestant is MiniGPT.

    `figures` maps what is compared to whether more of it is better. `prepare` fills a directory once, before all
    rounds, which `given` finds from a contestant's own.
    """

    work: str
    contestants: Sequence[Contestant]
    figures: dict[str, bool]
    prepare: Callable[[Path], object] = lambda directory: None


@dataclass
class Result:
    """Of one figure against one peer: the ratio in MiniGPT's favour of each round, above 1 where it is ahead.

    `ours` and `theirs` are medians. A figure that nobody else has comes without a peer and ratios.
    """

    work: str
    figure: str
    peer: str
    ours: float
    theirs: float = 0.0
    ratios: list[float] = field(default_factory=list)


def fight(duel: Duel, rounds: int) -> list[Result]:
    """Every contestant once per round, in turn, so that a busy minute of the machine hits all of them."""
    found: list[list[Figures]] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as home:
        given(Path(home, "nobody")).mkdir()
        duel.prepare(given(Path(home, "nobody")))
        for number in range(rounds):
            found.append([_once(contestant, home) for contestant in duel.contestants])
            print(f"{duel.work}: round {number + 1} of {rounds}: {found[-1]}", file=sys.stderr)
    ours = [row[0] for row in found]
    against = [
        _result(duel.work, figure, more, peer.name, ours, [row[1 + i] for row in found])
        for figure, more in duel.figures.items()
        for i, peer in enumerate(duel.contestants[1:])
    ]
    alone = [name for name in ours[0] if name not in duel.figures]
    return against + [Result(duel.work, name, "", statistics.median(row[name] for row in ours)) for name in alone]


def given(directory: Path) -> Path:
    """What was prepared for the contestant that works in `directory`."""
    return directory.parent / GIVEN


def _once(contestant: Contestant, home: str) -> Figures:
    with tempfile.TemporaryDirectory(dir=home) as directory:
        return contestant.measure(Path(directory))


def _result(work: str, figure: str, more: bool, peer: str, ours: list[Figures], theirs: list[Figures]) -> Result:
    pairs = [(a[figure], b[figure]) for a, b in zip(ours, theirs, strict=True)]
    medians = [statistics.median(side) for side in zip(*pairs, strict=True)]
    return Result(work, figure, peer, *medians, [a / b if more else b / a for a, b in pairs])


@dataclass(frozen=True)
class Finished:
    """A process that ended well: what it printed, its wall time in seconds and its largest resident memory in MB."""

    out: str
    seconds: float
    peak_mb: float


def run(command: Sequence[str | Path], directory: Path, **environment: str) -> Finished:
    """Run one process in `directory`. Raises RuntimeError with the end of its output when it fails."""
    began = time.monotonic()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as out:
        process = subprocess.Popen(
            [str(part) for part in command], cwd=directory, stdout=out, stderr=subprocess.STDOUT,
            env=os.environ | environment,
        )  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - began
        out.seek(0)
        text = out.read()
    if process.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {process.returncode}:\n{text[-3000:]}")
    return Finished(text, seconds, usage.ru_maxrss / (1024 if sys.platform == "linux" else 2**20))


def minigpt(directory: Path, *arguments: str | Path) -> Finished:
    """The `minigpt` command of this environment, in one process where it can be."""
    words = list(map(str, arguments))
    if words[0] in ("run", "train", "demo"):
        words.insert(1, "--no-supervise")
    return run([sys.executable, "-m", "minigpt", *words], directory)


def trained(run: Path, stage: str = "pretrain") -> Figures:
    """Of our run whose steps were all logged: median tokens per second, and the share of the time that data took."""
    lines = map(json.loads, (run / stage / "metrics.jsonl").read_text("utf-8").splitlines())
    steps = [line for line in lines if "seconds" in line]
    rates = [step["tokens"] / step["seconds"] for step in steps]
    waited, seconds = (sum(step[name] for step in steps) for name in ("waited", "seconds"))
    return {"tokens/s": statistics.median(rates), "loader's share": waited / seconds}


def worker(
    directory: Path, module: str, *arguments: str | Path, python: str = sys.executable
) -> tuple[Figures, Finished]:
    """A module of this folder as a process of its own; the last line that it prints is a JSON object of figures."""
    scripts = Path(__file__).resolve().parents[1]
    paths = os.pathsep.join(filter(None, [str(scripts), str(scripts.parent), os.environ.get("PYTHONPATH", "")]))
    done = run([python, "-m", f"comparisons.{module}", *arguments], directory, PYTHONPATH=paths)
    return json.loads(done.out.strip().splitlines()[-1]), done


def settings(**values: object) -> list[str]:
    """`--set` flags; names are written section__key."""
    pairs = ((name.replace("__", "."), value) for name, value in values.items())
    return [part for name, value in pairs for part in ("--set", f"{name}={_plain(value)}")]


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def machine(*packages: str, device: str = "cpu") -> dict[str, str]:
    """What the figures depend on: the processor, its cores, the GPU if one computes, and versions."""
    versions = {}
    if device != "cpu":
        from backends import get_backend

        versions["gpu"] = get_backend("torch", "gpu").runtime.versions()["device"]
    for package in ("minigpt", "torch", "mlx", *packages):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {"cpu": _cpu(), "cores": str(os.cpu_count()), "python": platform.python_version(), **versions}


def commit(checkout: Path) -> str:
    """The commit that a repository is at, with a plus when files were changed since."""
    git = ["git", "-C", str(checkout)]
    head = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True).stdout.strip()
    return head + "+" * bool(changed) if head else "commit unknown"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
