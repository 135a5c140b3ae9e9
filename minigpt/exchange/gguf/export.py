"""`minigpt export --to gguf`: a GGUF file, alone or in a directory with what else belongs to it."""

import importlib.util
from pathlib import Path

import numpy as np

from backends.base import Backend
from backends.tree import unflatten
from minigpt.errors import UsageError
from minigpt.exchange.gguf.check import check_gguf
from minigpt.exchange.gguf.file import check_blocks, size_of, write_gguf
from minigpt.exchange.gguf.llama_cpp import is_installed
from minigpt.exchange.gguf.modelfile import modelfile
from minigpt.exchange.readers.checks import Card, Check, refuse_differences
from minigpt.exchange.writing import writing
from minigpt.generate.engine import Engine
from minigpt.model.gpt import GPT, to_backend
from minigpt.sections import ModelConfig
from minigpt.store.durable import whole_directory, whole_file
from minigpt.text.tokenizer import Tokenizer

FILE = "model.gguf"


def export_gguf(
    config: ModelConfig, arrays: dict[str, np.ndarray], tokenizer: Tokenizer, out: Path, name: str, dtype: str,
    backend: Backend | None, card: Card,
) -> tuple[int, list[Check]]:  # fmt: skip
    """Write `out`, a .gguf file or a directory, there whole or not at all; returns (bytes, what llama.cpp found).

    With a `backend` llama.cpp reads the file before it gets its name. Raises MiniGPTError when it differs, UsageError
    for what GGUF cannot hold, ResourceError when the disk is full.
    """
    if importlib.util.find_spec("gguf") is None:
        raise UsageError("Writing GGUF needs the package gguf.", "Install it: pip install 'minigpt[gguf]'.")
    unfit = check_blocks({key: array.shape for key, array in arrays.items()}, dtype)
    alone = out.suffix == ".gguf"
    with writing(out, size_of(arrays, dtype)), whole_file(out) if alone else whole_directory(out) as place:
        file = place if alone else place / FILE
        write_gguf(file, config, arrays, tokenizer, name, dtype)
        checks = [] if backend is None else _checks(file, config, arrays, tokenizer, dtype, backend)
        refuse_differences(checks)
        if unfit:
            widths = ", ".join(sorted({str(shape[-1]) for shape in unfit}))
            reason = f"stored as float16: rows of {widths} numbers do not fill its blocks"
            checks.append(Check("gguf", f"{len(unfit)} matrices in {dtype}", None, 0, reason))
        if not alone:
            (place / "Modelfile").write_text(modelfile(FILE, config.context, tokenizer.kind != "imported"), "utf-8")
            (place / "README.md").write_text(card(checks), "utf-8")
    return sum(path.stat().st_size for path in ([out] if alone else out.iterdir())), checks


def _checks(
    file: Path, config: ModelConfig, arrays: dict[str, np.ndarray], tokenizer: Tokenizer, dtype: str, backend: Backend
) -> list[Check]:
    if not is_installed():
        return [Check("llama.cpp", "everything (pip install xllamacpp)", None, 0)]
    engine = Engine(GPT(config, backend), to_backend(backend, unflatten(arrays)), tokenizer)
    return check_gguf(file, engine, dtype)
