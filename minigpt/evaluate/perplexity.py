"""How well a model predicts text, with intervals, and where it does: by place in the context, by rarity, by source.

A token's loss depends on how much of the text the model sees before it. Non-overlapping windows are cheap, but the
first tokens of each see almost nothing; a sliding window (`stride` below the context) scores only those with a past.
"""

import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np

from backends.tree import Tree
from minigpt.evaluate.intervals import Figure, bootstrap
from minigpt.model.gpt import GPT
from minigpt.train.losses import token_losses

Losses = Callable[[np.ndarray, np.ndarray], np.ndarray]  # ids, targets (B, T) -> nats (B, T)
FEW_DOCUMENTS = 20  # with fewer, windows are the rows that are drawn
LARGEST = 700.0  # nats; above, exp is too large for a float


@dataclass(frozen=True)
class Document:
    """A text as ids (n,); the first is given, the others are predicted. `source` and `language` name its groups."""

    ids: np.ndarray
    source: str = ""
    language: str = ""


@dataclass(frozen=True)
class Scored:
    """All predicted tokens of some documents, one entry each (N,).

    `seen` is how many tokens the model saw before it; `documents` and `windows` are the numbers of where it stood, and
    `places` its place in the document.
    """

    nats: np.ndarray
    ids: np.ndarray
    seen: np.ndarray
    documents: np.ndarray
    windows: np.ndarray
    places: np.ndarray

    def only(self, chosen: np.ndarray) -> "Scored":
        """Those of the tokens that are `chosen` (N,)."""
        return Scored(*(getattr(self, one.name)[chosen] for one in fields(self)))

    @property
    def rows(self) -> np.ndarray:
        """(N,): what is independent enough to be drawn by the bootstrap: documents, or windows of few documents."""
        return self.documents if len(np.unique(self.documents)) >= FEW_DOCUMENTS else self.windows


def losses_of(model: GPT, weights: Tree) -> Losses:
    """The losses of a model with these weights."""
    backend = model.backend
    compiled = backend.compile(lambda tree, batch: token_losses(model, tree, batch))

    def losses(ids: np.ndarray, targets: np.ndarray) -> np.ndarray:
        batch = {"ids": backend.array(ids), "targets": backend.array(targets)}
        return backend.numpy(compiled(weights, batch))

    return losses


def windows(length: int, context: int, stride: int) -> list[tuple[int, int, int]]:
    """(first input, first target that counts, end) of the windows over `length` ids: each target counts once.

    Raises ValueError when the stride is not 1 … context.
    """
    if not 1 <= stride <= context:
        raise ValueError(f"a stride of {stride} with a context of {context}: it must be 1 to {context}")
    found, counted = [], 1
    for first in range(0, max(length - 1, 0), stride):
        end = min(first + context + 1, length)
        found.append((first, counted, end))
        counted = end
        if end == length:
            break
    return found


def score(
    losses: Losses, documents: Sequence[Document], context: int, stride: int | None = None, batch_size: int = 16,
    limit: int | None = None,
) -> Scored:  # fmt: skip
    """The loss of every token of the documents, by windows of `context` tokens that begin `stride` apart (default:
    not overlapping), or by `limit` of them, spread evenly. Documents of fewer than two ids have none."""
    places = [(number, *window) for number, document in enumerate(documents)
              for window in windows(len(document.ids), context, stride or context)]  # fmt: skip
    if limit is not None and limit < len(places):
        places = [places[i] for i in np.linspace(0, len(places) - 1, limit).astype(int)]
    found: list[tuple[np.ndarray, ...]] = []
    for begin in range(0, len(places), batch_size):
        batch = places[begin : begin + batch_size]
        ids = np.zeros((batch_size, context + 1), np.int32)  # always of one shape: a compiled function has one trace
        for row, (number, first, _, end) in zip(ids, batch, strict=False):
            row[: end - first] = documents[number].ids[first:end]
        nats = losses(ids[:, :-1], ids[:, 1:])  # (B, T)
        for i, (number, first, counted, end) in enumerate(batch):
            targets = np.arange(counted, end) - first  # places in the window
            one = np.ones_like(targets)
            where = number * one, (begin + i) * one, first + targets
            found.append((nats[i, targets - 1], ids[i, targets], targets, *where))
    empty = (np.zeros(0), *(np.zeros(0, np.int64) for _ in range(5)))
    return Scored(*(np.concatenate(parts) for parts in zip(*(found or [empty]), strict=True)))


# ---- figures -----------------------------------------------------------------------------------------------


