"""Tokenizers without merges: one token per character, or bytes alone."""

import json
from pathlib import Path

from minigpt.text.tokenizer import FIRST_BYTE, FIRST_PIECE, Tokenizer, base_tokens, utf8


class CharTokenizer(Tokenizer):
    """One token per known character, bytes for the others. With no characters: the byte tokenizer."""

    def __init__(self, characters: str):
        self.kind = "char" if characters else "byte"
        self.characters = characters
        self._ids = {character: FIRST_PIECE + i for i, character in enumerate(characters)}
        self.token_bytes = base_tokens() + [character.encode() for character in characters]

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for character in text:
            known = self._ids.get(character)
            if known is not None:
                ids.append(known)
            else:
                ids.extend(FIRST_BYTE + byte for byte in utf8(character))
        return ids

    def save(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        content = {"kind": self.kind, "characters": self.characters}
        (directory / "tokenizer_meta.json").write_text(json.dumps(content, ensure_ascii=False), "utf-8")
