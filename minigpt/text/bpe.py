"""Byte-pair encoding with SentencePiece: the tokenizer, and how it is learned from texts.

SentencePiece writes a space as U+2581. A vocabulary without that character would write each space as U+2581's three
bytes, which stand for U+2581 when they are read back: new tokenizers therefore always have it, and in an older one
that lacks it a space is the byte 0x20.
"""

import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from minigpt.errors import DataError, MiniGPTError
from minigpt.text.tokenizer import FIRST_BYTE, FIRST_PIECE, SPECIALS, UNKNOWN, Tokenizer, base_tokens, check_text

SMALLEST = FIRST_PIECE + 12  # vocabulary that BPE can be trained for
MANY = 64  # texts; SentencePiece makes a pool of threads for each list, which takes as long as some 25 short texts
RARE = 1000  # characters for one space; SentencePiece omits what is rarer than one in 2,000
SPACE = "\u2581"
_MARK = [FIRST_BYTE + byte for byte in SPACE.encode()]  # U+2581 as bytes


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
        self._has_space = SPACE in pieces
        self.token_bytes = base_tokens() + [piece.replace(SPACE, " ").encode() for piece in pieces[FIRST_PIECE:]]

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
        if not self._has_space:
            encoded = [_with_space_bytes(ids) for ids in encoded]
        return [
            self._encode_with_mark(text) if SPACE in text else ids for text, ids in zip(texts, encoded, strict=True)
        ]

    def _cut(self, texts: list[str]) -> list[list[int]]:
        if len(texts) < MANY:
            return [self._processor.encode(text) for text in texts]
        return self._processor.encode(texts, num_threads=-1)

    def _encode_with_mark(self, text: str) -> list[int]:
        """The ids of a text that has a U+2581 of its own, which goes in as its bytes."""
        first, *others = self.encode_batch(text.split(SPACE))
        return first + [i for part in others for i in (*_MARK, *part)]

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


def _with_space_bytes(ids: list[int]) -> list[int]:
    """The ids with the byte 0x20 for each U+2581: in a text without that character all of them are spaces."""
    found: list[int] = []
    for i in ids:
        found.append(i)
        if found[-3:] == _MARK:
            found[-3:] = [FIRST_BYTE + ord(" ")]
    return found


def train_bpe(texts: Iterable[str], vocab_size: int, alone: str = "") -> BPETokenizer:
    """Learn at most `vocab_size` tokens. The characters `alone` are in no longer piece.

    Where no spaces part the words, as in Chinese, a frequent phrase becomes one piece, in which a model does not see
    its words. Raises MiniGPTError when the vocabulary is too small, DataError when there is no text.
    """
    from sentencepiece import SentencePieceTrainer

    if vocab_size < SMALLEST:
        raise MiniGPTError(
            f"A vocabulary of {vocab_size} cannot hold {FIRST_BYTE} special tokens, 256 bytes and a few pieces.",
            f"Set tokenizer.vocab_size to at least {SMALLEST}.",
        )
    model = io.BytesIO()
    texts = list(texts)
    counts = Counter()
    for text in texts:
        counts.update(text)
    texts = _without_rare(texts, counts, (vocab_size - FIRST_PIECE) // 2)
    # only where it would be missing: the setting is written into the model, whose bytes otherwise stay as they were
    required = {"required_chars": SPACE} if counts[" "] * RARE < counts.total() else {}
    try:
        SentencePieceTrainer.train(
            sentence_iterator=_sentences(texts, alone), model_writer=model, model_type="bpe", vocab_size=vocab_size,
            hard_vocab_limit=False, byte_fallback=True, normalization_rule_name="identity", add_dummy_prefix=False,
            remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, split_digits=True,
            character_coverage=0.9995, unk_id=UNKNOWN, bos_id=-1, eos_id=-1, pad_id=-1,
            unk_piece=SPECIALS[0], control_symbols=SPECIALS[1:], max_sentence_length=1 << 20, minloglevel=2, **required,
        )  # fmt: skip
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].rpartition("] ")[2].strip(" .") or "it is empty"
        raise DataError(
            f"SentencePiece cannot learn {vocab_size} pieces from this text: {reason}.",
            "Give it more text, lower tokenizer.vocab_size, or use tokenizer.kind = 'byte'.",
        ) from None
    return BPETokenizer(model.getvalue())


def _without_rare(texts: list[str], counts: Counter[str], room: int) -> list[str]:
    """The texts with line ends for all but the `room` commonest characters, which are left to the byte tokens.

    SentencePiece gives each character a piece and refuses a text that has more of them than the vocabulary.
    """
    rare = {ord(character): "\n" for character, _ in counts.most_common()[room:] if character != " "}
    return [text.translate(rare) for text in texts] if rare else texts


def _sentences(texts: Iterable[str], alone: str) -> Iterator[str]:
    """The stretches that pieces stay within: lines without their ends, between characters that stand alone."""
    ends = re.compile(r"[\r\n\u2581]" + (f"|([{re.escape(alone)}])" if alone else ""))
    for text in texts:
        for line in ends.split(text):
            line = line or ""  # None: an end that is no character of `alone`
            for start in range(0, len(line), 4096):
                yield line[start : start + 4096]
