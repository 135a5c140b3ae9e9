"""Speculative decoding: MiniGPT with a draft, or with prompt look-up, against MiniGPT without.

Both models are trained beforehand on short texts of the built-in world and on tables of JSON lines, since how often a
guess is right depends on what is written. The draft continues the texts, which it knows worse than the model; look-up
continues the tables, where every line repeats the keys of the one before. Answers are sampled as `minigpt generate`
samples them: greedily, a model that was trained this briefly would repeat itself, which anybody can guess. Every
answer is compared with the plain one.
"""

import argparse
import json
import random
import time
from pathlib import Path

from comparisons.duel import Contestant, Duel, Figures, given, minigpt, settings, worker

STEPS, PROMPTS, NEW = 200, 12, 96  # training steps; prompts of each kind and tokens of each answer
MODEL = dict(n_layer=6, d_model=256, n_head=8, n_kv_head=2, d_ff=704)  # 5 M
DRAFT = dict(n_layer=1, d_model=64, n_head=2, n_kv_head=1, d_ff=176)
WAYS = ("draft", "look-up")


def speculative(backend: str, steps: int | None = None) -> Duel:
    """Tokens per second of one stream, and tokens per forward pass of the model, which is what could be gained."""

    def prepare(directory: Path) -> None:
        rows = "".join(json.dumps({"text": text}) + "\n" for text in texts(8000))
        (directory / "rows.jsonl").write_text(rows, "utf-8")
        for name, shape in (("model", MODEL), ("draft", DRAFT)):
            sets = {f"model__{key}": value for key, value in shape.items()}
            sets |= {"model__head_dim": 32, "pretrain__steps": steps or STEPS, "pretrain__batch_size": 4}
            minigpt(directory, "run", "--run", name, "--data", "rows.jsonl", "--backend", backend, *settings(**sets))

    def contestant(name: str, key: str) -> Contestant:
        def measure(directory: Path) -> Figures:
            return worker(given(directory), "speculative", key, backend)[0]

        return Contestant(name, measure)

    contestants = [contestant("MiniGPT, guessing", "guessing"), contestant("MiniGPT, plain", "plain")]
    figures = {f"{figure}, {way}": True for way in WAYS for figure in ("tokens/s", "tokens per pass")}
    return Duel(f"speculative decoding, 5 M, {backend}", contestants, figures, prepare)


def texts(count: int, split: str = "train") -> list[str]:
    """`count` texts of the world, and a table for every fourth."""
    from minigpt.data.world import rows as world

    stories = [row["text"] for row in world.texts(1, count, split)]
    return stories + [table(f"{split} {number}") for number in range(count // 4)]


def table(seed: str, rows: int = 6) -> str:
    """Lines of JSON about who has how many of what, and where."""
    from minigpt.data.world.words import COLOURS, NAMES, NOUNS, PLACES

    draw = random.Random(seed)
    columns = {"name": NAMES, "colour": COLOURS, "thing": NOUNS, "place": PLACES}
    lines = [{key: draw.choice(words).en for key, words in columns.items()} for _ in range(rows)]
    return "\n".join(json.dumps(line | {"count": draw.randint(1, 20)}) for line in lines)


def measured(backend_name: str, guessing: bool) -> Figures:
    """Both ways, or the plain engine on the same prompts. Raises AssertionError when an answer is not the same."""
    from backends import get_backend
    from minigpt.generate.proposers import drafting, lookup
    from minigpt.runs.loading import load_engine
    from minigpt.runs.run import open_run

    model, draft = (load_engine(open_run(Path(name)), None, get_backend(backend_name)) for name in ("model", "draft"))
    held_out = texts(4 * PROMPTS, "test")
    prompts = {"draft": [text[:20] for text in held_out[:PROMPTS]], "look-up": held_out[-PROMPTS:]}
    ways = {"draft": lambda: drafting(model, draft, 8), "look-up": lambda: lookup(8)}
    figures: Figures = {}
    for way, begin in ways.items():
        ids = [model.tokenizer.encode(text)[:64] for text in prompts[way]]
        answered(model, ids[:1], begin())  # warm
        speculation = begin() if guessing else None
        began = time.perf_counter()
        answers = answered(model, ids, speculation)
        seconds = time.perf_counter() - began
        tokens = sum(len(answer.ids) + (answer.reason == "stop") for answer in answers)
        assert not guessing or answers == answered(model, ids, None), way
        figures[f"tokens/s, {way}"] = tokens / seconds
        figures[f"tokens per pass, {way}"] = tokens / speculation.passes if speculation else 1.0
    return figures


def answered(engine, prompts: list[list[int]], speculation) -> list:
    """One answer after the other, as one stream."""
    from minigpt.generate.sampling import Sampling

    settings = [Sampling(0.8, min_p=0.05, seed=seed) for seed in range(len(prompts))]
    return [engine.streamed(ids, one, NEW, speculation) for ids, one in zip(prompts, settings, strict=True)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["guessing", "plain"])
    parser.add_argument("backend")
    what, backend = vars(parser.parse_args()).values()
    print(json.dumps(measured(backend, what == "guessing")))
