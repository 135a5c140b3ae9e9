"""A finished stage's weights in few bits, kept beside its final ones: RUN/STAGE/int4 and int8."""

from dataclasses import asdict, dataclass
from pathlib import Path

from backends.base import Backend
from backends.tree import Tree, unflatten
from minigpt.checkpoint import load_checkpoint, read_state, save_checkpoint
from minigpt.config import ModelConfig
from minigpt.data.batches import Batches, PackedRows, PairRows, TextRows
from minigpt.errors import UsageError, check_name
from minigpt.events import Note, Progress, Report, silent
from minigpt.gptq import error_report, gptq_weights, input_grams
from minigpt.linear import QUANTIZED
from minigpt.model import GPT, to_backend, weight_shapes
from minigpt.quantize import check, dequantize_weights, quantize_weights, size_in_bytes
from minigpt.train.run import Run

METHODS = ("plain", "gptq")
ROWS = 16  # of the training data, that calibrate: 8,192 tokens of the preset medium


@dataclass(frozen=True)
class Quantized:
    """What `quantize_stage` wrote."""

    directory: Path
    stage: str
    bits: int
    group_size: int
    method: str
    bytes_before: int  # in float32
    bytes_after: int
    layers: list[dict]  # see gptq.error_report

    def as_dict(self) -> dict:
        return asdict(self) | {"directory": str(self.directory)}


def quantize_stage(
    run: Run, stage: str | None, backend: Backend, bits: int, group_size: int = 0, method: str = "plain",
    report: Report = silent,
) -> Quantized:  # fmt: skip
    """Round a finished stage (default: the last), save it and say what that did to each layer.

    Raises UsageError for what cannot be quantized, and when GPTQ has no training data to calibrate with.
    """
    check_name("method", method, METHODS)
    weights, stage = run.weights(stage)
    group_size = check(weights, bits, group_size)
    batches = calibration(run, stage, required=method == "gptq")
    model = GPT(run.model_config, backend)
    count = model.config.n_layer
    if method == "gptq":
        quantized, grams = gptq_weights(
            model, weights, batches, bits, group_size, lambda done: report(Progress("rounding layers", done, count))
        )
        report(Progress("rounding layers", count, count, finished=True))
    else:
        quantized, grams = quantize_weights(weights, bits, group_size), input_grams(model, weights, batches)
    directory = directory_of(run, stage, bits)
    state = {"bits": bits, "group_size": group_size, "method": method, "source": run.fingerprint(stage)}
    save_checkpoint(directory, {"weights": quantized}, state)
    return Quantized(
        directory, stage, bits, group_size, method, size_in_bytes(weights), size_in_bytes(quantized),
        error_report(weights, quantized, grams),
    )  # fmt: skip


def quantized_weights(run: Run, stage: str | None, bits: int) -> tuple[Tree, str, str]:
    """(NumPy weights in `bits` bits, stage, where they are from).

    They are those that `quantize_stage` saved, or, when there are none of these final weights, rounded now. Raises
    UsageError for what cannot be quantized and CheckpointError for damaged files.
    """
    weights, stage = run.weights(stage)
    check(weights, bits)
    directory = directory_of(run, stage, bits)
    if not directory.exists():
        return quantize_weights(weights, bits), stage, "rounded plainly now; minigpt quantize can do it better"
    if read_state(directory).get("source") != run.fingerprint(stage):
        return quantize_weights(weights, bits), stage, f"rounded plainly now, since {directory} is of older weights"
    trees, state = load_checkpoint(directory)
    return arranged(trees["weights"], run.model_config, directory), stage, f"{directory}, {state['method']}"


def loaded_quantized(
    run: Run, stage: str | None, backend: Backend, bits: int, report: Report = silent
) -> tuple[Tree, str]:
    """(arrays of the backend, stage): quantized where a kernel makes that fast, else the floats that they stand for.

    Both give the same logits. On CPUs unpacking the codes for every product costs more than reading floats.
    """
    weights, stage, source = quantized_weights(run, stage, bits)
    fast = backend.fast_quantized()
    report(Note(f"Weights in {bits} bits: {source}{'' if fast else '; unpacked here, where floats are faster'}."))
    if not fast:
        weights = dequantize_weights(weights, run.model_config)
    return to_backend(backend, weights), stage


def arranged(flat: dict, config: ModelConfig, where: Path) -> Tree:
    """The tree of a model's quantized leaves by name, in the model's order. Raises UsageError for what is missing."""
    found = {}
    for name, shape in weight_shapes(config).items():
        stem = name.removesuffix("weight")
        parts = [name] if name in flat else [stem + part for part in QUANTIZED]
        if any(part not in flat or flat[part].shape[0] != shape[0] for part in parts):
            raise UsageError(f"{where} does not fit the model at {name}.", "Make it again with minigpt quantize.")
        found |= {part: flat[part] for part in parts}
    return unflatten(found)


def directory_of(run: Run, stage: str, bits: int) -> Path:
    return run.store(stage).directory / f"int{bits}"


def calibration(run: Run, stage: str, required: bool) -> list[dict]:
    """Some rows of the stage's training data, one batch each; none, unless they are `required`, when it has none."""
    context, seed = run.config.model.context, run.config.seed
    if not run.data(stage).is_dir():
        if not required:
            return []
        message = f"{run.directory} has no training data of {stage}, which GPTQ calibrates with."
        raise UsageError(message, "Choose --method plain.")
    shard = run.shards(stage)[0]
    if stage == "pretrain":
        rows = TextRows(shard, context, seed)
    else:
        rows = {"sft": PackedRows, "dpo": PairRows}[stage](shard, context, seed)
    batches = Batches(rows, 1, seed)
    return [batches(step) for step in range(min(ROWS, rows.count))]
