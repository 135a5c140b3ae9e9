#!/usr/bin/env python3
"""Does the engine hold what it promises, and how fast is it? Prints a table; exits with 1 when a bound is broken.

    python scripts/engine_checks.py                    # all of it, minutes
    python scripts/engine_checks.py --only schemas --count 1000

- schemas: answers of a model with random weights to random JSON schemas, judged by the package jsonschema
- prefix: the time to the first token where 90 % of the prompt are known, against reading all of it; the same tokens
- batch: tokens per second of 16 rows against one
- exact: what scores that are the same to the bit cost, one row and all rows
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from comparisons.start import llama, made_up_tokenizer

from backends import BACKENDS, BackendUnavailable, get_backend
from backends.base import Backend
from minigpt.generate.constraint import json_schema
from minigpt.generate.engine import Engine
from minigpt.generate.request import Request, Sequence
from minigpt.generate.sampling import GREEDY, Sampling
from minigpt.generate.scheduler import Scheduler
from minigpt.model.gpt import GPT, init_weights, to_backend
from minigpt.parity.models import random_weights
from minigpt.sections import ModelConfig
from minigpt.text.characters import CharTokenizer

SMALL = ModelConfig(
    n_layer=2, n_head=4, n_kv_head=2, d_model=32, d_ff=48, vocab_size=288, context=1024, tie_embeddings=False
)
Row = tuple[str, str, str, bool]  # what, found, bound, whether it holds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    checks = {"schemas": schemas, "prefix": prefix, "batch": batch, "exact": exact}
    parser.add_argument("--only", choices=list(checks))
    parser.add_argument("--count", type=int, default=1000, help="random JSON schemas")
    parser.add_argument("--backend", choices=list(BACKENDS))
    given = parser.parse_args()
    rows: list[Row] = []
    for name in [given.backend] if given.backend else BACKENDS:
        try:
            backend = get_backend(name)
        except BackendUnavailable as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        for check, measure in checks.items():
            if given.only in (None, check):
                found = measure(backend, given.count)
                rows += [(f"{name}: {what}", *rest) for what, *rest in found]
    for what, found, bound, holds in rows:
        print(f"{what:<48} {found:<36} bound {bound:<6} {'holds' if holds else 'BROKEN'}")
    return 0 if all(row[3] for row in rows) else 1


# ---- answers that fit a schema


def schemas(backend: Backend, count: int) -> Iterator[Row]:
    """Random schemas, all answers computed with 16 rows at a time; each must parse and be valid."""
    from jsonschema import Draft202012Validator

    tokenizer, draw = CharTokenizer(""), random.Random(0)
    engine = Engine(GPT(SMALL, backend), to_backend(backend, random_weights(SMALL)), tokenizer)
    scheduler, asked = Scheduler(engine, rows=16, cache_bytes=0), []
    for number in range(count):
        schema = random_schema(draw, 3)
        fits_it = json_schema(tokenizer, schema)
        request = Request([50 + number % 60], Sampling(1.0, seed=number), 1000, constraint=fits_it)
        asked.append((schema, scheduler.add(request)))
    run(scheduler)
    wrong = [(schema, one.text, one.reason) for schema, one in asked if not fits(Draft202012Validator(schema), one)]
    for schema, text, reason in wrong[:3]:
        print(json.dumps(schema), reason, text, file=sys.stderr)
    kinds = len({one.text for _, one in asked})
    yield f"{count:,} random schemas", f"{count - len(wrong):,} valid, {kinds:,} different", "all", not wrong


def fits(validator: Any, sequence: Sequence) -> bool:
    try:
        return sequence.reason == "stop" and validator.is_valid(json.loads(sequence.text))
    except ValueError:
        return False


def random_schema(draw: random.Random, depth: int) -> dict[str, Any]:
    """A schema whose answers are at most some hundred characters long."""
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "const", "pattern"]
    kind = draw.choice([*kinds, *(["object", "array", "anyOf"] * 3 if depth else [])])
    if kind == "object":
        names = draw.sample(["name", "age", "tags", "größe", "a b", "x", "ok", "items"], draw.randint(0, 4))
        properties = {name: random_schema(draw, depth - 1) for name in names}
        required = [name for name in names if draw.random() < 0.6]
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    if kind == "array":
        least = draw.randint(0, 2)
        return {"type": "array", "items": random_schema(draw, depth - 1), "minItems": least, "maxItems": least + 2}
    if kind == "anyOf":
        return {"anyOf": [random_schema(draw, depth - 1) for _ in range(draw.randint(1, 3))]}
    if kind == "enum":
        return {"enum": draw.sample(["red", "blue", 3, -1.5, True, None, "ü"], draw.randint(1, 5))}
    if kind == "const":
        return {"const": draw.choice(["yes", 7, None, [1, "a"], {"k": 1}])}
    if kind == "pattern":
        return {"type": "string", "pattern": draw.choice(["^[A-Z]{2}[0-9]{3}$", "^(north|south)$", "^a+b?c{1,3}$"]),
                "maxLength": 12}  # fmt: skip
    if kind == "string":
        least = draw.randint(0, 3)
        return {"type": "string", "minLength": least, "maxLength": least + draw.randint(0, 8)}
    if kind in ("integer", "number"):
        low = draw.randint(-1000, 1000)
        return {"type": kind, "minimum": low, "maximum": low + draw.randint(0, 5000)} if kind == "integer" else {
            "type": "number", "minimum": 0, "maximum": 1000, "multipleOf": 0.25}  # fmt: skip
    return {"type": kind}


# ---- speed


def medium(backend: Backend) -> Engine:
    """The preset with 26 M parameters and random weights, in float32."""
    config = llama("medium")
    shape = config.model.model_copy(update={"vocab_size": config.tokenizer.vocab_size})
    weights = to_backend(backend, init_weights(shape, 0))
    return Engine(GPT(shape, backend), weights, made_up_tokenizer(config.tokenizer.vocab_size))


def prefix(backend: Backend, _: int) -> Iterator[Row]:
    """Prompts of which 90 % are known; the median of five."""
    engine, draw = medium(backend), np.random.default_rng(0)
    length = engine.model.config.context * 3 // 4
    shared = draw.integers(300, 6000, length * 9 // 10).tolist()
    known, unknown = (Scheduler(engine, cache_bytes=size) for size in (2**30, 0))
    first_token(known, [*shared, 300])
    times, tokens = {"known": [], "unknown": []}, {"known": [], "unknown": []}
    for _ in range(5):
        prompt = shared + draw.integers(300, 6000, length - len(shared)).tolist()
        for name, scheduler in (("known", known), ("unknown", unknown)):
            seconds, ids = first_token(scheduler, prompt)
            times[name].append(seconds)
            tokens[name].append(ids)
    ratio = float(np.median(times["unknown"]) / np.median(times["known"]))
    yield f"first token, 90 % of {length} known", f"{ratio:.1f}× sooner", "5×", ratio >= 5
    yield "the same tokens", str(tokens["known"] == tokens["unknown"]), "True", tokens["known"] == tokens["unknown"]


def first_token(scheduler: Scheduler, prompt: list[int]) -> tuple[float, list[int]]:
    """Seconds until the first token of an answer, and its eight tokens."""
    began, sequence = time.perf_counter(), scheduler.add(Request(prompt, GREEDY, 8))
    while not scheduler.step():
        pass
    seconds = time.perf_counter() - began
    run(scheduler)
    return seconds, sequence.ids


def batch(backend: Backend, _: int) -> Iterator[Row]:
    """Sixteen answers of 100 tokens at once, and one; each twice, in turn."""
    rates = speeds(medium(backend), [("one", 1, False), ("sixteen", 16, False)])
    ratio = rates["sixteen"] / rates["one"]
    yield "tokens/s, 16 rows against one", f"{ratio:.1f}× ({rates['one']:.0f} alone)", "5×", ratio >= 5


def exact(backend: Backend, _: int) -> Iterator[Row]:
    """The price of fixed shapes: 16 rows computed for one, and for sixteen, over the whole context."""
    rates = speeds(medium(backend), [(f"{n} {e}", n, e) for n in (1, 16) for e in (False, True)])
    for n in (1, 16):
        share = rates[f"{n} True"] / rates[f"{n} False"]
        yield f"tokens/s with exact, {n} of 16 rows", f"{share:.2f}× of those without", "-", True


def speeds(engine: Engine, cases: list[tuple[str, int, bool]]) -> dict[str, float]:
    """The best tokens per second of each case (name, answers, exact), without the reading of prompts."""
    best: dict[str, float] = {}
    for name, count, exactly in [(name, count, e) for _ in range(2) for name, count, e in cases]:
        scheduler = Scheduler(engine, rows=16, cache_bytes=0, exact=exactly)
        request = Request([300 + 7 * i for i in range(20)], Sampling(0.0), 100)
        for i in range(count):
            scheduler.add(replace(request, prompt=[301 + i, *request.prompt]))
        while scheduler.running < count or scheduler.waiting or scheduler._intake.readings:
            scheduler.step()
        began = time.perf_counter()
        made = sum(len(scheduler.step()) for _ in range(60))
        best[name] = max(best.get(name, 0), made / (time.perf_counter() - began))
    return best


def run(scheduler: Scheduler) -> None:
    while not scheduler.idle:
        scheduler.step()


if __name__ == "__main__":
    sys.exit(main())
