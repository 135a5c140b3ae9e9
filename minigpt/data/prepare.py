"""From a stage's sources to token shards: rows are read, checked, split, rendered and tokenized in one stream."""

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from minigpt.config import DataConfig
from minigpt.data.examples import Conversation, Parsed, Preference, Text
from minigpt.data.parse.fields import RowError
from minigpt.data.parse.formats import detect, parse_row, require
from minigpt.data.read.files import is_text
from minigpt.data.read.named import resolve
from minigpt.data.read.raw_rows import BadRow, Row
from minigpt.data.read.sources import read_rows
from minigpt.data.read.text import read_text
from minigpt.data.shards import ShardWriter
from minigpt.data.world import rows as world
from minigpt.errors import DataError
from minigpt.events import Note, Progress, Report, silent
from minigpt.text.chatml import render
from minigpt.text.tokenizer import Tokenizer

WORLD = "world"  # the built-in bilingual world as a source
BLOCK = 256  # rows that are tokenized together
BLOCK_CHARACTERS = 1 << 20  # and characters of text: their ids take ten times as much memory


@dataclass
class Item:
    """One parsed row or one block of a text file. `split` is "train" or "validation"."""

    where: str
    content: Parsed
    split: str
    ends_document: bool = True


@dataclass
class Reader:
    """Streams the usable items of a stage's sources and counts the rest.

    A bad row raises DataError with its `file:line`, or is counted in `bad` when `skip_bad` is set. Rows go to
    the validation split by a hash of their content, so that equal rows are always on one side; of text files
    the last part is held out. With `validation` sources those are the validation split and nothing else is.
    """

    stage: str
    config: DataConfig
    seed: int
    cache: Path
    report: Report = silent
    bad: list[str] = field(default_factory=list)
    forms: Counter[str] = field(default_factory=Counter)  # how the usable rows are written, see formats.py
    rows: int = 0

    def __iter__(self) -> Iterator[Item]:
        held_out = self.config.validation_fraction
        separate = getattr(self.config, f"{self.stage}_validation")
        yield from self._items(getattr(self.config, self.stage), 0.0 if separate else held_out)
        yield from self._items(separate, 1.0)

    def _items(self, sources: Sequence[str], held_out: float) -> Iterator[Item]:
        for source in sources:
            if source == WORLD:
                yield from self._world(held_out)
                continue
            for path in resolve([source], self.cache, self.report):
                if is_text(path):
                    yield from self._text(path, held_out)
                else:
                    yield from self._parsed(read_rows(path), held_out)

    def _text(self, path: Path, held_out: float) -> Iterator[Item]:
        if self.stage != "pretrain":
            self.reject(RowError(str(path), f"a text file cannot train {self.stage}", "Give rows, as .jsonl."))
            return
        for split, start, stop in (("train", 0.0, 1.0 - held_out), ("validation", 1.0 - held_out, 1.0)):
            block = None
            for block in read_text(path, start, stop) if start < stop else ():
                self.forms["text"] += 1
                self.rows += 1
                yield Item(block.where, Text(block.text), split, block.ends_document)
            if block is not None and not block.ends_document:
                yield Item(block.where, Text(""), split, True)

    def _parsed(self, rows: Iterator[Row | BadRow], held_out: float) -> Iterator[Item]:
        for row in rows:
            try:
                content = require(parse_row(row), self.stage, row.where)
            except RowError as error:
                self.reject(error)
                continue
            self.forms[detect(row.value)] += 1
            self.rows += 1
            yield Item(row.where, content, split_of(content, self.seed, held_out))

    def _world(self, held_out: float) -> Iterator[Item]:
        """The built-in world brings its own split: what is held out combines things as no training row does.

        `held_out` 0 leaves the held-out rows away, 1 the others.
        """
        draw, count = {
            "pretrain": (world.texts, self.config.world_texts),
            "sft": (world.conversations, self.config.world_instructions),
            "dpo": (world.preferences, self.config.world_pairs),
        }[self.stage]
        wanted = [("train", count, 0.0)] * (held_out < 1) + [("test", count // 20 + 1, 1.0)] * (held_out > 0)
        for split, rows, own in wanted:
            drawn = (Row(f"{WORLD}:{i}", row) for i, row in enumerate(draw(self.seed, rows, split), 1))
            yield from self._parsed(drawn, own)

    def reject(self, error: RowError) -> None:
        """Count a bad row, or raise its error when bad rows are not to be skipped."""
        if not self.config.skip_bad:
            raise error
        self.bad.append(str(error))


def split_of(content: Parsed, seed: int, held_out: float) -> str:
    """ "train" or "validation", decided by the content alone."""
    return "validation" if digest_of(content, f"{seed} ") < held_out * 2**64 else "train"


def digest_of(content: Parsed, salt: str = "") -> int:
    """A number below 2**64 that equal rows share."""
    text = f"{salt}{content!r}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())


@dataclass
class Prepared:
    """What became of the sources: counts per split, and what was left out."""

    tokens: dict[str, int]
    sequences: dict[str, int]
    cut: int
    dropped: int
    bad: int
    in_both: int = 0  # validation rows that are training rows as well


def prepare(
    reader: Reader, tokenizer: Tokenizer, directory: Path, context: int, report: Report = silent
) -> Prepared:
    """Write `directory/train` and `directory/validation` as token shards.

    SFT examples longer than `context` are cut at their end, or dropped when no answer is left; preference
    pairs with an answer that does not fit are dropped. Of a pretraining text the training shard has as many copies as
    the configuration says, every second one with BPE-dropout. Raises DataError when nothing usable is left.
    """
    stage = reader.stage
    result = Prepared({}, {}, 0, 0, 0)
    with (
        ShardWriter(directory / "train", tokenizer.vocab_size, stage != "pretrain") as train,
        ShardWriter(directory / "validation", tokenizer.vocab_size, stage != "pretrain") as validation,
    ):
        writers = {"train": train, "validation": validation}
        digests = {"train": array("Q"), "validation": array("Q")}  # 8 bytes per row
        spare: Item | None = None
        for chunk in _blocks(reader):
            for item, encoded in zip(chunk, _encode(chunk, reader, tokenizer), strict=True):
                written = _write(writers[item.split], encoded, item, context, result)
                if written and item.content != Text(""):
                    digests[item.split].append(digest_of(item.content))
                    if item.split == "train":
                        spare = replace(item, ends_document=True)
            report(Progress(f"tokenizing {stage}", train.tokens + validation.tokens))
        documents = {name: writer.sequences for name, writer in writers.items()}
        if stage == "pretrain":
            _write_copies(train, reader, tokenizer, report)
        if spare is None:
            raise _nothing_usable(reader, result)
        if not validation.sequences:  # so few rows that none was drawn: show the last one
            again = replace(result)  # the row was counted already
            _write(validation, _encode([spare], reader, tokenizer)[0], spare, context, again)
            report(Note(f"{stage}: so few rows that none was held out; the last one is used for validation as well."))
    report(Progress(f"tokenizing {stage}", train.tokens + validation.tokens, finished=True))
    for name, writer in writers.items():
        result.tokens[name], result.sequences[name] = writer.tokens, documents.get(name) or writer.sequences
    result.bad = len(reader.bad)
    result.in_both = int(np.isin(digests["validation"], digests["train"]).sum())
    _tell(stage, reader, result, context, report)
    return result


def _write_copies(train: ShardWriter, reader: Reader, tokenizer: Tokenizer, report: Report) -> None:
    """The text again, as often as `pretrain_copies` says, every second time cut into other tokens.

    Half of the copies stay as answers and prompts will be: with BPE-dropout in all, tinyshakespeare's validation loss
    was behind by 0.1 nats per token.
    """
    c = reader.config
    varied = tokenizer.varied(c.bpe_dropout, reader.seed) if c.pretrain_copies > 1 else tokenizer
    for copy in range(1, c.pretrain_copies):
        again = replace(reader, report=silent, bad=[], forms=Counter())  # all was counted and told before
        for chunk in _blocks(item for item in again if item.split == "train"):
            ids = _encode(chunk, again, varied if copy % 2 else tokenizer)
            for item, encoded in zip(chunk, ids, strict=True):
                _write(train, encoded, item, 0, Prepared({}, {}, 0, 0, 0))
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


# One sequence, or two for a preference; none for a row that the chat template of an imported model refuses.
Encoded = list[tuple[list[int], list[int] | None]]


def _encode(items: list[Item], reader: Reader, tokenizer: Tokenizer) -> list[Encoded]:
    texts = [item.content.text for item in items if isinstance(item.content, Text)]
    encoded = iter(tokenizer.encode_batch(texts))
    return [_encode_one(item, encoded, reader, tokenizer) for item in items]


def _encode_one(item: Item, texts: Iterator[list[int]], reader: Reader, tokenizer: Tokenizer) -> Encoded:
    if isinstance(item.content, Text):
        return [(_ended(next(texts), item, tokenizer), None)]
    try:
        found = _encode_messages(item.content, tokenizer, reader.stage)
    except DataError as error:
        reader.reject(RowError(item.where, error.message.rstrip("."), error.hint))
        return []
    return [(_ended(found[0][0], item, tokenizer), None)] if reader.stage == "pretrain" else found


def _ended(ids: list[int], item: Item, tokenizer: Tokenizer) -> list[int]:
    """A document's ids with the token that closes it."""
    return [*ids, tokenizer.end_of_text] if item.ends_document else ids


def _encode_messages(content: Parsed, tokenizer: Tokenizer, stage: str) -> Encoded:
    if isinstance(content, Conversation):
        ids, mask = render(tokenizer, content.messages)
        return [(ids, None if stage == "pretrain" else mask)]
    assert isinstance(content, Preference), content
    return [_answer(tokenizer, content, answer) for answer in (content.chosen, content.rejected)]


def _answer(tokenizer: Tokenizer, pair: Preference, answer: list) -> tuple[list[int], list[int]]:
    """Ids of prompt + answer with a mask on the answer only, also when the prompt holds earlier answers."""
    prompt, _ = render(tokenizer, pair.prompt, generation_prompt=True)
    ids, mask = render(tokenizer, pair.prompt + answer)
    return ids, [0] * len(prompt) + mask[len(prompt) :]


def _write(writer: ShardWriter, encoded: Encoded, item: Item, context: int, result: Prepared) -> bool:
    """Whether the item was kept."""
    if not encoded:
        return False
    if encoded[0][1] is None:
        writer.add(encoded[0][0], ends=item.ends_document)
    elif len(encoded) == 2:
        if any(len(ids) > context + 1 for ids, _ in encoded):
            result.dropped += 1
            return False
        for ids, mask in encoded:
            writer.add(ids, mask)
    else:
        ids, mask = encoded[0]
        if len(ids) > context + 1:
            ids, mask = ids[: context + 1], mask[: context + 1]
            if not any(mask):
                result.dropped += 1
                return False
            result.cut += 1
        writer.add(ids, mask)
    return True


def _nothing_usable(reader: Reader, result: Prepared) -> DataError:
    sources = ", ".join(getattr(reader.config, reader.stage)) or "no source"
    if reader.bad:
        return DataError(f"{reader.stage}: none of {len(reader.bad)} rows is usable; the first: {reader.bad[0]}")
    if result.dropped:
        return DataError(
            f"{reader.stage}: all rows of {sources} are longer than the context.",
            "Raise model.context or shorten the rows.",
        )
    return DataError(f"{reader.stage}: there is no usable row in {sources}.", "Give data with --data FILE.")


def _tell(stage: str, reader: Reader, result: Prepared, context: int, report: Report) -> None:
    rows = {name: count // (2 if stage == "dpo" else 1) for name, count in result.sequences.items()}
    unit = {"pretrain": "document", "sft": "conversation", "dpo": "pair"}[stage]
    report(
        Note(
            f"{stage}: {rows['train']:,} {unit}{'s' * (rows['train'] != 1)} "
            f"({result.tokens['train']:,} tokens) to train on, "
            f"{rows['validation']:,} held out ({result.tokens['validation']:,} tokens)."
        )
    )
    if pairs := stage == "sft" and reader.forms["dpo"] + reader.forms["dpo-implicit"]:
        report(Note(f"sft: {pairs:,} rows are preference pairs; of these the chosen answers are learned."))
    if stage == "pretrain" and (copies := reader.config.pretrain_copies) > 1:
        report(Note(f"pretrain: the text is there {copies} times, every second one with BPE-dropout."))
    if result.in_both:
        report(
            Note(
                f"{stage}: {result.in_both:,} of the rows held out are training rows, too: "
                "what is measured on them says little."
            )
        )
    if result.cut:
        report(Note(f"{stage}: {result.cut:,} rows were longer than the context of {context} tokens and cut."))
    if result.dropped:
        report(Note(f"{stage}: {result.dropped:,} rows were too long for the context of {context} and left out."))
    if reader.bad:
        report(Note(f"{stage}: {len(reader.bad):,} bad rows were skipped; the first: {reader.bad[0]}"))
