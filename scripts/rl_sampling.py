#!/usr/bin/env python
"""Do sampling and training agree? Log-probabilities of sampled tokens, in the engine and in a training pass.

    python scripts/rl_sampling.py

At each temperature at least 10,000 tokens are sampled after prompts of unequal lengths, several answers to each, many
rows at a time. What each token was drawn with is held against the training pass over the packed rows, in which the
answers to a prompt share it. A pass at the wrong temperature, and one shifted by a token, must be seen. Prints a table
and exits with 1 when a bound is broken.
"""

import sys
from unittest import mock

import numpy as np

from backends import BACKENDS, get_backend
from backends.base import Backend
from minigpt.cli import tables
from minigpt.generate import choice
from minigpt.generate.engine import Engine
from minigpt.generate.sampling import Sampling
from minigpt.model.gpt import GPT, to_backend
from minigpt.parity.models import random_weights
from minigpt.sections import ModelConfig
from minigpt.stages.packed import laid_out, packed
from minigpt.text.learn import train_tokenizer
from minigpt.train.losses import token_losses

TOKENS, ROWS, GROUP, LONGEST, BOUND = 10_000, 48, 4, 60, 1e-5
TEMPERATURES = (0.5, 0.8, 1.0, 1.5)


def main() -> int:
    lines, broken = [], False
    for name in BACKENDS:
        backend = get_backend(name, "cpu")
        for temperature in TEMPERATURES:
            count, gap, wrong, shifted = compare(backend, temperature)
            fine = gap <= BOUND and min(wrong, shifted) > 100 * BOUND
            broken |= not fine
            lines.append([name, f"{temperature:g}", f"{count:,}", f"{gap:.1e}", f"{BOUND:g}", f"{wrong:.2g}",
                          f"{shifted:.2g}", "ok" if fine else "BROKEN"])  # fmt: skip
    columns = ["backend", "temperature", "tokens", "largest difference", "bound", "other temperature", "shifted", ""]
    tables.kept_table("Log-probabilities of sampled tokens: engine against training pass", columns, lines)
    return int(broken)


def compare(backend: Backend, temperature: float) -> tuple[int, float, float, float]:
    """(tokens, largest difference, mean differences of a pass at another temperature and of one shifted by a token)."""
    tokenizer = train_tokenizer("byte", ["a"], 300)
    config = ModelConfig(n_layer=3, n_head=4, n_kv_head=2, d_model=64, d_ff=128, context=160,
                         vocab_size=tokenizer.vocab_size, qk_norm=True)  # fmt: skip
    model, weights = GPT(config, backend), to_backend(backend, random_weights(config))
    engine, draw = Engine(model, weights, tokenizer), np.random.default_rng(1)
    gaps, wrong, shifted = [], [], []
    while sum(map(len, gaps)) < TOKENS:
        prompts = [draw.integers(4, 260, draw.integers(1, 90)).tolist() for _ in range(ROWS // GROUP)]
        prompts = [prompt for prompt in prompts for _ in range(GROUP)]
        samplings = [Sampling(temperature, seed=int(seed)) for seed in draw.integers(0, 2**62, ROWS)]
        answers, drawn = sampled(engine, prompts, samplings)
        single = laid_out(prompts, answers)
        where, own = packed(model, single, GROUP), single["mask"] > 0
        arrays = {key: backend.array(x) for key, x in where.rows(single).items()}

        def passed(at: float, where=where, arrays=arrays, own=own) -> np.ndarray:
            found = backend.numpy(token_losses(model, weights, arrays, arrays["mask"] > 0, at))
            return -where.back(found)[own].astype(np.float64)

        seen, right = np.concatenate(drawn), passed(temperature)
        gaps.append(np.abs(seen - right))
        wrong.append(np.abs(seen - passed(temperature * 1.25)))
        shifted.append(np.abs(seen[1:] - right[:-1]))
    return sum(map(len, gaps)), *(float(f(np.concatenate(x))) for f, x in ((np.max, gaps), (np.mean, wrong),
                                                                           (np.mean, shifted)))  # fmt: skip


def sampled(engine: Engine, prompts: list[list[int]], samplings: list[Sampling]) -> tuple[list, list[np.ndarray]]:
    """Answers, and of each its tokens' log-probabilities under what they were drawn from, in float64."""
    found: dict[int, list[float]] = {one.seed: [] for one in samplings}
    real = choice.sample

    def watched(logits: np.ndarray, sampling: Sampling, *given) -> int:
        token = real(logits, sampling, *given)
        scaled = logits.astype(np.float64) / sampling.temperature
        found[sampling.seed].append(float(scaled[token] - scaled.max() - np.log(np.exp(scaled - scaled.max()).sum())))
        return token

    with mock.patch.object(choice, "sample", watched):
        answers = engine.answer_each(prompts, samplings, LONGEST)
    return answers, [np.array(found[one.seed][: len(answer.tokens)])
                     for one, answer in zip(samplings, answers, strict=True)]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
