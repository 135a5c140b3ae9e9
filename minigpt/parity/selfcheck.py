"""What holds on this machine, line by line, as a block that can be pasted into an issue without personal data.

Each fact is measured in a process of its own, which may die or hang: the others are stated all the same.
"""

import getpass
import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from minigpt import __version__
from minigpt.events import Progress, Report
from minigpt.machine import tools
from minigpt.machine.description import Machine
from minigpt.units import gigabytes

# What the process runs: its last line is the answer, those before are a framework's own words.
CODE = (
    "import json, os, sys; os.dup2(1, 2); from minigpt.parity import selfcheck; "
    "sys.stdout.write('\\n' + json.dumps(selfcheck.measured(*{!r})))"
)
TIMEOUT = 300.0  # seconds that one fact may take
NAMES = ("operations", "models", "planted mistakes", "training", "bfloat16", "4 bits", "decode", "plan",
         "memory ceiling", "throttle")  # fmt: skip


@dataclass(frozen=True)
class Line:
    """A fact: `verdict` is ok, failed or skipped."""

    name: str
    verdict: str
    said: str
    seconds: float


Ask = Callable[[Sequence[str], float], str]  # (command, seconds) -> what it prints


def check(backend: str, device: str, report: Report, names: Iterable[str] = NAMES, ask: Ask = tools.run) -> list[Line]:
    """The facts of `names` on a backend's device ("auto", "cpu" or "gpu"), one after the other."""
    names, lines = list(names), []
    for number, name in enumerate(names):
        report(Progress(f"checking {name}", number, len(names)))
        lines.append(_line(name, backend, device, ask))
        report(Progress(f"checking {name}", number + 1, len(names), finished=True))
    return lines


def _line(name: str, backend: str, device: str, ask: Ask) -> Line:
    began = time.monotonic()
    said = ask([sys.executable, "-c", CODE.format((name, backend, device))], TIMEOUT)
    seconds = time.monotonic() - began
    try:
        verdict, told = json.loads(said.strip().splitlines()[-1])
    except (IndexError, ValueError, TypeError):
        words = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "")
        late = f"it was ended after {TIMEOUT:.0f} s" if seconds > TIMEOUT - 1 else "its process died"
        verdict, told = "failed", f"{late} without an answer{f': {words[:200]}' if words else ''}"
    return Line(name, verdict, impersonal(told), seconds)


def measured(name: str, backend: str, device: str) -> tuple[str, str]:
    """(verdict, sentence) of one fact, measured in this process."""
    os.environ.setdefault("MLX_ENABLE_TF32", "0")  # full float32 products on GPUs, before mlx is imported
    from backends import get_backend
    from minigpt.machine import share_processors
    from minigpt.parity.facts import FACTS, Unable, Wrong

    try:
        share_processors()
        return "ok", FACTS[name](get_backend(backend, device))
    except Unable as reason:
        return "skipped", str(reason)
    except Wrong as reason:
        return "failed", str(reason)
    except Exception as error:  # whatever it is, it is what this line has to say
        first = (str(error).splitlines() or [""])[0]
        return "failed", f"{type(error).__name__}: {first[:300]}"


def block(machine: Machine, backend: str, device: str, versions: dict[str, str], lines: Sequence[Line]) -> str:
    """The facts as one block of text, with what must be known of the machine and nothing of its owner."""
    kinds = [(machine.performance_cores, "performance"), (machine.efficiency_cores, "efficiency")]
    split = ", ".join(f"{count} {kind}" for count, kind in kinds if count)
    gpu = machine.gpu and f"{machine.gpu}{f', {machine.gpu_cores} cores' if machine.gpu_cores else ''}"
    memory = gigabytes(machine.usable_memory) if machine.usable_memory else "?"
    software = [f"Python {platform.python_version()} ({machine.python_architecture})",
                *(f"{name} {version}" for name, version in versions.items() if name in ("mlx", "torch"))]  # fmt: skip
    facts = {
        "minigpt": f"{__version__}, check on {backend} {device}",
        "system": f"{machine.system} {machine.version}".strip(), "chip": machine.chip,
        "cores": f"{machine.cores or '?'}{f' ({split})' if split else ''}, {machine.usable_cores:g} usable",
        "memory": memory, "GPU": gpu, "power": machine.power, "low power": "on" if machine.low_power else "",
        "heat": machine.thermal, "software": ", ".join(software),
    }  # fmt: skip
    head = [f"{name}: {value}" for name, value in facts.items() if value]
    width = max((len(line.name) for line in lines), default=0)
    rows = [f"{line.verdict:<7} {line.name:<{width}}  {impersonal(line.said)} ({line.seconds:.0f} s)" for line in lines]
    return "\n".join(["```", *head, "", *rows, "```", ""])


def impersonal(text: str) -> str:
    """The text without paths, the user's and the machine's name."""
    text = re.sub(r"(?<![\w.])(?:[A-Za-z]:\\|\\\\|/)[^\s'\":;,)]*[\\/][^\s'\":;,)]*", "PATH", text)
    for secret in {str(Path.home()), os.getcwd(), platform.node(), platform.node().split(".")[0], _user()}:
        if len(secret) > 1:
            text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(secret)}(?![A-Za-z0-9])", "…", text)
    return text


def _user() -> str:
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):  # an account without a name
        return ""
