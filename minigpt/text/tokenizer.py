"""From text to token ids and back, without loss.

Three kinds share one layout of ids: special tokens first, then the 256 bytes, then learned pieces. `bpe`
learns its pieces with SentencePiece; `char` has one piece per character of its training text; `byte` has
none. What no piece covers is written as bytes, so that every text can be encoded and comes back unchanged.
"""

import io
import json
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from minigpt.errors import DataError, MiniGPTError

UNKNOWN, END_OF_TEXT, IM_START, IM_END = 0, 1, 2, 3
SPECIALS = ["<unk>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"] + [f"<|reserved_{i}|>" for i in range(28)]
FIRST_BYTE = len(SPECIALS)
FIRST_PIECE = FIRST_BYTE + 256
SMALLEST = FIRST_PIECE + 12  # vocabulary that BPE can be trained for


class Tokenizer(ABC):
    """Text <-> ids. Special tokens are never produced from text: they are put in by id (see `minigpt.text.chatml`)."""

    kind: str
    token_bytes: list[bytes]  # what each id stands for; specials stand for nothing
    end_of_text: int = END_OF_TEXT  # closes a document
    stops: tuple[int, ...] = (IM_END, END_OF_TEXT)  # an answer ends with one of these
    chats: bool = True  # whether it brings a chat template of its own

    @property
    def vocab_size(self) -> int:
        return len(self.token_bytes)

    @property
    def byte_lengths(self) -> np.ndarray:
        """(V,) int32: UTF-8 bytes per token, to turn nats per token into bits per byte."""
        return np.array([len(token) for token in self.token_bytes], np.int32)

    @property
    def character_lengths(self) -> np.ndarray:
        """(V,) int32: characters that begin in each token (a UTF-8 continuation byte begins none)."""
        return np.array([sum(byte & 0xC0 != 0x80 for byte in token) for token in self.token_bytes], np.int32)

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of `text`. Raises DataError for lone surrogates, which are not text."""

    def prompt(self, text: str) -> list[int]:
        """The ids that a text to be continued begins with; never empty."""
        return self.encode(text) or [self.end_of_text]

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def varied(self, dropout: float, seed: int) -> "Tokenizer":
        """A tokenizer that cuts a text into other tokens of this one each time: BPE-dropout (Provilkov et al. 2020).

        Each merge of two pieces is left out with probability `dropout`. What it is given in which order, and the
        seed, decide what it returns. Raises DataError for a kind that has no merges.
        """
        hint = "Set data.pretrain_copies to 1, or tokenizer.kind to bpe."
        raise DataError(f"A tokenizer of the kind {self.kind!r} cuts a text one way only.", hint)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; special tokens disappear, bytes that are no UTF-8 become U+FFFD."""
        return b"".join(map(self.bytes_of, ids)).decode("utf-8", errors="replace")

    def bytes_of(self, token: int) -> bytes:
        """What an id stands for: nothing, when the model has room for more tokens than there are."""
        return self.token_bytes[token] if token < len(self.token_bytes) else b""

    def show(self, ids: Iterable[int]) -> str:
        """Like `decode`, with special tokens written out, for people to read."""
        parts = (SPECIALS[i].encode() if i < FIRST_BYTE else self.bytes_of(i) for i in ids)
        return b"".join(parts).decode("utf-8", errors="replace")

    def render(self, messages: list, open_turn: bool = False) -> tuple[list[int], list[int]] | None:
        """(ids, loss mask) of a conversation for a tokenizer with a chat template; None: as `text.chatml` has it."""
        return None

    def mentions_control(self, text: str) -> bool:
        """Whether other tools would find a control token in what a user wrote, which the chat template prevents."""
        return False

    def pieces(self, text: str) -> list[tuple[int, str, bool]]:
        """(id, how to show it, whether it is a single byte) for each token of `text`; a byte is shown as <F0>."""
        return [
            (i, f"<{self.token_bytes[i][0]:02X}>" if self.is_byte(i) else self.show([i]), self.is_byte(i))
            for i in self.encode(text)
        ]

    def is_byte(self, token: int) -> bool:
        """Whether the id is a fallback byte (a sign that the vocabulary does not cover the text)."""
        return FIRST_BYTE <= token < FIRST_PIECE

    @abstractmethod
    def save(self, directory: Path) -> None: ...


