"""From text to token ids and back, without loss: what every tokenizer can do.

Three kinds share one layout of ids: special tokens first, then the 256 bytes, then learned pieces. `bpe` (bpe.py)
learns its pieces with SentencePiece; `char` (characters.py) has one piece per character of its training text; `byte`
has none. What no piece covers is written as bytes, so that every text can be encoded and comes back unchanged.
A fourth kind came with a model (imported.py) and has a layout of its own.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

import numpy as np

from minigpt.errors import DataError
from minigpt.text.messages import Message

UNKNOWN, END_OF_TEXT, IM_START, IM_END = 0, 1, 2, 3
SPECIALS = ["<unk>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"] + [f"<|reserved_{i}|>" for i in range(28)]
FIRST_BYTE = len(SPECIALS)
FIRST_PIECE = FIRST_BYTE + 256


class Tokenizer(ABC):
    """Text <-> ids. Special tokens are never produced from text: they are put in by id (see `minigpt.text.chatml`)."""

    kind: str
    token_bytes: list[bytes]  # what each id stands for; specials stand for nothing
    end_of_text: int = END_OF_TEXT  # closes a document
    stops: tuple[int, ...] = (IM_END, END_OF_TEXT)  # an answer ends with one of these
    chats: bool = True  # whether it brings a chat template of its own
    takes_tools: bool = False  # whether that template has words for functions that may be called
    control_names: re.Pattern = re.compile("|".join(map(re.escape, SPECIALS)))

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

    def spaced(self) -> list[tuple[int, int]]:
        """The two tokens of each word that has them: without the space before it, and with it."""
        ids = {token: i for i, token in enumerate(self.token_bytes) if token and not self.is_byte(i)}
        return [(ids[token[1:]], i) for token, i in ids.items() if token[:1] == b" " and token[1:] in ids]

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

        Each merge of two pieces is omitted with probability `dropout`. What it is given in which order, and the
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

    def quoted(self, text: str) -> str:
        """The text with quotation marks around each name of a control token, which in a text is only letters."""
        return self.control_names.sub("“\\g<0>”", text)

    def show_quoted(self, ids: Iterable[int]) -> str:
        """Like `show`, with the text in it `quoted`: what a control token is and what only looks like one differ."""
        parts = ((control, self.show(group)) for control, group in groupby(ids, self.is_control))
        return "".join(text if control else self.quoted(text) for control, text in parts)

    def render(self, messages: list[Message], open_turn: bool = False) -> tuple[list[int], list[int]] | None:
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

    def is_control(self, token: int) -> bool:
        """Whether the id is a special token's, which no text can have."""
        return token < FIRST_BYTE

    def is_byte(self, token: int) -> bool:
        """Whether the id is a fallback byte (a sign that the vocabulary does not cover the text)."""
        return FIRST_BYTE <= token < FIRST_PIECE

    @abstractmethod
    def save(self, directory: Path) -> None: ...


def base_tokens() -> list[bytes]:
    return [b""] * FIRST_BYTE + [bytes([byte]) for byte in range(256)]


def check_text(text: str) -> None:
    """Raises DataError for lone surrogates, which are not text."""
    utf8(text)


def utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"The text holds a lone surrogate (U+{ord(text[error.start]):04X}) at character {error.start}.",
            "It is half of a character; repair the text where it was cut.",
        ) from None


def same_tokenizer(one: Tokenizer, other: Tokenizer) -> bool:
    """Whether two tokenizers give every text the same ids."""
    return (one.kind, one.end_of_text, one.stops) == (other.kind, other.end_of_text, other.stops) and (
        one.token_bytes == other.token_bytes
    )
