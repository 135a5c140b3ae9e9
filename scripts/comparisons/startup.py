"""From the command to its end: what a user waits for when there is next to nothing to do."""

import argparse
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from comparisons.duel import Contestant, Duel, Figures, given, run, worker

TIMES = 5
ALONE = {
    "python -c 'import minigpt'": [sys.executable, "-c", "import minigpt"],
    "minigpt --version": [sys.executable, "-m", "minigpt", "--version"],
    "minigpt doctor": [sys.executable, "-m", "minigpt", "doctor"],
    "minigpt plan": [sys.executable, "-m", "minigpt", "plan", "--preset", "tiny"],
}
TRANSFORMERS = """
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained("hf")
model = AutoModelForCausalLM.from_pretrained("hf")
ids = tokenizer("hello", return_tensors="pt")
print(tokenizer.decode(model.generate(**ids, max_new_tokens=8)[0]))
"""


def startup() -> Iterator[Duel]:
    """Help and eight tokens from the tiny model against the peers' commands; then commands that they do not have."""
    peers = {name: [Path(sys.executable).with_name(name), "--help"] for name in ("mlx_lm.generate", "trl")}
    yield _duel("minigpt --help", {"MiniGPT": [sys.executable, "-m", "minigpt", "--help"]} | peers)
    yield _duel(
        "8 tokens, torch",
        {"MiniGPT": generate("torch"), "transformers": [sys.executable, "-c", TRANSFORMERS]},
    )
    mlx_lm = [Path(sys.executable).with_name("mlx_lm.generate"), "--model", "hf", "--prompt", "hello"]
    yield _duel("8 tokens, MLX", {"MiniGPT": generate("mlx"), "mlx_lm.generate": [*mlx_lm, "--max-tokens", "8"]})
    for name, command in ALONE.items():
        yield _duel(name, {"MiniGPT": command})


def generate(backend: str) -> list[str]:
    words = ["generate", "run", "--prompt", "hello", "--max-tokens", "8", "--backend", backend]
    return [sys.executable, "-m", "minigpt", *words]


def _duel(work: str, commands: dict[str, Sequence[str | Path]]) -> Duel:
    contestants = [_contestant(name, command) for name, command in commands.items()]
    figures = {"seconds": False} if len(commands) > 1 else {}
    return Duel(f"start: {work}", contestants, figures, lambda directory: worker(directory, "startup"))


def _contestant(name: str, command: Sequence[str | Path]) -> Contestant:
    def measure(directory: Path) -> Figures:
        times = [run(command, given(directory), HF_HUB_OFFLINE="1").seconds for _ in range(TIMES)]
        return {"seconds": statistics.median(times)}

    return Contestant(name, measure)


def prepare() -> None:
    """Here: a finished run of the tiny preset's shape with random weights, and its export."""
    from comparisons.start import exported, llama, made_up_tokenizer, started_run

    config = llama("tiny")
    exported(started_run(Path("run"), config, made_up_tokenizer(config.tokenizer.vocab_size)), "hf", Path("hf"))
    print("{}")


if __name__ == "__main__":
    argparse.ArgumentParser(description=prepare.__doc__).parse_args()
    prepare()