def loss(sums: np.ndarray) -> np.ndarray:
    """Nats per token from sums (..., 3) of nats, tokens and bytes."""
    return sums[..., 0] / np.maximum(sums[..., 1], 1)


def perplexity(sums: np.ndarray) -> np.ndarray:
    return np.exp(np.minimum(loss(sums), LARGEST))


def bits_per_byte(sums: np.ndarray) -> np.ndarray:
    """Comparable between tokenizers."""
    return sums[..., 0] / math.log(2) / np.maximum(sums[..., 2], 1)


STATISTICS = {"loss": loss, "perplexity": perplexity, "bits_per_byte": bits_per_byte}


def row_sums(scored: Scored, byte_lengths: np.ndarray, chosen: np.ndarray | None = None) -> np.ndarray:
    """Sums (rows, 3) of nats, tokens and bytes of each document or window, of all tokens or the `chosen` ones."""
    numbers, places = np.unique(scored.rows, return_inverse=True)
    chosen = np.ones(len(places), bool) if chosen is None else chosen
    columns = scored.nats, np.ones(len(places)), byte_lengths[scored.ids]
    sums = np.stack([np.bincount(places, column * chosen, len(numbers)) for column in columns], axis=1)
    return sums[sums[:, 1] > 0]


def figures(
    scored: Scored, byte_lengths: np.ndarray, chosen: np.ndarray | None = None, seed: int = 0
) -> dict[str, Figure]:
    """`loss` (nats per token), `perplexity` and `bits_per_byte` with intervals; `byte_lengths` (V,) of the tokens."""
    rows = row_sums(scored, byte_lengths, chosen)
    return {name: bootstrap(rows, statistic, seed) for name, statistic in STATISTICS.items()}


@dataclass(frozen=True)
class Group:
    """The tokens that have something in common, and their figures."""

    label: str
    tokens: int
    figures: dict[str, Figure]


def grouped(
    scored: Scored, byte_lengths: np.ndarray, numbers: np.ndarray, labels: Sequence[str], seed: int = 0
) -> list[Group]:
    """Figures of each group that has tokens; `numbers` (N,) is the place in `labels` of each token's group."""
    return [
        Group(label, int((numbers == i).sum()), figures(scored, byte_lengths, numbers == i, seed))
        for i, label in enumerate(labels) if (numbers == i).any()
    ]  # fmt: skip


def by_position(scored: Scored, byte_lengths: np.ndarray, seed: int = 0) -> list[Group]:
    """By how many tokens the model saw before: 1, 2-3, 4-7, … Falls as long as the model makes use of its past."""
    powers = np.floor(np.log2(np.maximum(scored.seen, 1))).astype(int)
    labels = [_range(2**i, 2 ** (i + 1) - 1) for i in range(int(powers.max(initial=0)) + 1)]
    return grouped(scored, byte_lengths, powers, labels, seed)


def by_frequency(scored: Scored, byte_lengths: np.ndarray, counts: np.ndarray, seed: int = 0) -> list[Group]:
    """By how often a token stood in the training data: never, 1-9, 10-99, … `counts` (V,)."""
    often = counts[scored.ids]
    numbers = np.where(often > 0, np.floor(np.log10(np.maximum(often, 1))).astype(int) + 1, 0)
    labels = ["never", *(_range(10**i, 10 ** (i + 1) - 1) for i in range(int(numbers.max(initial=0))))]
    return grouped(scored, byte_lengths, numbers, labels, seed)


def by_document(
    scored: Scored, byte_lengths: np.ndarray, names: Sequence[str], seed: int = 0
) -> list[Group]:
    """By a name of each document, such as its source or its language."""
    labels, numbers = np.unique(np.asarray(names, str), return_inverse=True)
    return grouped(scored, byte_lengths, numbers[scored.documents], [str(label) for label in labels], seed)


def _range(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,}-{high:,}"


def language_of(text: str) -> str:
    """The writing that most letters of a text belong to, such as "latin", "han" or "cyrillic"; Japanese has its name.

    Not more can be told by letters: English and German are both "latin".
    """
    scripts = Counter(_script(letter) for letter in text[:10_000] if letter.isalpha())
    if not scripts:
        return "none"
    if scripts["hiragana"] + scripts["katakana"] > 0.1 * scripts.total():
        return "japanese"
    return scripts.most_common(1)[0][0]


def _script(letter: str) -> str:
    first = unicodedata.name(letter, "unnamed").split()[0].lower()
    return "han" if first == "cjk" else first.split("-")[0]
