"""A stage's adapter for peft and mlx-lm, and theirs for a run: checked by the other tool, or against the run."""

import importlib.util
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backends.base import Backend
from backends.tree import Tree, items, leaves, unflatten
from minigpt.config import build_config
from minigpt.errors import UsageError, check_name
from minigpt.exchange.adapters.files import FORMATS, format_of, layers_of, read_adapter, tree_of, write_adapter
from minigpt.exchange.adapters.names import Layers
from minigpt.exchange.exporting import DTYPES, Exported, refuse_existing, write_model, written
from minigpt.exchange.hf.directory_check import LOGITS
from minigpt.exchange.hf.tensor_files import rounded
from minigpt.exchange.readers.checks import Check, refuse_differences
from minigpt.exchange.readers.readers import MLXReader, Reader, TransformersReader, cannot_read, is_installed
from minigpt.model.gpt import GPT, to_backend
from minigpt.model.heads import WRITES
from minigpt.model.lora import TRAINED, join, merge, target_layers
from minigpt.quantize.codes import dequantize_weights
from minigpt.runs.run import Run
from minigpt.runs.start import stage_before, start_fingerprint, starting_weights
from minigpt.stages.table import ADAPTING, STAGES
from minigpt.store.checkpoint import load_checkpoint, save_checkpoint
from minigpt.store.stage import check_base


def export_adapter(
    run: Run, stage: str | None, to: str, out: Path | None, dtype: str = "float32", backend: Backend | None = None
) -> Exported:
    """Write the adapter of a finished stage (default: the last that has one) for "peft" or as "mlx-adapter".

    With a `backend` the tool, where it is installed, loads base and adapter and must give the run's logits:
    MiniGPTError otherwise, and nothing is kept. Raises UsageError for a wrong name and a stage without an adapter.
    """
    check_name("export target", to, FORMATS)
    check_name("dtype", dtype, DTYPES)
    stage = stage or _last_adapted(run)
    adapter, state = _adapter_of(run, stage)
    base = starting_weights(run, stage, run.config.of(stage))
    check_base(state, start_fingerprint(run, stage, base), run.store(stage).directory)
    if out is None:
        out = run.directory / "export" / to
    else:
        refuse_existing(out)
    dropout = run.config.of(stage).lora_dropout
    checks: list[Check] = []
    with written(out, sum(leaf.nbytes for leaf in leaves(adapter))) as temporary:
        write_adapter(temporary, to, layers_of(adapter), run.shape_of(stage), dropout, dtype)
        if backend is not None:
            base = dequantize_weights(base, run.shape_of(stage))
            checks = [_check(run, stage, temporary, out.parent, base, adapter, dtype, backend)]
        refuse_differences(checks)
    return Exported(out, to, stage, dtype, sum(path.stat().st_size for path in out.iterdir()), checks)


def _last_adapted(run: Run) -> str:
    finished = run.finished_stages()
    adapted = [stage for stage in finished if (run.store(stage).final / "adapter.safetensors").exists()]
    if adapted:
        return adapted[-1]
    run.weights()  # complains when nothing is finished
    raise UsageError(
        f"No stage of {run.directory} has an adapter: {', '.join(finished)} trained all weights.",
        f"Train one with --set {ADAPTING[0]}.lora_rank=8, or export the whole model with --to hf.",
    )


def _adapter_of(run: Run, stage: str) -> tuple[Tree, dict]:
    run.weights(stage)  # complains when the stage is not finished
    trees, state = load_checkpoint(run.store(stage).final)
    if "adapter" not in trees:
        message = f"The stage {stage} of {run.directory} trained all weights: it has no adapter."
        raise UsageError(message, "Export the whole model with --to hf.")
    return unflatten(trees["adapter"]), state


# ---- what the other tool reads -----------------------------------------------------------------------------


