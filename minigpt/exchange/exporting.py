"""`minigpt export`: a stage of a run as files that other tools open unchanged."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from backends.base import Backend
from backends.tree import items
from minigpt.checkpoint import check_room
from minigpt.config import ModelConfig
from minigpt.durable import whole_directory
from minigpt.errors import ResourceError, UsageError, check_name
from minigpt.exchange.architectures import config_json, model_type_of
from minigpt.exchange.checks import Check
from minigpt.exchange.gguf_export import export_gguf
from minigpt.exchange.gguf_file import FORMATS
from minigpt.exchange.tensor_files import write_tensors
from minigpt.exchange.tensors import to_hugging_face
from minigpt.exchange.tokenizer_files import write_json, write_tokenizer
from minigpt.tokenizer import Tokenizer
from minigpt.train.run import Run

TARGETS = ("hf", "mlx", "gguf")
DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Exported:
    """What was written: a directory (or a file) at `path`, of a run's `stage`, and what its readers said."""

    path: Path
    to: str
    stage: str
    dtype: str
    size: int  # bytes
    checks: list[Check] = field(default_factory=list)

    def as_dict(self) -> dict:
        return asdict(self) | {"path": str(self.path), "checks": [asdict(c) | {"ok": c.ok} for c in self.checks]}


def export_run(
    run: Run, stage: str | None, to: str, out: Path | None, dtype: str = "float32", backend: Backend | None = None
) -> Exported:
    """Write a finished stage (default: the last) for the tool `to`; `out` is RUN/export/TO unless it is given.

    With a `backend`, readers that are installed must agree with the run; MiniGPTError when one does not.
    Raises UsageError for a wrong name, and ResourceError when the disk is full; nothing half-written stays then.
    """
    check_name("export target", to, TARGETS)
    check_name("dtype", dtype, tuple(FORMATS) if to == "gguf" else DTYPES)
    weights, stage = run.weights(stage)
    out = out or run.directory / "export" / to
    if out != run.directory / "export" / to:
        refuse_existing(out)
    arrays = dict(items(weights))
    if to == "gguf":
        name = f"{run.directory.resolve().name} {stage}"
        size, checks = export_gguf(run.model_config, arrays, run.tokenizer, out, name, dtype, backend)
        return Exported(out, to, stage, dtype, size, checks)
    size = write_model(run.model_config, arrays, run.tokenizer, out, stage, dtype, to)
    return Exported(out, to, stage, dtype, size)


def write_model(
    config: ModelConfig, arrays: dict[str, np.ndarray], tokenizer: Tokenizer, out: Path, stage: str, dtype: str, to: str
) -> int:
    """A directory with weights, config and tokenizer, there whole or not at all; returns its size in bytes."""
    kind = model_type_of(config)
    tensors = to_hugging_face(kind, arrays)
    try:
        check_room(out, sum(array.size for array in arrays.values()) * (4 if dtype == "float32" else 2))
        with whole_directory(out) as temporary:
            metadata = {"format": "mlx" if to == "mlx" else "pt"}
            write_tensors(temporary / "model.safetensors", tensors.items(), dtype, metadata)
            write_json(temporary / "config.json", config_json(config, dtype, list(tokenizer.stops)))
            write_tokenizer(tokenizer, temporary, config.context, stage)
    except OSError as error:
        message = f"The export {out} could not be written: {error.strerror or error}."
        raise ResourceError(message, "Free some space or choose another --out.") from None
    return sum(path.stat().st_size for path in out.iterdir())


def refuse_existing(out: Path) -> None:
    """Raises UsageError when something is there already: it would be replaced."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists already.", "Delete it, or choose another --out.")
