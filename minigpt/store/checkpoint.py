"""Checkpoints that are there whole or not at all.

A checkpoint is a directory of safetensors files, `state.json` and `manifest.json` (SHA-256 of the others). It
is written under a temporary name, flushed to the disk and renamed. Nothing is ever pickled.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from backends.tree import Tree, items, leaves
from minigpt.errors import CheckpointError, ResourceError
from minigpt.store.durable import whole_directory

Write = Callable[[Tree, Path], None]  # a tree into a safetensors file
ELSEWHERE = "choose another --run directory; earlier checkpoints are untouched."
SPARE = 1 << 20  # bytes of disk beside the arrays: headers, state, manifest, directories


def save_checkpoint(
    directory: Path, trees: dict[str, Tree], state: dict[str, Any], numpy: Callable[[Any], np.ndarray] = np.asarray,
    write: Write | None = None,
) -> None:  # fmt: skip
    """Write each tree as NAME.safetensors and the JSON-able `state` into `directory`, replacing it as a whole.

    `numpy` turns a leaf into a NumPy array (`Backend.numpy`). Instead, `write` may write the file of a tree, for which
    it needs as much room again for a while.

    Raises ResourceError when the disk has too little room or refuses; what was there before stays then.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        sizes = [sum(leaf.nbytes for leaf in leaves(tree)) for tree in trees.values()]
        check_room(directory, sum(sizes) + (max(sizes) if write is not None else 0))
        with whole_directory(directory) as temporary:
            for name, tree in trees.items():
                file = temporary / f"{name}.safetensors"
                if write is not None:
                    write(tree, file)
                    continue
                arrays = {key: np.asarray(numpy(leaf), order="C") for key, leaf in items(tree)}
                save_file(arrays, file, metadata={"format": "pt"})
            (temporary / "state.json").write_text(json.dumps(state, indent=1), "utf-8")
            manifest = {path.name: _sha256(path) for path in sorted(temporary.iterdir())}
            (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1), "utf-8")
    except (OSError, SafetensorError) as error:  # safetensors has its own class for a full disk
        raise unwritten(directory, error) from None


def unwritten(directory: Path, error: Exception) -> ResourceError:
    """What is said of a checkpoint that the disk refused."""
    return ResourceError(
        f"The checkpoint {directory} could not be written: {getattr(error, 'strerror', None) or error}.",
        f"Free some space or {ELSEWHERE}",
    )


def check_room(directory: Path, size: int, what: str = "checkpoint", otherwise: str = ELSEWHERE) -> None:
    """Raises ResourceError when the disk that `directory` will be on has no room for `size` more bytes.

    The message says `what` it is for, and what to do if space cannot be made.
    """
    place = next(path for path in directory.absolute().parents if path.exists())
    free = shutil.disk_usage(place).free
    if free < size + SPARE:
        needed, left = (f"{number / 1e6:,.1f} MB" for number in (size + SPARE, free))
        raise ResourceError(
            f"The {what} {directory} needs {needed} and the disk has {left} left.", f"Free some space or {otherwise}"
        )


def load_checkpoint(directory: Path) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, Any]]:
    """({tree name: {leaf name: NumPy array}}, state) of a checkpoint after its checksums are verified.

    The leaves come in the file's order; `backends.tree.arranged` puts them into a tree. Raises CheckpointError
    that names the file when one is missing or changed.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    verify_checkpoint(directory)
    try:
        trees = {path.stem: load_file(path) for path in sorted(directory.glob("*.safetensors"))}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"The checkpoint {directory} cannot be read: {error}.", _hint(directory)) from None
    return trees, read_state(directory)


def verify_checkpoint(directory: Path) -> None:
    """Compare each file with the manifest. Raises CheckpointError that names what is wrong."""
    try:
        manifest = json.loads((directory / "manifest.json").read_text("utf-8"))
        files = dict(manifest)
        files["state.json"]  # a manifest that lists nothing would verify nothing
    except (OSError, ValueError, TypeError, KeyError):
        message = f"The checkpoint {directory} has no readable manifest.json."
        raise CheckpointError(message, _hint(directory)) from None
    for name, expected in files.items():
        path = directory / name
        if not path.is_file():
            raise CheckpointError(f"The checkpoint {directory} lacks {name}.", _hint(directory))
        if _sha256(path) != expected:
            raise CheckpointError(f"The checkpoint file {path} was changed after it was written.", _hint(directory))
    if more := sorted({path.name for path in directory.glob("*.safetensors")} - files.keys()):
        raise CheckpointError(f"The checkpoint {directory} has a file of another one: {more[0]}.", _hint(directory))


def read_state(directory: Path) -> dict[str, Any]:
    """`state.json` alone, without reading the arrays."""
    try:
        state = json.loads((directory / "state.json").read_text("utf-8"))
        if isinstance(state, dict):
            return state
    except (OSError, ValueError):
        pass
    raise CheckpointError(f"The checkpoint {directory} has no readable state.json.", _hint(directory)) from None


def _hint(directory: Path) -> str:
    return f"Delete {directory} and give the training command again: it goes on from what is left."


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
