"""A stage's adapter for peft and mlx-lm, and theirs for a run: checked by the other tool, or against the run."""

import importlib.util
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backends import get_backend
from backends.base import Array
from backends.tree import Tree, items, unflatten
from minigpt.checkpoint import load_checkpoint, save_checkpoint
from minigpt.config import ModelConfig, build_config
from minigpt.durable import whole_directory
from minigpt.errors import ResourceError, UsageError, check_name
from minigpt.exchange.adapter_files import FORMATS, Layers, layers_of, read_adapter, tree_of, write_adapter
from minigpt.exchange.architectures import model_type_of
from minigpt.exchange.checks import Check, refuse_differences
from minigpt.exchange.exporting import DTYPES, Exported, refuse_existing, write_model
from minigpt.exchange.tensor_files import rounded
from minigpt.lora import TRAINED, join, merge, target_layers
from minigpt.model import GPT, to_backend
from minigpt.train.adapter import check_base
from minigpt.train.run import Run
from minigpt.train.stages import stage_before

BOUND = 1e-4  # largest difference of a logit


def export_adapter(run: Run, stage: str | None, to: str, out: Path | None, dtype: str = "float32") -> Exported:
    """Write the adapter of a finished stage (default: the last that has one) for "peft" or as "mlx-adapter".

    The tool, where it is installed, loads base and adapter and must give the run's logits: MiniGPTError otherwise,
    and nothing is kept. Raises UsageError for a wrong name and for a stage that has no adapter.
    """
    check_name("export target", to, FORMATS)
    check_name("dtype", dtype, DTYPES)
    _refuse_fused(run.model_config)
    stage = stage or _last_adapted(run)
    adapter, state = _adapter_of(run, stage)
    before = stage_before(run, stage)
    check_base(state, run.fingerprint(before), run.store(stage).directory)
    out = out or run.directory / "export" / to
    if out != run.directory / "export" / to:
        refuse_existing(out)
    dropout = getattr(run.config, stage).lora_dropout
    try:
        with whole_directory(out) as temporary:
            write_adapter(temporary, to, layers_of(adapter), run.model_config, dropout, dtype)
            checks = [_check(run, temporary, to, before, adapter, dtype)]
            refuse_differences(checks)
    except OSError as error:
        message = f"The export {out} could not be written: {error.strerror or error}."
        raise ResourceError(message, "Free some space or choose another --out.") from None
    return Exported(out, to, stage, dtype, sum(path.stat().st_size for path in out.iterdir()), checks)


def _refuse_fused(config: ModelConfig) -> None:
    if model_type_of(config) == "gpt2":
        raise UsageError(
            "Adapters of GPT-2 models are not exchanged: query, key and value are one matrix there.",
            "Export the merged model with --to hf.",
        )


def _last_adapted(run: Run) -> str:
    finished = run.finished_stages()
    adapted = [stage for stage in finished if (run.store(stage).final / "adapter.safetensors").exists()]
    if adapted:
        return adapted[-1]
    run.weights()  # complains when nothing is finished
    raise UsageError(
        f"No stage of {run.directory} has an adapter: {', '.join(finished)} trained all weights.",
        "Train one with --set sft.lora_rank=8, or export the whole model with --to hf.",
    )


def _adapter_of(run: Run, stage: str) -> tuple[Tree, dict]:
    run.weights(stage)  # complains when the stage is not finished
    trees, state = load_checkpoint(run.store(stage).final)
    if "adapter" not in trees:
        message = f"The stage {stage} of {run.directory} trained all weights: it has no adapter."
        raise UsageError(message, "Export the whole model with --to hf.")
    return unflatten(trees["adapter"]), state


# ---- what the other tool reads -----------------------------------------------------------------------------


