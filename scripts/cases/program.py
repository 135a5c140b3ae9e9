"""The installed program in a directory of its own: what it returned and wrote, how much memory it took."""

import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

SIZES = {
    "model.n_layer": 2, "model.d_model": 32, "model.n_head": 2, "model.n_kv_head": 1, "model.d_ff": 64,
    "model.context": 64, "tokenizer.vocab_size": 700,
}  # fmt: skip
STEPS = {"steps": 4, "batch_size": 2, "eval_every": 2, "save_every": 2, "eval_rows": 4}
LONGEST = 300.0  # seconds for one command


class Wrong(Exception):
    """What happened is not what should."""


@dataclass
class Said:
    """What a command returned and wrote; `peak` bytes of its own process (0 where the system does not tell)."""

    code: int
    out: str
    err: str
    peak: int = 0

    @property
    def words(self) -> str:
        """stderr without its line breaks."""
        return " ".join(self.err.split())


@dataclass(frozen=True)
class Program:
    """The command under test; `directory` is where it runs."""

    command: Sequence[str]
    directory: Path

    def at(self, name: str) -> "Program":
        """The same program in a new directory beside the base run."""
        place = self.directory / name
        place.mkdir(exist_ok=True)
        return replace(self, directory=place)

    def __call__(self, *words: object, stdin: str = "", home: Path | None = None, **variables: str) -> Said:
        """Run it to its end. Training runs unsupervised, so that its peak memory is its own."""
        started = self.start(*words, home=home, **variables)
        out, err = started.communicate(stdin.encode(), timeout=LONGEST)
        return Said(started.returncode, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))

    def done(self, *words: object, **more: object) -> Said:
        """The same; raises Wrong when it fails."""
        said = self(*words, **more)
        check(said.code == 0, f"{' '.join(map(str, words[:2]))} ended with {said.code}: {said.words[-200:]}")
        return said

    def start(self, *words: object, home: Path | None = None, **variables: str) -> subprocess.Popen:
        return subprocess.Popen(
            [*self.command, *map(str, words)], cwd=self.directory, env=self.environment(home, variables),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def environment(self, home: Path | None, variables: dict[str, str]) -> dict[str, str]:
        env = {key: value for key, value in os.environ.items() if key not in ("FORCE_COLOR", "COLUMNS")}
        return env | ({"HOME": str(home), "USERPROFILE": str(home)} if home else {}) | variables

    def measured(self, *words: object) -> tuple[Said, float, float]:
        """(said, seconds to the first byte of its output, seconds in all), with the peak of its memory."""
        out, err = self.directory / "out", self.directory / "err"
        began, first = time.monotonic(), 0.0
        with out.open("wb") as stdout, err.open("wb") as stderr:
            started = subprocess.Popen([*self.command, *map(str, words)], cwd=self.directory, stdout=stdout,
                                       stderr=stderr, stdin=subprocess.DEVNULL)  # fmt: skip
            peak = code = None
            while code is None:
                time.sleep(0.05)
                first = first or (time.monotonic() - began if out.stat().st_size else 0.0)
                if hasattr(os, "wait4"):
                    pid, status, usage = os.wait4(started.pid, os.WNOHANG)
                    if pid:
                        code, peak = os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024
                        started.returncode = code
                else:
                    code = started.poll()
        said = Said(code, out.read_text("utf-8"), err.read_text("utf-8"), peak or 0)
        return said, first, time.monotonic() - began

    def base(self) -> Path:
        """A whole tiny run (texts, conversations, pairs), trained once beside the rows' directories."""
        run = self.directory.parent / "base"
        if not (run / "dpo" / "final").exists():
            from cases.inputs import chats, pairs, story, write_rows

            place = self.directory.parent
            (place / "story.txt").write_text(story(), "utf-8")
            write_rows(place / "chats.jsonl", chats(60))
            write_rows(place / "pairs.jsonl", pairs(40))
            files = (part for name in ("story.txt", "chats.jsonl", "pairs.jsonl") for part in ("--data", place / name))
            self.done("run", *tiny(), *files, "--run", run, "--backend", "torch")
        return run


def tiny(**changes: object) -> list[str]:
    """Flags for a model that trains in a second; `changes` are written section__key=value."""
    values = SIZES | {f"{stage}.{key}": value for stage in ("pretrain", "sft", "dpo") for key, value in STEPS.items()}
    values |= {name.replace("__", "."): value for name, value in changes.items()}
    return ["--preset", "tiny", *(part for name, value in values.items() for part in ("--set", f"{name}={value}"))]


def check(right: bool, otherwise: str) -> None:
    """Raises Wrong with what happened instead."""
    if not right:
        raise Wrong(otherwise)
