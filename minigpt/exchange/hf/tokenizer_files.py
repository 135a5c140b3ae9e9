"""A run's tokenizer as the files that other tools read: tokenizer.json, its settings and the chat template.

In tokenizer.json a piece is written with its real spaces and not with SentencePiece's U+2581, so that nothing is
replaced before or after the merges, and a real U+2581 in a text becomes its three bytes, as it does here.

Control tokens: other tools look for them in the whole rendered conversation. The chat template therefore puts
the noncharacter U+FDD0 into each "<|" and "<unk>" that a user wrote, where it keeps control tokens from being found;
the tokenizer drops it again. (Unicode keeps noncharacters out of texts: one in a text would be lost.)
"""

import json
from pathlib import Path

from minigpt.text.imported import GUARD, ImportedTokenizer
from minigpt.text.tokenizer import END_OF_TEXT, FIRST_PIECE, IM_END, SPECIALS, UNKNOWN, Tokenizer

SAID = (
    "{{- message['content'] | replace('<|', '<|" + GUARD + "') | replace('<unk>', '<" + GUARD + "unk>') -}}"
    "{{- '<|im_end|>' -}}"
)
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' -}}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}" + SAID + "{%- endgeneration -%}"  # what trainers such as TRL learn
    "{%- else -%}" + SAID + "{%- endif -%}"
    "{{- '\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


def write_tokenizer(tokenizer: Tokenizer, directory: Path, context: int) -> None:
    """The four files of a tokenizer of ours; those of one that was imported as they came."""
    if isinstance(tokenizer, ImportedTokenizer):
        tokenizer.write_files(directory)
        return
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context,
        "unk_token": SPECIALS[UNKNOWN], "eos_token": SPECIALS[IM_END], "pad_token": SPECIALS[END_OF_TEXT],
        "clean_up_tokenization_spaces": False, "add_bos_token": False,
        "added_tokens_decoder": {str(token["id"]): _without_id(token) for token in added_tokens()},
    }  # fmt: skip
    generation = {"eos_token_id": list(tokenizer.stops), "pad_token_id": END_OF_TEXT}
    write_json(directory / "tokenizer.json", tokenizer_json(tokenizer))
    write_json(directory / "tokenizer_config.json", settings)
    write_json(directory / "generation_config.json", generation)
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE, "utf-8")


def tokenizer_json(tokenizer: Tokenizer) -> dict:
    """The content of tokenizer.json: BPE with byte fallback (without merges for characters and bytes)."""
    pieces = [piece.decode() for piece in tokenizer.token_bytes[FIRST_PIECE:]]
    tokens = [*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens(),
        "normalizer": {"type": "Replace", "pattern": {"String": GUARD}, "content": ""},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": SPECIALS[UNKNOWN], "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": True, "ignore_merges": False,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": merges(pieces) if tokenizer.kind == "bpe" else [],
        },
    }  # fmt: skip


def merges(pieces: list[str]) -> list[list[str]]:
    """All pairs of pieces that make a piece, the piece that was learned first in front.

    SentencePiece merges any two neighbours whose union is a piece, not only the pair that it was learned from.
    """
    known = set(pieces)
    return [
        [piece[:cut], piece[cut:]]
        for piece in pieces
        for cut in range(1, len(piece))
        if piece[:cut] in known and piece[cut:] in known
    ]


def added_tokens() -> list[dict]:
    """Tokens that stand outside the merges and are found in a text before anything else is done with it."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return [{"id": number, "content": token} | flags for number, token in enumerate(SPECIALS)]


def _without_id(token: dict) -> dict:
    return {key: value for key, value in token.items() if key != "id"}


def write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", "utf-8")