def _check(run: Run, directory: Path, to: str, before: str, adapter: Tree, dtype: str) -> Check:
    """The largest difference between the tool's logits of base and adapter and ours of the merged weights."""
    reader, package, framework = {"peft": ("peft", "peft", "torch"), "mlx-adapter": ("mlx-lm", "mlx_lm", "mlx")}[to]
    if importlib.util.find_spec(package) is None or importlib.util.find_spec(framework) is None:
        return Check(reader, "logits with the adapter", None, BOUND)
    config, backend = run.model_config, get_backend(framework, "cpu")
    base = run.weights(before)[0]
    stored = unflatten({name: rounded(x, dtype) if x.ndim else x for name, x in items(adapter)})
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (2, min(16, config.context))).astype(np.int32)
    ids = backend.array(ids)
    ours = backend.numpy(GPT(config, backend)(to_backend(backend, merge(join(base, stored))), ids))
    with tempfile.TemporaryDirectory(dir=directory.parent) as temporary:
        whole = Path(temporary) / "base"
        write_model(config, dict(items(base)), run.tokenizer, whole, before, "float32", "hf")
        theirs = backend.numpy({"peft": _peft_logits, "mlx-adapter": _mlx_logits}[to](whole, directory, ids))
    return Check(reader, "logits with the adapter", float(np.abs(ours - theirs).max()), BOUND)


def _peft_logits(base: Path, adapter: Path, ids: Array) -> Array:
    import transformers
    from peft import PeftModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype="float32")
    return PeftModel.from_pretrained(model, adapter).eval()(ids.long()).logits.detach()


def _mlx_logits(base: Path, adapter: Path, ids: Array) -> Array:
    from mlx_lm.tuner.utils import load_adapters
    from mlx_lm.utils import load_model

    model = load_adapters(load_model(base)[0], str(adapter))
    model.eval()
    return model(ids)


# ---- an adapter from elsewhere -----------------------------------------------------------------------------


@dataclass(frozen=True)
class ImportedAdapter:
    """An adapter that became a finished `stage` of a run, on the weights of the stage `before`."""

    stage: str
    before: str
    layers: int
    ranks: list[int]
    numbers: int


def import_adapter(run: Run, directory: Path, stage: str = "sft") -> ImportedAdapter:
    """Make PEFT's or mlx-lm's adapter in `directory` a finished stage of the run, merged into the stage before it.

    Raises UsageError when the adapter does not fit the model, or the run has that stage already.
    """
    check_name("stage", stage, ("sft", "dpo"))
    store = run.store(stage)
    if store.begun():
        message = f"{run.directory} has a stage {stage} already."
        raise UsageError(message, "Choose another --stage, or import into a copy of the run.")
    before = stage_before(run, stage)
    _refuse_fused(run.model_config)
    layers = read_adapter(directory, run.model_config)
    _describe(run, stage, layers)
    adapter = tree_of(layers)
    trees = {"weights": merge(join(run.weights(before)[0], adapter)), "adapter": adapter}
    state = {"step": 0, "metrics": {}, "stage": stage, "base": run.fingerprint(before), "adapter": str(directory)}
    run.save_config()
    save_checkpoint(store.final, trees, state)
    ranks = sorted({leaves["lora_a"].shape[0] for leaves in layers.values()})
    numbers = sum(x.size for leaves in layers.values() for kind, x in leaves.items() if kind in TRAINED)
    return ImportedAdapter(stage, before, len(layers), ranks, numbers)


def _describe(run: Run, stage: str, layers: Layers) -> None:
    """Put what the adapter is into the run's settings of `stage`, where one rank and scale holds for whole targets."""
    kinds = {(leaves["lora_a"].shape[0], float(leaves["lora_scale"])) for leaves in layers.values()}
    targets = sorted({layer.rpartition(".")[2] for layer in layers})
    if len(kinds) > 1 or set(target_layers(run.model_config, targets)) != set(layers):
        return
    rank, scale = kinds.pop()
    section = {"lora_rank": rank, "lora_alpha": round(rank * scale, 6), "lora_targets": targets}
    section |= {"dora": any("lora_magnitude" in leaves for leaves in layers.values())}
    values = run.config.model_dump()
    run.config = build_config(values | {stage: values[stage] | section})
