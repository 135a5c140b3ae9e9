"""A tokenizer of any kind, learned from texts."""

from collections import Counter
from collections.abc import Iterable

from minigpt.errors import MiniGPTError
from minigpt.text.bpe import train_bpe
from minigpt.text.characters import CharTokenizer
from minigpt.text.tokenizer import Tokenizer


def train_tokenizer(kind: str, texts: Iterable[str], vocab_size: int, alone: str = "") -> Tokenizer:
    """Learn a tokenizer from a (bounded) sample of texts.

    `vocab_size` is an upper bound for `bpe`: a small corpus has fewer pairs to merge. Its pieces do not join the
    characters `alone` (see train_bpe). Raises DataError when there is no text, and MiniGPTError when the vocabulary
    has no room beside the bytes.
    """
    if kind == "imported":
        hint = "It comes with a model (minigpt import DIR); to train one, set tokenizer.kind to bpe."
        raise MiniGPTError("A tokenizer of the kind 'imported' cannot be trained.", hint)
    if kind == "byte":
        return CharTokenizer("")
    if kind == "char":
        counts = Counter()
        for text in texts:
            counts.update(text)
        return CharTokenizer("".join(sorted(counts)))
    return train_bpe(texts, vocab_size, alone)
