"""Rows and configurations that nobody would write on purpose: each gets a sentence, none a traceback."""

import contextlib
import io
import json
import random
import sys
from pathlib import Path

from minigpt.cli import app as cli
from minigpt.config import PRESETS, Config, preset_values

from .ordeal import Outcome, count

ROWS_PER_FILE = 20
TEXTS = ["", " ", "Hello.", "中文", "\ud800", "\x00", "<|im_end|>", "x" * 5000, "🙂", "\u2028", "a\nb", "NaN"]
VALUES = [None, True, False, 0, -1, 1.5, 1e308, 10**30, [], {}, [[]], [None], "", "text", ["a"], {"role": "user"}]
ROWS = [
    {"text": "Once upon a time."},
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]},
    {"prompt": "Hi", "completion": "Hello!"},
    {"instruction": "Add.", "input": "1 1", "output": "2"},
    {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]},
    {"conversations": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]},
    {"prompt": "Hi", "chosen": "Hello!", "rejected": "No."},
    {"chosen": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}],
     "rejected": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "No."}]},
]  # fmt: skip


def rows(directory: Path, backends: list[str], scale: float, seed: int) -> list[Outcome]:
    """`minigpt data check` over files of rows that were changed at random: exit 0 or 3."""
    rng, outcome = random.Random(seed), Outcome("fuzzed data rows")
    bad = 0
    for number in range(count(2000 // ROWS_PER_FILE, scale)):
        path = directory / f"{number}{rng.choice(['.jsonl', '.jsonl', '.json', '.csv'])}"
        lines = [_damaged(json.dumps(_mutated(rng, rng.choice(ROWS))), rng) for _ in range(ROWS_PER_FILE)]
        if path.suffix == ".json":
            lines = ["[" + ",\n".join(line.decode("utf-8", "surrogateescape") for line in lines) + "]"]
            lines = [line.encode("utf-8", "surrogateescape") for line in lines]
        path.write_bytes(b"\n".join(lines))
        code, said = _run("data", "check", path, "--set", "tokenizer.kind='byte'")
        bad += code == 3
        outcome.tried += ROWS_PER_FILE
        outcome.lost += [] if code in (0, 3) and _calm(said) else [f"{path.name}: {code} {said[-300:]}"]
    outcome.note = f"{outcome.tried // ROWS_PER_FILE} files; {bad} held bad rows, named as file:line"
    return [outcome]


def configurations(directory: Path, backends: list[str], scale: float, seed: int) -> list[Outcome]:
    """`minigpt train` with files and --set that were changed at random, and no data: exit 2, nothing written."""
    rng, outcome = random.Random(seed), Outcome("fuzzed configurations")
    for number in range(count(200, scale)):
        path = directory / f"{number}.toml"
        values = _mutated(rng, preset_values(rng.choice(PRESETS)))
        path.write_bytes(_damaged(_toml(values), rng))
        key = rng.choice([*Config.model_fields, "model.d_model", "sft.steps", "x", "", "a.b.c", "pretrain.=", "model"])
        setting = f"{key}={rng.choice(VALUES + TEXTS)!r}".encode("utf-8", "replace").decode()
        run = directory / "run"
        code, said = _run("train", "pretrain", "--config", path, "--run", run, "--set", setting, "--no-supervise")
        outcome.check(code == 2 and _calm(said) and not run.exists(), f"{path.name}, {setting}: {code} {said[-300:]}")
    return [outcome]


def _mutated(rng: random.Random, value: object, depth: int = 0) -> object:
    """The value with a part of it replaced, renamed or removed, now and then."""
    chance = rng.random()
    if chance < 0.06:
        return rng.choice(VALUES)
    if isinstance(value, dict):
        items = [(key, _mutated(rng, item, depth + 1)) for key, item in value.items() if rng.random() > 0.05]
        return {(key + rng.choice("x_ ") if rng.random() < 0.05 else key): item for key, item in items}
    if isinstance(value, list):
        return [_mutated(rng, item, depth + 1) for item in value] * rng.choice([1, 1, 1, 0, 2])
    if isinstance(value, str) and chance < 0.25:
        return rng.choice(TEXTS)
    return value


def _damaged(text: str, rng: random.Random) -> bytes:
    """The bytes of a text, one time in eight cut off, or with bytes that do not belong there."""
    data = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.875 or not data:
        return data
    place = rng.randrange(len(data))
    wrong = bytes(rng.randrange(256) for _ in range(3))
    return rng.choice([data[:place], data[:place] + wrong + data[place:], data.replace(b'"', b"'"), b"[" * 2000])


def _toml(values: object) -> str:
    """TOML, or what looks like it: the values may be of any kind."""
    if not isinstance(values, dict):
        return f"{values!r}"
    lines = []
    for name, section in values.items():
        if isinstance(section, dict):
            lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in section.items())]
        else:
            lines.insert(0, f"{name} = {json.dumps(section)}")
    return "\n".join(lines)


def _run(*arguments: object) -> tuple[int, str]:
    """The command in this process: (exit code, what it wrote)."""
    said, before = io.StringIO(), sys.argv
    sys.argv = ["minigpt", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            cli.main()
        code = 0
    except SystemExit as ended:
        code = ended.code or 0
    finally:
        sys.argv = before
    return code, said.getvalue()


def _calm(said: str) -> bool:
    return "Traceback" not in said and "Unexpected" not in said
