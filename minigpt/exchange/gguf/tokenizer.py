"""Our tokenizers in GGUF's form: the vocabulary of llama.cpp's SentencePiece BPE with byte fallback ("llama").

llama.cpp joins the neighbouring pieces with the highest score first, as SentencePiece does. A character tokenizer is
one whose pieces cannot be joined, and a byte tokenizer one without pieces.
"""

from collections.abc import Sequence
from typing import Any

from minigpt.exchange.gguf.imported_tokenizer import add_imported
from minigpt.text.bpe import BPETokenizer
from minigpt.text.characters import CharTokenizer
from minigpt.text.imported import ImportedTokenizer
from minigpt.text.tokenizer import END_OF_TEXT, FIRST_BYTE, FIRST_PIECE, IM_END, SPECIALS, UNKNOWN, Tokenizer

SPACE = "\u2581"  # how a space is written in the vocabulary; a real U+2581 in a text becomes a space there
# llama.cpp looks for special tokens in the whole rendered conversation. Those that a user writes are broken up,
# so that they stay text.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' -}}"
    "{{- message['content'] | replace('<|', '< |') | replace('<unk>', '< unk>') + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


def add_tokenizer(writer: Any, tokenizer: Tokenizer, vocab_size: int) -> None:
    """Write the vocabulary, filled up to the model's `vocab_size`, and the special tokens to a GGUFWriter.

    Raises UsageError for an imported tokenizer that llama.cpp cannot have.
    """
    if isinstance(tokenizer, ImportedTokenizer):
        add_imported(writer, tokenizer, vocab_size)
        return
    tokens, scores = vocabulary(tokenizer)
    filling = range(len(tokens), vocab_size)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens + [f"<|unused_{i}|>" for i in filling])
    writer.add_token_scores(scores + [0.0] * len(filling))
    writer.add_token_types(token_types(tokens) + [_type("UNUSED")] * len(filling))
    writer.add_bos_token_id(END_OF_TEXT)
    writer.add_eos_token_id(IM_END)
    writer.add_eot_token_id(IM_END)
    writer.add_unk_token_id(UNKNOWN)
    writer.add_pad_token_id(END_OF_TEXT)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_remove_extra_whitespaces(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def vocabulary(tokenizer: Tokenizer) -> tuple[list[str], list[float]]:
    """(tokens, scores): the pieces with SPACE for a space, the higher score joined first."""
    base = SPECIALS + [f"<0x{byte:02X}>" for byte in range(256)]
    if isinstance(tokenizer, BPETokenizer):
        pieces, scores = tokenizer.scored_pieces()
    else:
        assert isinstance(tokenizer, CharTokenizer), tokenizer
        pieces = [SPACE if character == " " else character for character in tokenizer.characters]
        scores = [0.0] * len(pieces)
    if SPACE not in pieces:  # llama.cpp turns each space into SPACE before it looks it up: it is the byte 0x20 then
        base[FIRST_BYTE + 0x20] = SPACE
    return base + pieces, [0.0] * FIRST_PIECE + scores


def token_types(tokens: Sequence[str]) -> list[int]:
    """What each token is: text never becomes a control token, bytes stand for what no piece covers."""
    types = [_type("UNKNOWN")] + [_type("CONTROL")] * (FIRST_BYTE - 1)
    for token in tokens[FIRST_BYTE:FIRST_PIECE]:
        types.append(_type("NORMAL" if token == SPACE else "BYTE"))
    return types + [_type("NORMAL")] * (len(tokens) - FIRST_PIECE)


def _type(name: str) -> int:
    from gguf import TokenType

    return int(TokenType[name])
