"""Checkpoints that are there whole or not at all.

A checkpoint is a directory of safetensors files, `state.json` and `manifest.json` (SHA-256 of the others). It
is written under a temporary name, flushed to the disk and renamed. Nothing is ever pickled.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from backends.tree import Tree, items
from minigpt.errors import CheckpointError, ResourceError


def save_checkpoint(
    directory: Path, trees: dict[str, Tree], state: dict[str, Any], numpy: Callable[[Any], np.ndarray] = np.asarray
) -> None:
    """Write each tree as NAME.safetensors and the JSON-able `state` into `directory`, replacing it as a whole.

    `numpy` turns a leaf into a NumPy array (`Backend.numpy`).

    Raises ResourceError when the disk refuses; what was there before stays then.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    temporary = directory.with_name(f".{directory.name}.{os.getpid()}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for name, tree in trees.items():
            arrays = {key: np.ascontiguousarray(numpy(leaf)) for key, leaf in items(tree)}
            save_file(arrays, temporary / f"{name}.safetensors", metadata={"format": "pt"})
        (temporary / "state.json").write_text(json.dumps(state, indent=1), "utf-8")
        manifest = {path.name: _sha256(path) for path in sorted(temporary.iterdir())}
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1), "utf-8")
        for path in [*temporary.iterdir(), temporary]:
            _flush(path)
        _replace(temporary, directory)
    except KeyboardInterrupt:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    except (OSError, SafetensorError) as error:  # safetensors has its own class for a full disk
        shutil.rmtree(temporary, ignore_errors=True)
        raise ResourceError(
            f"The checkpoint {directory} could not be written: {getattr(error, 'strerror', None) or error}.",
            "Free some space or choose another --run directory; earlier checkpoints are untouched.",
        ) from None


def load_checkpoint(directory: Path) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, Any]]:
    """({tree name: {leaf name: NumPy array}}, state) of a checkpoint after its checksums are verified.

    The leaves come in the file's order; `backends.tree.arranged` puts them into a tree. Raises CheckpointError
    that names the file when one is missing or changed.
    """
    from safetensors.numpy import load_file

    verify_checkpoint(directory)
    trees = {path.stem: load_file(path) for path in sorted(directory.glob("*.safetensors"))}
    return trees, read_state(directory)


def verify_checkpoint(directory: Path) -> None:
    """Compare each file with the manifest. Raises CheckpointError that names what is wrong."""
    hint = f"Delete {directory} and give the training command again: it goes on from what is left."
    try:
        manifest = json.loads((directory / "manifest.json").read_text("utf-8"))
        files = dict(manifest)
        files["state.json"]  # a manifest that lists nothing would verify nothing
    except (OSError, ValueError, TypeError, KeyError):
        raise CheckpointError(f"The checkpoint {directory} has no readable manifest.json.", hint) from None
    for name, expected in files.items():
        path = directory / name
        if not path.is_file():
            raise CheckpointError(f"The checkpoint {directory} lacks {name}.", hint)
        if _sha256(path) != expected:
            raise CheckpointError(f"The checkpoint file {path} was changed after it was written.", hint)


def read_state(directory: Path) -> dict[str, Any]:
    """`state.json` alone, without reading the arrays."""
    try:
        return json.loads((directory / "state.json").read_text("utf-8"))
    except (OSError, ValueError):
        raise CheckpointError(f"The checkpoint {directory} has no readable state.json.", "Remove it.") from None


def _replace(temporary: Path, directory: Path) -> None:
    old = directory.with_name(f".{directory.name}.{os.getpid()}.old")
    if directory.exists():
        os.rename(directory, old)
    try:
        os.rename(temporary, directory)
    except OSError:
        if old.exists():
            os.rename(old, directory)
        raise
    _flush(directory.parent)
    shutil.rmtree(old, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
