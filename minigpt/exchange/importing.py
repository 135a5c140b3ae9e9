"""`minigpt import`: a model's directory from elsewhere as a run, whose first stage counts as finished.

That is pretraining, or, of a model that scores, the training of a reward model.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from backends.base import Backend
from backends.tree import Tree, unflatten
from minigpt.config import Config, build_config
from minigpt.errors import UsageError
from minigpt.exchange.hf.directory_check import check_directory
from minigpt.exchange.hf.foreign_config import model_config
from minigpt.exchange.hf.foreign_files import read_config, read_tokenizer, read_weights
from minigpt.exchange.hf.quantized import in_floats, taken_apart
from minigpt.exchange.hf.tensors import from_hugging_face
from minigpt.exchange.readers.checks import Check, refuse_differences
from minigpt.exchange.readers.readers import MLXReader, Reader, TransformersReader
from minigpt.exchange.writing import writing
from minigpt.generate.engine import Engine
from minigpt.model.gpt import GPT, parameter_count, to_backend
from minigpt.model.heads import WRITES
from minigpt.runs.run import Run
from minigpt.sections import ModelConfig
from minigpt.stages.table import STAGES
from minigpt.store.checkpoint import save_checkpoint
from minigpt.store.durable import whole_directory
from minigpt.text.imported import ImportedTokenizer

CONTEXT = 2048  # tokens that training rows hold at most, unless more are asked for


@dataclass(frozen=True)
class Imported:
    """A run made from `source`: its architecture and size, and what transformers found the same."""

    path: Path
    source: Path
    architecture: str
    parameters: int
    context: int
    chat_template: bool
    checks: list[Check]

    def as_dict(self) -> dict:
        checks = [asdict(check) | {"ok": check.ok} for check in self.checks]
        return asdict(self) | {"path": str(self.path), "source": str(self.source), "checks": checks}


def import_directory(source: Path, out: Path, context: int | None, backend: Backend | None) -> Imported:
    """Make the run `out` from a Hugging Face directory, also one that mlx-lm has quantized.

    With a `backend` transformers (there mlx-lm), where it is installed, must agree on logits, token ids and chats.
    Raises UsageError that names what is not supported or does not fit, MiniGPTError for a difference, ResourceError
    for a full disk; nothing is left of the run then.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists already.", "Choose another --run directory.")
    model, weights, tokenizer, architecture = read_model(source, context)
    engine = Engine(GPT(model, backend), to_backend(backend, weights), tokenizer) if backend else None
    checks = check_directory(source, engine, (_reader_of(source),)) if engine else []
    refuse_differences(checks)
    with writing(out, 4 * parameter_count(model), "run", "--run directory"), whole_directory(out) as temporary:
        run = Run(temporary, run_config(model))
        run.save_config(backend)
        tokenizer.save(temporary / "tokenizer")
        stage = next(name for name, row in STAGES.items() if row.head == model.head)
        state = {"step": 0, "metrics": {}, "stage": stage, "imported": architecture}
        save_checkpoint(run.store(stage).final, {"weights": weights}, state)
    return Imported(out, source, architecture, parameter_count(model), model.context, tokenizer.chats, checks)


def _reader_of(source: Path) -> type[Reader]:
    """The program that a directory is for: mlx-lm alone reads what it has quantized."""
    return MLXReader if read_config(source).get("quantization") is not None else TransformersReader


def read_model(source: Path, context: int | None = None) -> tuple[ModelConfig, Tree, ImportedTokenizer, str]:
    """(configuration, float32 weights, tokenizer, architecture) of a Hugging Face directory.

    One that mlx-lm has quantized gives the floats that its codes stand for.
    """
    content, quantization = taken_apart(read_config(source), str(source / "config.json"))
    model = model_config(content, context, str(source / "config.json"))
    if context is None:
        model = model.model_copy(update={"context": min(model.context, CONTEXT)})
    elif context > model.context:
        raise UsageError(f"The model sees {model.context} tokens at most, not {context}.", "Lower --context.")
    tokenizer = read_tokenizer(source, content)
    tensors = read_weights(source)
    if quantization is not None:
        tensors = in_floats(tensors, quantization, str(source))
    flat = from_hugging_face(content["model_type"], tensors, model, str(source))
    return model, unflatten(flat), tokenizer, content["model_type"]


def run_config(model: ModelConfig) -> Config:
    """The configuration of a run that begins with a finished model."""
    sections = {name: dict(stage.imported) for name, stage in STAGES.items() if stage.imported}
    return build_config({"model": model.model_dump(), "tokenizer": {"kind": "imported"}} | sections)


def open_directory(source: Path, backend: Backend, kv_bits: int = 0) -> Engine:
    """A Hugging Face directory ready to answer, as it is."""
    model, weights, tokenizer, _ = read_model(source)
    if model.head != WRITES:
        message = f"The model in {source} gives answers a score; it writes none."
        raise UsageError(message, "Make a run of it with minigpt import, and let it judge: --best-of 8 --reward RUN.")
    return Engine(GPT(model, backend), to_backend(backend, weights), tokenizer, kv_bits)
