"""mlx-lm's own commands on an export: mlx_lm.generate, mlx_lm.server, mlx_lm.lora and mlx_lm.fuse."""

import json
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from ordeals.ordeal import Outcome

from backends import get_backend
from exchange.small import engine, exported
from minigpt.exchange.importing import open_directory
from minigpt.generate.sampling import GREEDY
from minigpt.text.chatml import render

PROMPTS = ("Hello!", "How many plums are there?", "她在哪里？", "Finish the story: Tom was angry.")
TOKENS = 20


def generate(directory: Path, scale: float) -> list[Outcome]:
    """The text that `mlx_lm.generate` prints for a prompt, and our greedy answer."""
    outcome = Outcome("mlx_lm.generate: the text of a greedy answer")
    model = exported(directory)
    for prompt in PROMPTS:
        said = _command("generate", "--model", model, "--prompt", prompt, "--max-tokens", TOKENS, "--temp", 0)
        parts = said.stdout.split("==========\n")
        outcome.check(len(parts) == 3 and parts[1].strip("\n") == _ours(prompt).strip("\n"), _tail(said))
    return [outcome]


def server(directory: Path, scale: float) -> list[Outcome]:
    """The answer of `mlx_lm.server` to a chat request, and ours."""
    outcome = Outcome("mlx_lm.server: an answer of /v1/chat/completions")
    with _served(exported(directory)) as address:
        for prompt in PROMPTS:
            request = {"messages": [{"role": "user", "content": prompt}], "max_tokens": TOKENS, "temperature": 0}
            reply = _post(f"{address}/v1/chat/completions", request)
            said = reply["choices"][0]["message"]["content"]
            outcome.check(said == _ours(prompt), f"{said!r} instead of {_ours(prompt)!r}")
    return [outcome]


def lora_and_fuse(directory: Path, scale: float) -> list[Outcome]:
    """`mlx_lm.lora` trains on an export, `mlx_lm.fuse` merges, and what comes out opens here with the same logits."""
    data, adapter, fused, model = (directory / name for name in ("data", "adapter", "fused", "model"))
    model = exported(directory)
    data.mkdir()
    row = {"messages": [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A red plum."}]}
    for name in ("train", "valid"):
        (data / f"{name}.jsonl").write_text((json.dumps(row) + "\n") * 8, "utf-8")
    trains = Outcome("mlx_lm.lora: trains on an export")
    settings = ["--iters", 20, "--batch-size", 2, "--num-layers", 1, "--learning-rate", 1e-2, "--steps-per-eval", 10]
    said = _command("lora", "--train", "--model", model, "--data", data, "--adapter-path", adapter, *settings)
    losses = [float(loss) for loss in re.findall(r"\bval\s+([0-9.]+)", re.sub(r"\x1b\[[0-9;]*m", "", said.stdout))]
    trains.check(len(losses) > 1 and losses[-1] < losses[0], _tail(said))
    trains.note = f"validation loss {losses[0]:.2f} to {losses[-1]:.2f}" if losses else ""
    fuses = Outcome("mlx_lm.fuse: what it writes opens in minigpt, logits within 1e-4")
    said = _command("fuse", "--model", model, "--adapter-path", adapter, "--save-path", fused)
    theirs = _mlx_logits(model, adapter) if said.returncode == 0 else None
    ours = open_directory(fused, get_backend("torch", "cpu")) if said.returncode == 0 else None
    if theirs is None or ours is None:
        fuses.check(False, _tail(said))
        return [trains, fuses]
    logits = ours.model.backend.numpy(ours.model(ours.weights, ours.model.backend.array(_ids())))
    difference = float(np.abs(logits - theirs).max())
    untrained = float(np.abs(logits - _mlx_logits(model, None)).max())
    fuses.check(difference < 1e-4 < untrained, f"{difference:.1e} (to the model before: {untrained:.1e})")
    fuses.note = f"largest difference {difference:.1e}, to the model before {untrained:.1e}"
    return [trains, fuses]


def _mlx_logits(model: Path, adapter: Path | None) -> np.ndarray:
    backend = get_backend("mlx", "cpu")
    import mlx_lm

    loaded, _ = mlx_lm.load(str(model), adapter_path=None if adapter is None else str(adapter))
    return backend.numpy(loaded(backend.array(_ids())))


def _ids() -> np.ndarray:
    return np.random.default_rng(3).integers(32, 400, (1, 60)).astype(np.int32)


def _ours(prompt: str) -> str:
    ready = engine()
    ids = render(ready.tokenizer, [{"role": "user", "content": prompt}], True)[0]
    return ready.answer([ids], GREEDY, TOKENS)[0].text


def _command(name: str, *arguments: object) -> subprocess.CompletedProcess:
    script = Path(sys.executable).with_name(f"mlx_lm.{name}")
    return subprocess.run([script, *map(str, arguments)], capture_output=True, text=True, timeout=600)


def _tail(said: subprocess.CompletedProcess) -> str:
    return f"exit code {said.returncode}: {(said.stdout + said.stderr)[-400:]!r}"


@contextmanager
def _served(model: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = Path(sys.executable).with_name("mlx_lm.server")
    command = [script, "--model", model, "--port", port, "--host", "127.0.0.1"]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def _wait_for(address: str, process: subprocess.Popen, longest: float = 120) -> None:
    until = time.monotonic() + longest
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise RuntimeError(f"mlx_lm.server did not answer within {longest:.0f} s")


def _post(address: str, content: dict) -> dict:
    body = json.dumps(content).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as reply:
        return json.load(reply)
