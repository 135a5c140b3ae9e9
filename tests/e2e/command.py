"""The command under test, in this process or as one of its own, and small data for it."""

import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from minigpt.cli import app as cli

SIZES = {
    "model.n_layer": 1, "model.d_model": 32, "model.n_head": 2, "model.n_kv_head": 1, "model.d_ff": 64,
    "model.context": 64, "tokenizer.vocab_size": 700, "data.world_texts": 120, "data.world_lessons": 0,
    "data.world_instructions": 120, "data.world_pairs": 60,
}  # fmt: skip
QUICK = "mlx"  # the backend that a new process has opened first, where it does not matter which one trains
STEPS = {"steps": 4, "batch_size": 2, "eval_every": 2, "save_every": 2, "eval_rows": 4, "log_every": 1}


def tiny(**changes: object) -> list[str]:
    """Flags for a model that trains in a second; `changes` are written section__key=value."""
    values = SIZES | {f"{stage}.{key}": value for stage in ("pretrain", "sft", "dpo") for key, value in STEPS.items()}
    values |= {name.replace("__", "."): value for name, value in changes.items()}
    return ["--preset", "tiny", *(part for name, value in values.items() for part in ("--set", f"{name}={value}"))]


@dataclass
class Result:
    """What a command returned and wrote."""

    code: int
    out: str
    err: str

    def refused(self, code: int, *words: str) -> None:
        """Asserts one sentence on stderr that holds all `words`, and no traceback."""
        complaints = [line for line in self.err.splitlines() if line.startswith("minigpt: ")]
        assert self.code == code, (self.code, self.err)
        assert len(complaints) == 1 and self.err.rstrip().endswith(complaints[0]), self.err
        assert "Traceback" not in self.err and "Unexpected" not in self.err, self.err
        whole = complaints[0].partition(" Go on with: minigpt ")[0] if code > 128 else complaints[0]
        assert whole.endswith((".", "?", "}")) or "iconv" in whole, complaints[0]
        for word in words:
            assert word in complaints[0], (word, complaints[0])


def call(*arguments: object, stdin: bytes = b"") -> Result:
    streams = io.StringIO(), io.StringIO()
    before = sys.argv, sys.stdin
    words = list(map(str, arguments))
    if words[:1] in (["demo"], ["run"], ["train"]) and words != ["train"] and not {"-h", "--help"} & set(words):
        words.insert(2 if words[0] == "train" and not words[1].startswith("-") else 1, "--no-supervise")
    sys.argv, sys.stdin = ["minigpt", *words], io.TextIOWrapper(io.BytesIO(stdin), "utf-8")
    try:
        with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
            cli.main()
        code = 0
    except SystemExit as ended:
        code = ended.code or 0
    finally:
        sys.argv, sys.stdin = before
    return Result(code, *(stream.getvalue() for stream in streams))


def environment(**changes: str) -> dict[str, str]:
    """The environment for a process of its own, without what would ask for colours."""
    kept = {key: value for key, value in os.environ.items() if key not in ("FORCE_COLOR", "NO_COLOR", "COLUMNS")}
    state = str(Path(tempfile.gettempdir()) / "minigpt-tests")  # not the user's own history of conversations
    return kept | {"OMP_NUM_THREADS": "1", "XDG_STATE_HOME": state} | changes


def process(*arguments: object, **options) -> subprocess.Popen:
    """The installed command, started."""
    script = Path(sys.executable).with_name("minigpt")
    assert script.exists(), "the package is not installed beside this Python"
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment()} | options
    return subprocess.Popen([script, *map(str, arguments)], **options)


def finished(started: subprocess.Popen) -> Result:
    out, err = started.communicate(timeout=120)
    return Result(started.returncode, (out or b"").decode(), (err or b"").decode())


# ---- data and runs -----------------------------------------------------------------------------------------


@dataclass
class Sources:
    """A text, conversations and preference pairs, as a user has them."""

    text: Path
    conversations: Path
    pairs: Path

    @property
    def flags(self) -> list[object]:
        return [part for path in (self.text, self.conversations, self.pairs) for part in ("--data", path)]


def conversation(question: str, answer: str) -> dict:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def pair(prompt: str, chosen: str, rejected: str) -> dict:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def write_rows(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


GROWING = ("log.txt", "usage.jsonl", "report.html")


def contents(directory: Path) -> dict[str, str]:
    """Path -> checksum of every file, to see that nothing was changed; but what each command adds to."""
    files = (path for path in directory.rglob("*") if path.is_file() and path.name not in GROWING)
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def weights(run: Path, stage: str) -> bytes:
    return (run / stage / "final" / "weights.safetensors").read_bytes()


def journal(run: Path, stage: str) -> list[dict]:
    return [json.loads(line) for line in (run / stage / "metrics.jsonl").read_text("utf-8").splitlines()]
