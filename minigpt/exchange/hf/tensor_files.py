"""safetensors files with bfloat16, which NumPy does not have: rounded on the way out, widened on the way in."""

import json
import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from minigpt.errors import UsageError

CODES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "uint8": "U8", "uint32": "U32", "int32": "I32"}
FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def converted(array: np.ndarray, dtype: str) -> np.ndarray:
    """A float32 array as "float32", "float16" or "bfloat16" (then as uint16 with its bits).

    Raises UsageError when a number is too large for float16.
    """
    array = np.ascontiguousarray(array, np.float32)
    if dtype == "float32":
        return array
    if dtype == "bfloat16":
        bits = array.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)  # to nearest, ties to even
    if float(np.abs(array).max(initial=0.0)) >= 65520:
        raise UsageError("A weight is larger than float16 can hold (65,504).", "Export with --dtype bfloat16.")
    return array.astype(np.float16)


def rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    """The float32 numbers that a reader gets back from `converted(array, dtype)`."""
    stored = converted(array, dtype)
    return _widened(stored) if dtype == "bfloat16" else stored.astype(np.float32)


def write_tensors(path: Path, tensors: Iterable[tuple[str, np.ndarray]], dtype: str, metadata: dict[str, str]) -> None:
    """Write float32 arrays by name as `dtype`; arrays of integers stay as they are."""
    header: dict = {"__metadata__": metadata}
    stored, start = [], 0
    for name, array in tensors:
        floating = array.dtype.kind == "f"
        data = converted(array, dtype) if floating else np.ascontiguousarray(array)
        stop = start + data.nbytes
        kind = CODES[dtype if floating else array.dtype.name]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [start, stop]}
        stored.append(data)
        start = stop
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for data in stored:
            file.write(data.tobytes())


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Name -> float32 array of each tensor. Raises UsageError for a damaged file.

    Read through a memory map, one tensor after the other: only what is returned takes memory. Packed weights
    (uint32) come as they are; other integers (masks and counters of old checkpoints) as empty arrays, since only their
    names matter.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np"):  # looks at everything but the numbers: sizes, places, the end of the file
            data = np.memmap(path, np.uint8, "r")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}.", "Check the path.") from None
    except SafetensorError as error:
        raise UsageError(f"{path} is no whole safetensors file: {error}.", "Download or copy it again.") from None
    start = 8 + struct.unpack("<Q", data[:8].tobytes())[0]
    header = json.loads(data[8:start].tobytes())
    header.pop("__metadata__", None)
    return {name: _read(data[start:], **content) for name, content in header.items()}


def _read(data: np.ndarray, dtype: str, shape: list[int], data_offsets: list[int]) -> np.ndarray:
    if dtype == "U32":
        return np.array(data[slice(*data_offsets)].view("<u4").reshape(shape), np.uint32)
    if dtype not in FLOATS:
        return np.zeros(0, np.bool_)
    array = data[slice(*data_offsets)].view(FLOATS[dtype]).reshape(shape)
    return _widened(array) if dtype == "BF16" else np.array(array, np.float32)


def _widened(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)