def _check(
    run: Run, stage: str, directory: Path, room: Path, base: Tree, adapter: Tree, dtype: str, backend: Backend
) -> Check:
    """The largest difference between the tool's logits of base and adapter and ours of the merged weights.

    The base is written into a temporary directory in `room` for it.
    """
    reader, package, join_theirs = READERS[format_of(directory)]
    config = run.shape_of(stage)
    with tempfile.TemporaryDirectory(dir=room) as temporary:
        whole = Path(temporary)
        write_model(config, base, run.tokenizer, whole, "float32", "pt")
        installed = is_installed(reader) and importlib.util.find_spec(package)
        if reason := cannot_read(reader, whole) if installed else "not installed":
            return Check(package, "logits with the adapter", None, LOGITS, reason)
        ids = np.random.default_rng(0).integers(1, config.vocab_size, (2, min(64, config.context))).astype(np.int32)
        theirs = join_theirs(reader(whole), directory).logits(ids)
    stored = unflatten({name: rounded(x, dtype) if x.ndim else x for name, x in items(adapter)})
    weights = to_backend(backend, merge(join(base, stored)))
    model = GPT(config, backend)
    if config.head == WRITES:
        ours = backend.numpy(model(weights, backend.array(ids)))
    else:  # of the last token, as the tool has it
        ours = backend.numpy(model.scores(weights, model.hidden(weights, backend.array(ids))))[:, -1:]
    return Check(package, "logits with the adapter", float(np.abs(ours - theirs).max()), LOGITS)


def _with_peft(reader: Reader, adapter: Path) -> Reader:
    from peft import PeftModel

    reader.model = PeftModel.from_pretrained(reader.model, adapter).eval()
    return reader


def _with_mlx(reader: Reader, adapter: Path) -> Reader:
    from mlx_lm.tuner.utils import load_adapters

    reader.model = load_adapters(reader.model, str(adapter))
    reader.model.eval()
    return reader


READERS = {"peft": (TransformersReader, "peft", _with_peft), "mlx-adapter": (MLXReader, "mlx_lm", _with_mlx)}


# ---- an adapter from elsewhere -----------------------------------------------------------------------------


@dataclass(frozen=True)
class ImportedAdapter:
    """An adapter from `source` that became a finished `stage` of the run `path`, on the weights of `before`."""

    path: Path
    source: Path
    format: str
    stage: str
    before: str
    layers: int
    ranks: list[int]
    parameters: int
    checks: list[Check]

    def as_dict(self) -> dict:
        checks = [asdict(check) | {"ok": check.ok} for check in self.checks]
        return asdict(self) | {"path": str(self.path), "source": str(self.source), "checks": checks}


def import_adapter(run: Run, source: Path, stage: str = ADAPTING[0], backend: Backend | None = None) -> ImportedAdapter:
    """Make PEFT's or mlx-lm's adapter in `source` a finished stage of the run, merged into the stage before it.

    With a `backend` the tool, where it is installed, must compute the same. Raises UsageError when the adapter does
    not fit the model, or the run has that stage already, MiniGPTError for a difference; the run stays as it was then.
    """
    check_name("stage of an adapter", stage, tuple(name for name in ADAPTING if STAGES[name].head == WRITES))
    if run.store(stage).begun():
        message = f"{run.directory} has a stage {stage} already."
        raise UsageError(message, "Choose another --stage, or import into a copy of the run.")
    before = stage_before(run, stage)
    layers = read_adapter(source, run.model_config)
    adapter = tree_of(layers)
    base = run.weights(before)[0]
    checks = [_check(run, stage, source, run.directory, base, adapter, "float32", backend)] if backend else []
    refuse_differences(checks)
    trees = {"weights": merge(join(base, adapter)), "adapter": adapter}
    state = {"step": 0, "metrics": {}, "stage": stage, "base": run.fingerprint(before), "imported": str(source)}
    run = _described(run, stage, layers)
    run.save_config(backend)
    save_checkpoint(run.store(stage).final, trees, state)
    ranks = sorted({leaves["lora_a"].shape[0] for leaves in layers.values()})
    numbers = sum(x.size for leaves in layers.values() for kind, x in leaves.items() if kind in TRAINED)
    kind = format_of(source)
    return ImportedAdapter(run.directory, source, kind, stage, before, len(layers), ranks, numbers, checks)


def _described(run: Run, stage: str, layers: Layers) -> Run:
    """The run with what the adapter is in its settings of `stage`, where one rank and scale holds for whole targets."""
    section: dict[str, Any] = {"lora_bits": 0}
    kinds = {(leaves["lora_a"].shape[0], float(leaves["lora_scale"])) for leaves in layers.values()}
    targets = sorted({layer.rpartition(".")[2] for layer in layers})
    if len(kinds) == 1 and set(target_layers(run.model_config, targets)) == set(layers):
        rank, scale = kinds.pop()
        section |= {"lora_rank": rank, "lora_alpha": round(rank * scale, 6), "lora_targets": targets}
        section |= {"dora": any("lora_magnitude" in leaves for leaves in layers.values())}
    values = run.config.model_dump()
    return Run(run.directory, build_config(values | {stage: values[stage] | section}))
