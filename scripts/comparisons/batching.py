"""Sixteen prompts of unequal lengths: in one batch against one after the other, the 26 M model, float32, greedy."""

import argparse
import json
import time
from pathlib import Path

from comparisons.duel import Contestant, Duel, Figures, given, worker

LENGTHS = range(16, 256, 15)  # tokens of the sixteen prompts
NEW = 128  # tokens of each answer


def batching(backend: str) -> Duel:
    """Answered tokens per second in all, reading the prompts included."""

    def prepare(directory: Path) -> None:
        worker(directory, "batching", "prepare", backend)

    def contestant(name: str, key: str) -> Contestant:
        def measure(directory: Path) -> Figures:
            figures, done = worker(given(directory), "batching", key, backend)
            return figures | {"peak MB": done.peak_mb}

        return Contestant(name, measure)

    contestants = [contestant("MiniGPT, one batch", "together"), contestant("MiniGPT, one by one", "alone")]
    figures = {"tokens/s": True, "peak MB": False}
    return Duel(f"{len(LENGTHS)} unequal prompts, {backend}", contestants, figures, prepare)


def prepare() -> Figures:
    from comparisons.start import llama, made_up_tokenizer, started_run

    config = llama("medium")
    started_run(Path("run"), config, made_up_tokenizer(config.tokenizer.vocab_size))
    return {}


def measured(backend: str, together: bool) -> Figures:
    from backends import get_backend
    from minigpt.generate.sampling import GREEDY
    from minigpt.runs.loading import load_engine
    from minigpt.runs.run import open_run

    engine = load_engine(open_run(Path("run")), None, get_backend(backend))
    prompts = [[300 + (7 * i + 13 * length) % 6000 for i in range(length)] for length in LENGTHS]
    groups = [prompts] if together else [[prompt] for prompt in prompts]
    engine.answer(groups[0], GREEDY, 2)  # warm
    began = time.perf_counter()
    answers = [answer for group in groups for answer in engine.answer(group, GREEDY, NEW)]
    return {"tokens/s": sum(len(answer.ids) for answer in answers) / (time.perf_counter() - began)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["prepare", "together", "alone"])
    parser.add_argument("backend")
    what, backend = vars(parser.parse_args()).values()
    print(json.dumps(prepare() if what == "prepare" else measured(backend, what == "together")))
