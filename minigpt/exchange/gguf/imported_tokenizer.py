"""A tokenizer that came with a model in GGUF's form: byte-level BPE ("gpt2"), or BPE with byte fallback ("llama").

llama.cpp splits texts in ways that it knows by name; a tokenizer.json that splits them otherwise is refused.
"""

import json
from typing import Any

from minigpt.errors import UsageError
from minigpt.text.chat_template import PLAIN_TEMPLATE
from minigpt.text.imported import ImportedTokenizer, template_of
from minigpt.text.token_bytes import BYTE

LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {rf"{LETTERS}\p{{N}}{REST}": "qwen2", rf"{LETTERS}\p{{N}}{{1,3}}{REST}": "llama-bpe"}


def add_imported(writer: Any, tokenizer: ImportedTokenizer, vocab_size: int) -> None:
    """Write the vocabulary, merges, special tokens and chat template to a GGUFWriter.

    Raises UsageError for a tokenizer that llama.cpp cannot have.
    """
    content = json.loads(tokenizer.files["tokenizer.json"])
    model = content["model"]
    if model.get("type") != "BPE":
        raise _unknown(f"a {model.get('type')} model")
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    if model.get("byte_fallback"):
        _add_sentencepiece_like(writer, tokenizer, content, merges, vocab_size)
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(split_name(content))
        writer.add_token_list(tokens_of(tokenizer, vocab_size))
        writer.add_token_merges(merges)
        writer.add_add_space_prefix(False)
    writer.add_token_types(types_of(tokenizer, content, vocab_size))
    _add_special(writer, tokenizer)


def _add_sentencepiece_like(writer: Any, tokenizer: ImportedTokenizer, content: dict, merges: list, size: int) -> None:
    """Llama 2's kind. A piece's score is the place of the first merge that makes it: earlier ones go first."""
    places = {"".join(pair.split(" ")): place for place, pair in reversed(list(enumerate(merges)))}
    tokens = tokens_of(tokenizer, size)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(places.get(token, 0)) for token in tokens])
    parts = [*_parts(content, "normalizer", "normalizers"), *_parts(content, "pre_tokenizer", "pretokenizers")]
    in_front = [part["type"] == "Prepend" or part.get("prepend_scheme") in ("first", "always") for part in parts]
    writer.add_add_space_prefix(any(in_front))
    writer.add_remove_extra_whitespaces(False)


def split_name(content: dict) -> str:
    """llama.cpp's name for the way in which a byte-level tokenizer splits texts before it merges."""
    parts = _parts(content, "pre_tokenizer", "pretokenizers")
    kinds = [part["type"] for part in parts]
    if any(part.get("add_prefix_space") for part in parts):
        raise _unknown("a space in front of each text")
    if kinds == ["ByteLevel"] and parts[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Split", "ByteLevel"] and not parts[1].get("use_regex", True):
        pattern = parts[0]["pattern"].get("Regex")
        if pattern in SPLITS and (parts[0]["behavior"], parts[0]["invert"]) == ("Isolated", False):
            return SPLITS[pattern]
    raise _unknown(f"this way of splitting texts ({', '.join(kinds) or 'none'})")


def tokens_of(tokenizer: ImportedTokenizer, vocab_size: int) -> list[str]:
    """The tokens in the order of their ids; where a model has room for more they are filled up."""
    by_id = {number: token for token, number in tokenizer.known.items()}
    return [by_id.get(i, f"<|unused_{i}|>") for i in range(vocab_size)]


def types_of(tokenizer: ImportedTokenizer, content: dict, vocab_size: int) -> list[int]:
    """What each token is: added ones that are special are control tokens, others are found in any text."""
    from gguf import TokenType

    types = [TokenType.UNUSED] * vocab_size
    for token, number in tokenizer.known.items():
        fallback = content["model"].get("byte_fallback") and BYTE.fullmatch(token)
        types[number] = TokenType.BYTE if fallback else TokenType.NORMAL
    for added in content.get("added_tokens") or []:
        unknown = added["content"] == content["model"].get("unk_token")
        kind = TokenType.UNKNOWN if unknown else TokenType.CONTROL
        types[added["id"]] = kind if added["special"] else TokenType.USER_DEFINED
    return [int(kind) for kind in types]


def _add_special(writer: Any, tokenizer: ImportedTokenizer) -> None:
    settings = json.loads(tokenizer.files.get("tokenizer_config.json", "{}"))
    begin = tokenizer.prompt("a")[0]
    begins = begin in tokenizer.controls.values()
    writer.add_bos_token_id(begin if begins else tokenizer.end_of_text)
    writer.add_eos_token_id(tokenizer.stops[0])
    if tokenizer.chats and (turn := tokenizer.end_of_turn()) is not None:
        writer.add_eot_token_id(turn)
    writer.add_add_bos_token(begins)
    writer.add_add_eos_token(False)
    writer.add_chat_template(template_of(tokenizer.files, settings) or PLAIN_TEMPLATE)


def _parts(content: dict, place: str, inner: str) -> list[dict]:
    """The steps of a normalizer or pre-tokenizer."""
    found = content.get(place)
    if found is None:
        return []
    return found[inner] if found["type"] == "Sequence" else [found]


def _unknown(what: str) -> UsageError:
    return UsageError(f"llama.cpp's tokenizers do not have {what}.", "Export to hf or mlx instead.")
