"""A tokenizer of any kind, read from the directory it was saved in."""

import json
from pathlib import Path

from minigpt.errors import DataError
from minigpt.text.bpe import BPETokenizer
from minigpt.text.characters import CharTokenizer
from minigpt.text.imported import load_imported
from minigpt.text.tokenizer import Tokenizer


def load_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer saved in `directory`. Raises DataError when there is none or it cannot be read."""
    meta = directory / "tokenizer_meta.json"
    try:
        content = json.loads(meta.read_text("utf-8"))
        if content["kind"] == "bpe":
            return BPETokenizer((directory / "tokenizer.model").read_bytes())
        if content["kind"] == "imported":
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
