"""What the tokens of a tokenizer.json stand for, in bytes: read from its decoder. There are three kinds."""

import re

from minigpt.errors import UsageError

BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def bytes_of_tokens(content: dict, vocabulary: dict[str, int]) -> dict[int, bytes]:
    """Id -> bytes for the content of a tokenizer.json and its whole vocabulary; control tokens stand for nothing.

    Raises UsageError that names a decoder for which this is not known.
    """
    kinds = _kinds(content.get("decoder"))
    if "ByteLevel" in kinds:
        table = _byte_level()
        found = {i: bytes(table[c] for c in token if c in table) for token, i in vocabulary.items()}
    elif kinds and set(kinds) <= {"Replace", "Metaspace", "ByteFallback", "Fuse", "Strip"}:
        space = "\u2581" if set(kinds) & {"Replace", "Metaspace"} else None
        found = {i: _plain(token, space, "ByteFallback" in kinds) for token, i in vocabulary.items()}
    else:
        shown = ", ".join(kinds) or "none"
        message = f"tokenizer.json has a decoder that is not supported: {shown}."
        raise UsageError(message, "ByteLevel, Metaspace and ByteFallback are.")
    for token in content.get("added_tokens") or []:
        found[token["id"]] = b"" if token["special"] else token["content"].encode()
    return found


def _kinds(decoder: dict | None) -> list[str]:
    if decoder is None:
        return []
    if decoder["type"] == "Sequence":
        return [kind for part in decoder["decoders"] for kind in _kinds(part)]
    return [decoder["type"]]


def _plain(token: str, space: str | None, bytes_too: bool) -> bytes:
    if bytes_too and (byte := BYTE.fullmatch(token)):
        return bytes([int(byte[1], 16)])
    return (token.replace(space, " ") if space else token).encode()


def _byte_level() -> dict[str, int]:
    """What GPT-2 writes for bytes: printable ones as they are, others from 256 on (its encoder.py)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}
