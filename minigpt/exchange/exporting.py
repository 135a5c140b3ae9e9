"""`minigpt export`: a stage of a run as files that other tools open unchanged."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from backends.base import Backend
from backends.tree import Tree, items, leaves, map_leaves
from minigpt.checkpoint import check_room
from minigpt.config import ModelConfig
from minigpt.durable import whole_directory
from minigpt.errors import MiniGPTError, ResourceError, UsageError, check_name
from minigpt.exchange.architectures import config_json, model_type_of
from minigpt.exchange.checks import Check, check_directory
from minigpt.exchange.tensor_files import rounded, write_tensors
from minigpt.exchange.tensors import to_hugging_face
from minigpt.exchange.tokenizer_files import write_json, write_tokenizer
from minigpt.generate.engine import Engine
from minigpt.model import GPT, to_backend
from minigpt.tokenizer import Tokenizer
from minigpt.train.run import Run

TARGETS = ("hf", "mlx")
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
    run: Run, stage: str | None, to: str, out: Path | None, dtype: str, backend: Backend, verify: bool = True
) -> Exported:
    """Write a finished stage (default: the last) for the tool `to`; `out` is RUN/export/TO unless it is given.

    With `verify` the tools that are installed read it again. Raises UsageError for a wrong name, MiniGPTError when
    a tool computes something else from it, and ResourceError when the disk is full; nothing is left then.
    """
    check_name("export target", to, TARGETS)
    check_name("dtype", dtype, DTYPES)
    weights, stage = run.weights(stage)
    if out is None:
        out = run.directory / "export" / to
    else:
        refuse_existing(out)
    stored = map_leaves(lambda w: rounded(w, dtype), weights)
    engine = Engine(GPT(run.model_config, backend), to_backend(backend, stored), run.tokenizer) if verify else None
    with written(out, sum(w.size for w in leaves(stored)) * (4 if dtype == "float32" else 2)) as temporary:
        write_model(run.model_config, stored, run.tokenizer, temporary, dtype, "mlx" if to == "mlx" else "pt")
        checks = check_directory(temporary, engine) if engine else []
        refuse_differences(checks, to)
    return Exported(out, to, stage, dtype, sum(path.stat().st_size for path in out.iterdir()), checks)


def write_model(
    config: ModelConfig, weights: Tree, tokenizer: Tokenizer, directory: Path, dtype: str, framework: str
) -> None:
    """Weights, config.json and the tokenizer's files, in a directory that is there."""
    tensors = to_hugging_face(model_type_of(config), dict(items(weights)))
    write_tensors(directory / "model.safetensors", tensors.items(), dtype, {"format": framework})
    write_json(directory / "config.json", config_json(config, dtype, list(tokenizer.stops)))
    write_tokenizer(tokenizer, directory, config.max_positions or config.context)


@contextmanager
def written(out: Path, size: int) -> Iterator[Path]:
    """A directory to write about `size` bytes into, which becomes `out` when the block ends without an error."""
    try:
        check_room(out, size)
        with whole_directory(out) as temporary:
            yield temporary
    except OSError as error:
        message = f"The export {out} could not be written: {error.strerror or error}."
        raise ResourceError(message, "Free some space or choose another --out.") from None


def refuse_differences(checks: list[Check], to: str) -> None:
    """Raises MiniGPTError for the first check that failed, UsageError when the tool it is for cannot read it."""
    for check in checks:
        if not check.ok:
            raise MiniGPTError(
                f"{check.reader} reads something else from the export: {check.quantity} differ by {check.found:g} "
                f"(at most {check.bound:g}), so it was not kept.",
                "This is a fault of minigpt or of that version of the tool; --no-verify writes it all the same.",
            )
        if check.found is None and to == "mlx" and check.reader == "mlx-lm" and check.reason != "not installed":
            raise UsageError(f"This model cannot be exported for mlx-lm: {check.reason}.", "Use --to hf.")


def refuse_existing(out: Path) -> None:
    """Raises UsageError when something is there already: it would be replaced."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists already.", "Delete it, or choose another --out.")
