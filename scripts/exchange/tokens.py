"""Token ids: 4,000 texts and 1,000 conversations per kind of tokenizer, in transformers and here."""

from pathlib import Path

from ordeals.ordeal import Outcome, count

from exchange.small import learned_tokenizer
from minigpt.exchange.exporting import write_model
from minigpt.exchange.hf.directory_check import differs
from minigpt.exchange.readers.probes import random_conversations, random_texts
from minigpt.exchange.readers.readers import TransformersReader
from minigpt.model.gpt import init_weights
from minigpt.sections import ModelConfig
from minigpt.text.tokenizer import Tokenizer


def same_tokens(directory: Path, scale: float) -> list[Outcome]:
    """Random texts as plain text, and random conversations by the chat template that was written."""
    found = []
    for kind in ("bpe", "char", "byte"):
        tokenizer, reader = _written(kind, directory / kind)
        texts = Outcome(f"token ids of a text, {kind} tokenizer", note=f"{tokenizer.vocab_size:,} tokens")
        back = Outcome(f"the text that transformers makes of the ids, {kind} tokenizer")
        for text in random_texts(tokenizer, count(4000, scale), seed=7, marks=True):
            ids = reader.encode(text)
            texts.check(ids == tokenizer.encode(text), repr(text))
            back.check(reader.tokenizer.decode(ids) == text, repr(text))
        talks = Outcome(f"token ids of a conversation, {kind} tokenizer", note="whole, and up to an answer")
        for talk in random_conversations(tokenizer, count(1000, scale), seed=8, marks=True):
            talks.check(not differs(reader, tokenizer, talk), repr(talk))
        found += [texts, back, talks]
    return found


def _written(kind: str, directory: Path) -> tuple[Tokenizer, TransformersReader]:
    """A tokenizer learned from the built-in world, and transformers with what an export (of any model) holds of it."""
    tokenizer = learned_tokenizer(kind)
    config = ModelConfig(vocab_size=tokenizer.vocab_size)
    directory.mkdir()
    write_model(config, init_weights(config, 1), tokenizer, directory, "float32", "pt")
    return tokenizer, TransformersReader(directory)
