"""From a stage's items to token shards: rendered, tokenized, cut to the context and written in one stream."""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from minigpt.data.examples import Text
from minigpt.data.forms import Form, Tokens
from minigpt.data.parse.fields import RowError
from minigpt.data.reader import Item, Reader, digest_of
from minigpt.data.shards import ShardWriter
from minigpt.errors import DataError
from minigpt.events import Note, Progress, Report, silent
from minigpt.text.tokenizer import Tokenizer

BLOCK = 256  # rows that are tokenized together
BLOCK_CHARACTERS = 1 << 20  # and characters of text: their ids take ten times as much memory


@dataclass
class Prepared:
    """What became of the sources: counts per split, and what was omitted."""

    tokens: dict[str, int] = field(default_factory=dict)
    sequences: dict[str, int] = field(default_factory=dict)
    cut: int = 0
    dropped: int = 0
    bad: int = 0
    in_both: int = 0  # validation rows that are training rows as well


def prepare(
    reader: Reader, tokenizer: Tokenizer, directory: Path, context: int, report: Report = silent
) -> Prepared:
    """Write `directory/train` and `directory/validation` as token shards.

    Examples longer than `context` are cut at their end, or omitted when nothing to learn is left or the form says
    so. Of a text the training shard has as many copies as the sources say, every second one with BPE-dropout. Raises
    DataError when nothing usable is left.
    """
    stage, masked, result = reader.stage, not reader.form.stream, Prepared()
    with (
        ShardWriter(directory / "train", tokenizer.vocab_size, masked) as train,
        ShardWriter(directory / "validation", tokenizer.vocab_size, masked) as validation,
    ):
        writers = {"train": train, "validation": validation}
        digests = {"train": array("Q"), "validation": array("Q")}  # 8 bytes per row
        spare: Item | None = None
        for chunk in _blocks(reader):
            for item, encoded in zip(chunk, _encode(chunk, reader, tokenizer), strict=True):
                if _write(writers[item.split], encoded, item, reader.form, context, result):
                    digests[item.split].append(digest_of(item.content))
                    if item.split == "train":
                        spare = replace(item, ends_document=True)
            report(Progress(f"tokenizing {stage}", train.tokens + validation.tokens))
        documents = {name: writer.sequences for name, writer in writers.items()}
        if reader.form.stream:
            _write_copies(train, reader, tokenizer, report)
        if spare is None:
            raise _nothing_usable(reader, result)
        if not validation.sequences:  # so few rows that none was drawn: show the last one
            again = replace(result)  # the row was counted already
            _write(validation, _encode([spare], reader, tokenizer)[0], spare, reader.form, context, again)
            report(Note(f"{stage}: so few rows that none was held out; the last one is used for validation as well."))
    report(Progress(f"tokenizing {stage}", train.tokens + validation.tokens, finished=True))
    for name, writer in writers.items():
        result.tokens[name], result.sequences[name] = writer.tokens, documents.get(name) or writer.sequences
    result.bad = len(reader.bad)
    result.in_both = int(np.isin(digests["validation"], digests["train"]).sum())
    for sentence in _sentences(reader, result, context):
        report(Note(f"{stage}: {sentence}"))
    return result


def _write_copies(train: ShardWriter, reader: Reader, tokenizer: Tokenizer, report: Report) -> None:
    """The text again, as often as the sources say, every second time cut into other tokens.

    Half of the copies stay as answers and prompts will be: with BPE-dropout in all, tinyshakespeare's validation loss
    was 0.1 nats per token higher.
    """
    sources = reader.sources
    varied = tokenizer.varied(sources.bpe_dropout, reader.seed) if sources.copies > 1 else tokenizer
    for copy in range(1, sources.copies):
        again = replace(reader, report=silent, bad=[], layouts=Counter())  # all was counted and told before
        for chunk in _blocks(item for item in again if item.split == "train"):
            ids = _encode(chunk, again, varied if copy % 2 else tokenizer)
            for item, encoded in zip(chunk, ids, strict=True):
                _write(train, encoded, item, reader.form, 0, Prepared())
            report(Progress(f"tokenizing {reader.stage}", train.tokens))


def _blocks(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Items that are tokenized together: few enough that memory stays small, enough for all threads."""
    block: list[Item] = []
    characters = 0
    for item in items:
        block.append(item)
        characters += len(item.content.text) if isinstance(item.content, Text) else 0
        if len(block) == BLOCK or characters >= BLOCK_CHARACTERS:
            yield block
            block, characters = [], 0
    if block:
        yield block


def _encode(items: list[Item], reader: Reader, tokenizer: Tokenizer) -> list[list[Tokens]]:
    """The token sequences of each item; none for one that the chat template of an imported model refuses."""
    found = []
    for item, encoded in zip(items, reader.form.encode(tokenizer, [item.content for item in items]), strict=True):
        if isinstance(encoded, DataError):
            reader.reject(RowError(item.where, encoded.message.rstrip("."), encoded.hint))
            encoded = []
        elif reader.form.stream and item.ends_document:
            encoded = [([*ids, tokenizer.end_of_text], mask) for ids, mask in encoded]
        found.append(encoded)
    return found


def _write(
    writer: ShardWriter, encoded: list[Tokens], item: Item, form: Form, context: int, result: Prepared
) -> bool:
    """Whether the item was kept."""
    if form.stream:
        for ids, _ in encoded:
            writer.add(ids, ends=item.ends_document)
        return bool(encoded)
    if any(len(ids) > context + 1 for ids, _ in encoded):
        encoded = [(ids[: context + 1], mask[: context + 1]) for ids, mask in encoded if form.cut]
        if not any(any(mask) for _, mask in encoded):
            result.dropped += 1
            return False
        result.cut += 1
    for ids, mask in encoded:
        writer.add(ids, mask)
    return bool(encoded)


def _nothing_usable(reader: Reader, result: Prepared) -> DataError:
    sources = ", ".join(reader.sources.train) or "no source"
    if reader.bad:
        return DataError(f"{reader.stage}: none of {len(reader.bad)} rows is usable; the first: {reader.bad[0]}")
    if result.dropped:
        return DataError(
            f"{reader.stage}: all rows of {sources} are longer than the context.",
            "Raise model.context or shorten the rows.",
        )
    return DataError(f"{reader.stage}: there is no usable row in {sources}.", "Give data with --data FILE.")


def _sentences(reader: Reader, result: Prepared, context: int) -> Iterator[str]:
    """What a user should know of the data."""
    form = reader.form
    rows = {name: count // form.sequences for name, count in result.sequences.items()}
    yield (
        f"{rows['train']:,} {form.unit}{'s' * (rows['train'] != 1)} ({result.tokens['train']:,} tokens) to train on, "
        f"{rows['validation']:,} held out ({result.tokens['validation']:,} tokens)."
    )
    if note := form.note(reader.layouts):
        yield note
    if form.stream and reader.sources.copies > 1:
        yield f"the text is there {reader.sources.copies} times, every second one with BPE-dropout."
    if result.in_both:
        yield f"{result.in_both:,} of the rows held out are training rows, too: what is measured on them says little."
    if result.cut:
        yield f"{result.cut:,} rows were longer than the context of {context} tokens and cut."
    if result.dropped:
        yield f"{result.dropped:,} rows were too long for the context of {context} and omitted."
    if reader.bad:
        lines = f" ({reader.lost:,} lines)" if reader.lost > len(reader.bad) else ""
        yield f"{len(reader.bad):,} bad rows{lines} were skipped; the first: {reader.bad[0]}"
