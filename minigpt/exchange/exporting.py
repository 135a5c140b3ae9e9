"""`minigpt export`: a stage of a run as files that other tools open unchanged."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from backends.base import Backend
from backends.tree import Tree, items, leaves, map_leaves
from minigpt.errors import UsageError, check_name
from minigpt.exchange.card import model_card
from minigpt.exchange.gguf.export import export_gguf
from minigpt.exchange.gguf.file import FORMATS
from minigpt.exchange.hf.architectures import config_json, model_type_of
from minigpt.exchange.hf.directory_check import check_directory
from minigpt.exchange.hf.tensor_files import rounded, write_tensors
from minigpt.exchange.hf.tensors import to_hugging_face
from minigpt.exchange.hf.tokenizer_files import write_json, write_tokenizer
from minigpt.exchange.readers.checks import Card, Check, refuse_differences
from minigpt.exchange.readers.readers import MLXReader, cannot_read
from minigpt.exchange.writing import writing
from minigpt.generate.engine import Engine
from minigpt.model.gpt import GPT, to_backend, weight_shapes
from minigpt.model.heads import WRITES
from minigpt.quantize.codes import is_quantized
from minigpt.runs.quantized import quantized_weights
from minigpt.runs.run import Run
from minigpt.sections import ModelConfig
from minigpt.stages.table import STAGES
from minigpt.store.durable import whole_directory
from minigpt.text.tokenizer import Tokenizer

TARGETS = ("hf", "mlx", "gguf")
DTYPES = ("float32", "float16", "bfloat16")
INTEGERS = {"int8": 8, "int4": 4}  # in mlx's own layout, for mlx-lm; what is not a matrix is float16 then


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
    if stage is not None and run.store(stage).finished() and STAGES[stage].head != WRITES and to != "hf":
        message = f"The model of {stage} gives scores, which is nothing that {to} can hold."
        raise UsageError(message, "Export it with --to hf: transformers opens it.")
    check_name("dtype", dtype, {"gguf": tuple(FORMATS), "mlx": (*DTYPES, *INTEGERS)}.get(to, DTYPES))
    weights, stage = quantized_weights(run, stage, INTEGERS[dtype])[:2] if dtype in INTEGERS else run.weights(stage)
    if out is None:
        out = run.directory / "export" / to
    else:
        refuse_existing(out)

    def card(checks: list[Check]) -> str:
        return model_card(run, stage, to, dtype, checks)

    if to == "gguf":
        arrays, name = dict(items(weights)), f"{run.directory.resolve().name} {stage}"
        size, checks = export_gguf(run.shape_of(stage), arrays, run.tokenizer, out, name, dtype, backend, card)
    else:
        size, checks = export_directory(run.shape_of(stage), weights, run.tokenizer, out, dtype, backend, to, card)
    return Exported(out, to, stage, dtype, size, checks)


def export_directory(
    config: ModelConfig, weights: Tree, tokenizer: Tokenizer, out: Path, dtype: str, backend: Backend | None, to: str,
    card: Card,
) -> tuple[int, list[Check]]:  # fmt: skip
    """Write the directory `out`, there whole or not at all; returns (bytes, what its readers found).

    Raises UsageError when the architecture has no name elsewhere or mlx-lm cannot read it and it is for that.
    """
    floats = "float16" if dtype in INTEGERS else dtype
    stored = map_leaves(lambda w: rounded(w, floats) if w.dtype.kind == "f" else w, weights)
    checks, limit = [], _limit(config) if to == "mlx" else None
    if limit is not None:
        config = config.model_copy(update={"context": limit, "max_positions": limit})
    with written(out, sum(w.nbytes for w in leaves(stored)) // (1 if dtype == "float32" else 2)) as temporary:
        write_model(config, stored, tokenizer, temporary, floats, "mlx" if to == "mlx" else "pt")
        if backend is not None:
            checks = check_directory(temporary, Engine(GPT(config, backend), to_backend(backend, stored), tokenizer))
        if limit is not None:
            reason = "mlx-lm knows no sliding window: it gets the positions inside one"
            checks.append(Check("mlx-lm", f"texts of more than {limit:,} tokens", None, 0, reason))
        if to == "mlx" and (reason := cannot_read(MLXReader, temporary)):
            raise UsageError(f"This model cannot be exported for mlx-lm: {reason}.", "Use --to hf.")
        refuse_differences(checks)
        (temporary / "README.md").write_text(card(checks), "utf-8")
    return sum(path.stat().st_size for path in out.iterdir()), checks


def _limit(config: ModelConfig) -> int | None:
    """The positions that a model has for mlx-lm, which lets all tokens see all before them, when there are fewer."""
    window = config.sliding_window
    return window if 2 <= window < (config.max_positions or config.context) else None


def write_model(
    config: ModelConfig, weights: Tree, tokenizer: Tokenizer, directory: Path, dtype: str, framework: str
) -> None:
    """Weights, config.json and the tokenizer's files, in a directory that is there."""
    kind, more = model_type_of(config), {}
    if kind == "qwen2" and tokenizer.kind != "imported":
        message = "transformers splits the texts of every qwen2 model in Qwen2's own way: this tokenizer would be lost."
        raise UsageError(message, "A model without biases (model.qkv_bias = false) can be exported.")
    tensors = to_hugging_face(kind, dict(items(weights)))
    if is_quantized(weights):
        more["quantization"] = mlx_quantization(config, weights)
        tensors = {name.replace(".packed", ".weight"): array for name, array in tensors.items()}
    write_tensors(directory / "model.safetensors", tensors.items(), dtype, {"format": framework})
    write_json(directory / "config.json", config_json(config, dtype, list(tokenizer.stops)) | more)
    write_tokenizer(tokenizer, directory, config.max_positions or config.context)


def mlx_quantization(config: ModelConfig, weights: Tree) -> dict[str, Any]:
    """What mlx-lm's config.json says of quantized weights: group size and bits, by layer where they are others.

    Raises UsageError where it has them in another layout.
    """
    if model_type_of(config) == "gpt2":
        raise UsageError("A GPT-2 is stored in another layout than mlx quantizes.", "Export it with --dtype float16.")
    flat, found = dict(items(weights)), {}
    for name, shape in weight_shapes(config).items():
        layer = name.removesuffix(".weight")
        if f"{layer}.packed" in flat:
            words, groups = flat[f"{layer}.packed"].shape[1], flat[f"{layer}.scales"].shape[1]
            found[layer] = {"group_size": shape[1] // groups, "bits": 32 * words // shape[1]}
    usual = min(found.values(), key=lambda settings: settings["bits"])
    return usual | {layer: settings for layer, settings in found.items() if settings != usual}


@contextmanager
def written(out: Path, size: int) -> Iterator[Path]:
    """A directory to write about `size` bytes into, which becomes `out` when the block ends without an error."""
    with writing(out, size), whole_directory(out) as temporary:
        yield temporary


def refuse_existing(out: Path) -> None:
    """Raises UsageError when something is there already: it would be replaced."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists already.", "Delete it, or choose another --out.")