class CharTokenizer(Tokenizer):
    """One token per known character, bytes for the others. With no characters: the byte tokenizer."""

    def __init__(self, characters: str):
        self.kind = "char" if characters else "byte"
        self.characters = characters
        self._ids = {character: FIRST_PIECE + i for i, character in enumerate(characters)}
        self.token_bytes = _base_tokens() + [character.encode() for character in characters]

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for character in text:
            known = self._ids.get(character)
            if known is not None:
                ids.append(known)
            else:
                ids.extend(FIRST_BYTE + byte for byte in _utf8(character))
        return ids

    def save(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        content = {"kind": self.kind, "characters": self.characters}
        (directory / "tokenizer_meta.json").write_text(json.dumps(content, ensure_ascii=False), "utf-8")


class BPETokenizer(Tokenizer):
    """SentencePiece BPE with byte fallback. Newlines are never part of a longer piece, spaces only lead one."""

    kind = "bpe"

    def __init__(self, model: bytes):
        from sentencepiece import SentencePieceProcessor

        self.model = model
        self._processor = SentencePieceProcessor(model_proto=model)
        pieces = [self._processor.id_to_piece(i) for i in range(self._processor.get_piece_size())]
        if pieces[:FIRST_PIECE] != SPECIALS + [f"<0x{byte:02X}>" for byte in range(256)]:
            raise DataError("This SentencePiece model was not made by minigpt.", "Train one: minigpt tokenizer train.")
        self.token_bytes = _base_tokens() + [p.replace("\u2581", " ").encode() for p in pieces[FIRST_PIECE:]]

    def scored_pieces(self) -> tuple[list[str], list[float]]:
        """(pieces, scores) from FIRST_PIECE on, as SentencePiece has them: the higher score is joined first."""
        ids = range(FIRST_PIECE, self.vocab_size)
        return [self._processor.id_to_piece(i) for i in ids], [self._processor.get_score(i) for i in ids]

    def encode(self, text: str) -> list[int]:
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        for text in texts:
            check_text(text)
        encoded = self._cut(texts)
        return [
            self._encode_with_marker(text) if "\u2581" in text else ids
            for text, ids in zip(texts, encoded, strict=True)
        ]

    def _cut(self, texts: list[str]) -> list[list[int]]:
        return self._processor.encode(texts, num_threads=-1 if len(texts) > 8 else 1)

    def _encode_with_marker(self, text: str) -> list[int]:
        """U+2581 is SentencePiece's sign for a space: a real one in the text goes in as its bytes."""
        marker = [FIRST_BYTE + byte for byte in "\u2581".encode()]
        ids: list[int] = []
        for number, part in enumerate(self._cut(text.split("\u2581"))):
            ids += (marker if number else []) + part
        return ids

    def varied(self, dropout: float, seed: int) -> "Tokenizer":
        return _VariedBPE(self.model, dropout, seed)

    def save(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "tokenizer.model").write_bytes(self.model)
        (directory / "tokenizer_meta.json").write_text(json.dumps({"kind": "bpe"}), "utf-8")


class _VariedBPE(BPETokenizer):
    def __init__(self, model: bytes, dropout: float, seed: int):
        from sentencepiece import set_random_generator_seed

        super().__init__(model)
        self.dropout = dropout
        # a thread of SentencePiece has its own random numbers, which begin with the seed that it finds at first
        self._thread = ThreadPoolExecutor(1, initializer=set_random_generator_seed, initargs=(seed % 2**32,))

    def _cut(self, texts: list[str]) -> list[list[int]]:
        settings = {"enable_sampling": True, "alpha": self.dropout, "nbest_size": -1}
        return self._thread.submit(lambda: [self._processor.encode(text, **settings) for text in texts]).result()


def train_tokenizer(kind: str, texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn a tokenizer from a (bounded) sample of texts.

    `vocab_size` is an upper bound for `bpe`: a small corpus has fewer pairs to merge. Raises DataError when
    there is no text, and MiniGPTError when the vocabulary has no room beside the bytes.
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
    return _train_bpe(texts, vocab_size)


def _train_bpe(texts: Iterable[str], vocab_size: int) -> BPETokenizer:
    from sentencepiece import SentencePieceTrainer

    if vocab_size < SMALLEST:
        raise MiniGPTError(
            f"A vocabulary of {vocab_size} cannot hold {FIRST_BYTE} special tokens, 256 bytes and a few pieces.",
            f"Set tokenizer.vocab_size to at least {SMALLEST}.",
        )
    model = io.BytesIO()
    texts = _without_rare(list(texts), (vocab_size - FIRST_PIECE) // 2)
    try:
        SentencePieceTrainer.train(
            sentence_iterator=_sentences(texts), model_writer=model, model_type="bpe", vocab_size=vocab_size,
            hard_vocab_limit=False, byte_fallback=True, normalization_rule_name="identity", add_dummy_prefix=False,
            remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, split_digits=True,
            character_coverage=0.9995, unk_id=UNKNOWN, bos_id=-1, eos_id=-1, pad_id=-1,
            unk_piece=SPECIALS[0], control_symbols=SPECIALS[1:], max_sentence_length=1 << 20, minloglevel=2,
        )  # fmt: skip
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].rpartition("] ")[2].strip(" .") or "it is empty"
        raise DataError(
            f"SentencePiece cannot learn {vocab_size} pieces from this text: {reason}.",
            "Give it more text, lower tokenizer.vocab_size, or use tokenizer.kind = 'byte'.",
        ) from None
    return BPETokenizer(model.getvalue())


def _without_rare(texts: list[str], room: int) -> list[str]:
    """The texts with line ends for all but the `room` commonest characters, which are left to the byte tokens.

    SentencePiece gives each character a piece and refuses a text that has more of them than the vocabulary.
    """
    counts = Counter()
    for text in texts:
        counts.update(text)
    rare = {ord(character): "\n" for character, _ in counts.most_common()[room:]}
    return [text.translate(rare) for text in texts] if rare else texts


def _sentences(texts: Iterable[str]) -> Iterator[str]:
    """Lines without their ends (so that no piece contains a newline), cut to what the trainer accepts."""
    for text in texts:
        for line in re.split(r"[\r\n\u2581]", text):
            for start in range(0, len(line), 4096):
                yield line[start : start + 4096]


def load_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer saved in `directory`. Raises DataError when there is none or it cannot be read."""
    meta = directory / "tokenizer_meta.json"
    try:
        content = json.loads(meta.read_text("utf-8"))
        if content["kind"] == "bpe":
            return BPETokenizer((directory / "tokenizer.model").read_bytes())
        if content["kind"] == "imported":
            from minigpt.text.imported import load_imported

            return load_imported(directory, content)
        return CharTokenizer(content["characters"])
    except FileNotFoundError as error:
        raise DataError(
            f"There is no tokenizer in {directory} ({Path(error.filename).name} is missing).",
            "Train one: minigpt tokenizer train FILE --out DIR.",
        ) from None
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = "tokenizer.model is damaged" if isinstance(error, RuntimeError) else error
        raise DataError(f"The tokenizer in {directory} cannot be read: {reason}.", "Train it again.") from None


def _base_tokens() -> list[bytes]:
    return [b""] * FIRST_BYTE + [bytes([byte]) for byte in range(256)]


def check_text(text: str) -> None:
    """Raises DataError for lone surrogates, which are not text."""
    _utf8(text)


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"The text holds a lone surrogate (U+{ord(text[error.start]):04X}) at character {error.start}.",
            "It is half of a character; repair the text where it was cut.",
        ) from None
