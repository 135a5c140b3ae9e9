"""llama.cpp: 4,000 texts and 1,000 conversations per kind of tokenizer, and each number format's answers."""

import sys
from pathlib import Path

from ordeals.ordeal import Outcome

from exchange.small import count, engine, exported, trained
from minigpt.exchange.exporting import export_run
from minigpt.exchange.gguf.check import check_gguf, prompt_ids
from minigpt.exchange.gguf.file import FORMATS
from minigpt.exchange.gguf.llama_cpp import is_installed, llama_cpp
from minigpt.exchange.readers.probes import random_conversations, random_texts


def read_gguf(directory: Path, scale: float) -> list[Outcome]:
    """Token ids of random texts and conversations, then log-probabilities and greedy answers."""
    if not is_installed():
        sys.exit("llama.cpp is not installed: pip install xllamacpp, or leave llama out with --only.")
    found = [outcome for kind in ("bpe", "char", "byte") for outcome in _same_tokens(directory, kind, scale)]
    return found + [_same_answers(directory, dtype) for dtype in FORMATS]


def _same_tokens(directory: Path, kind: str, scale: float) -> list[Outcome]:
    tokenizer = trained(kind, steps=2).tokenizer
    texts = Outcome(f"llama.cpp: token ids of a text, {kind} tokenizer", note="without U+2581, a space for llama.cpp")
    talks = Outcome(f"llama.cpp: token ids of a conversation, {kind} tokenizer", note="up to an answer")
    with llama_cpp(exported(directory, "gguf", kind, steps=2) / "model.gguf", 256) as reader:
        for text in random_texts(tokenizer, count(4000, scale), seed=7):
            texts.check(reader.tokenize(text) == tokenizer.encode(text), repr(text))
        for talk in random_conversations(tokenizer, count(1000, scale), seed=8):
            talks.check(reader.chat(talk) == prompt_ids(tokenizer, talk), repr(talk))
    return [texts, talks]


def _same_answers(directory: Path, dtype: str) -> Outcome:
    export = export_run(trained(), "sft", "gguf", directory / dtype, dtype).path
    checks = check_gguf(export / "model.gguf", engine(), dtype)
    largest = next(check for check in checks if "log-probabilities" in check.quantity)
    outcome = Outcome(f"llama.cpp: answers in {dtype}", note=f"largest {largest.found:.1e}, bound {largest.bound:g}")
    for check in checks:
        outcome.check(check.ok, f"{check.quantity}: {check.found} above {check.bound}")
    return outcome
