"""Reading a model's directory that somebody else has written: JSON and safetensors, in one file or several."""

import json
from pathlib import Path

from minigpt.errors import DataError, UsageError
from minigpt.exchange.hf.tensor_files import read_tensors
from minigpt.exchange.hf.tensors import Arrays
from minigpt.text.imported import FILES, ImportedTokenizer, token_text

INDEX = "model.safetensors.index.json"


def read_json(path: Path) -> dict:
    """The object in a JSON file. Raises UsageError when there is none."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.", "Is this a model's directory?") from None
    except ValueError as error:
        raise UsageError(f"{path} is not valid JSON: {error}.", "Copy or download it again.") from None
    if not isinstance(found, dict):
        raise UsageError(f"{path} holds no JSON object.", "Copy or download it again.")
    return found


def read_config(directory: Path) -> dict:
    """config.json of a model's directory; UsageError that says what the directory is not."""
    if not directory.is_dir():
        raise UsageError(f"{directory} is no directory.", "Give one with config.json and model.safetensors.")
    if not (directory / "config.json").exists():
        hint = "A run is used as it is; other formats (GGUF, .bin) cannot be imported."
        raise UsageError(f"{directory} is no model's directory: it has no config.json.", hint)
    return read_json(directory / "config.json")


def read_weights(directory: Path) -> Arrays:
    """All tensors by name, float32. Raises UsageError for a missing or damaged file, and where there is pickle only."""
    tensors: Arrays = {}
    for path in _files(directory):
        tensors |= read_tensors(path)
    return tensors


def _files(directory: Path) -> list[Path]:
    if (directory / "model.safetensors").exists():
        return [directory / "model.safetensors"]
    if not (directory / INDEX).exists():
        hint = "Weights in .bin or .pt files are Python programs and are never loaded; convert them to safetensors."
        raise UsageError(f"{directory} has neither model.safetensors nor {INDEX}.", hint)
    names = read_json(directory / INDEX).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(n, str) and n == Path(n).name for n in names.values()):
        raise UsageError(f"{directory / INDEX} has no weight_map of file names.", "Copy or download it again.")
    files = [directory / name for name in sorted(set(names.values()))]
    for path in files:
        if not path.exists():
            raise UsageError(f"{directory} lacks {path.name}, one of {len(files)} files.", "Copy or download it again.")
    return files


def read_tokenizer(directory: Path, config: dict) -> ImportedTokenizer:
    """The tokenizer of a model's directory, checked against the vocabulary of config.json.

    Raises UsageError when there is none that can be used.
    """
    files = {name: _text(directory / name) for name in FILES if (directory / name).exists()}
    if "tokenizer.json" not in files:
        hint = "transformers makes it: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)."
        raise UsageError(f"{directory} has no tokenizer.json.", hint)
    found = {name: read_json(directory / name) for name in files if name.endswith(".json")}
    room = config["vocab_size"]
    meta = {"vocab_size": room, "stops": [], "end_of_text": 0}
    tokenizer = ImportedTokenizer(files, meta)
    highest = max(tokenizer.known.values())
    if highest >= room:
        raise UsageError(
            f"The tokenizer in {directory} does not match the model: it has tokens up to {highest}, "
            f"config.json has a vocabulary of {room}.", "Both must come from the same model.",
        )  # fmt: skip
    ends = _ends(tokenizer, config, found)
    if not ends:
        raise UsageError(f"{directory} does not say which token ends a text.", "Set eos_token_id in config.json.")
    for end in ends:
        if not 0 <= end < room:
            raise UsageError(f"{directory}: eos_token_id {end} is outside the vocabulary of {room}.")
    meta = {"vocab_size": room, "stops": ends, "end_of_text": ends[0]}
    tokenizer = ImportedTokenizer(files, meta)
    try:
        turn = tokenizer.end_of_turn()
    except DataError:  # a template that allows no loss mask: fine as long as nobody trains on conversations
        turn = None
    return ImportedTokenizer(files, meta | {"stops": [*ends, turn]}) if turn not in (None, *ends) else tokenizer


def _ends(tokenizer: ImportedTokenizer, config: dict, files: dict[str, dict]) -> list[int]:
    """The tokens that end a text, the one that closes a document in front."""
    named = token_text(files.get("tokenizer_config.json", {}).get("eos_token"))
    given = [tokenizer.controls.get("<|endoftext|>"), tokenizer.known.get(named) if named else None]
    for source in (config, files.get("generation_config.json", {})):
        value = source.get("eos_token_id")
        given += value if isinstance(value, list) else [value]
    return list(dict.fromkeys(end for end in given if isinstance(end, int)))


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}.", "Copy or download it again.") from None
