"""A finished stage's weights in few bits, kept beside its final ones: RUN/STAGE/int4 and int8."""

from dataclasses import asdict, dataclass
from pathlib import Path

from backends.base import Backend
from backends.tree import Tree, items, unflatten
from minigpt.data.batches import Batches
from minigpt.errors import UsageError, check_name
from minigpt.events import Note, Progress, Report, silent
from minigpt.machine.formats import int8_speed
from minigpt.model.gpt import GPT, to_backend, weight_shapes
from minigpt.model.linear import QUANTIZED
from minigpt.quantize.codes import check, dequantize_matrix, dequantize_weights, quantize_weights, size_in_bytes
from minigpt.quantize.gptq import error_report, gptq_weights, input_grams
from minigpt.runs.run import Run
from minigpt.sections import ModelConfig
from minigpt.stages.table import STAGES
from minigpt.store.checkpoint import load_checkpoint, read_state, save_checkpoint

METHODS = ("round-to-nearest", "gptq")
GAIN = 1.1  # times as fast as floats that 8 bits must be here to be taken
ROWS = 16  # of the training data, that calibrate: 8,192 tokens of the preset medium


def named(method: str) -> str:
    """A method by its name of today: files of older versions have the first one as "plain"."""
    return METHODS[0] if method == "plain" else method


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
    run: Run, stage: str | None, backend: Backend, bits: int, group_size: int = 0, method: str = METHODS[0],
    report: Report = silent,
) -> Quantized:  # fmt: skip
    """Round a finished stage (default: the last), save it and say what that did to each layer.

    Raises UsageError for what cannot be quantized, and when GPTQ has no training data to calibrate with.
    """
    method = named(method)
    check_name("method", method, METHODS)
    weights, stage = run.weights(stage)
    group_size = check(weights, bits, group_size)
    batches = calibration(run, stage, required=method == "gptq")
    model = GPT(run.shape_of(stage), backend)
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
        return quantize_weights(weights, bits), stage, "rounded to nearest now; minigpt quantize can do it better"
    if read_state(directory).get("source") != run.fingerprint(stage):
        return quantize_weights(weights, bits), stage, f"rounded to nearest now, since {directory} is of older weights"
    trees, state = load_checkpoint(directory)
    return arranged(trees["weights"], run.shape_of(stage), directory), stage, f"{directory}, {named(state['method'])}"


def loaded_quantized(
    run: Run, stage: str | None, backend: Backend, bits: int, report: Report = silent
) -> tuple[Tree, str]:
    """(arrays of the backend, stage) in the form in which the backend answers fastest, see `for_answers`."""
    weights, stage, source = quantized_weights(run, stage, bits)
    arrays, how = for_answers(backend, weights, run.shape_of(stage), bits)
    report(Note(f"Weights in {bits} bits: {source}{how}."))
    return arrays, stage


def for_answers(backend: Backend, weights: Tree, config: ModelConfig, bits: int) -> tuple[Tree, str]:
    """(arrays of the backend, what became of the quantized NumPy weights, in words).

    They stay as they are where kernels take them. On CPUs unpacking the codes for every product costs more than
    reading floats: there they become the floats that they stand for, which give the same logits, or, from 8 bits and
    where a short measurement shows that to be faster, 8 bits again with one scale per row, which give nearly the same.
    """
    if backend.quantized.fast:
        return to_backend(backend, weights), ""
    speed = int8_speed(backend, _multiplied(weights, config)) if bits == 8 else 0.0
    if speed > GAIN:
        how = f"one scale per row, inputs rounded as well ({speed:.1f}× as fast as floats, measured)"
        return _in_rows(backend, weights, config), f"; here with {how}"
    why = f"floats are faster (8 bits {speed:.1f}× as fast, measured)" if speed else "floats are faster"
    return to_backend(backend, dequantize_weights(weights, config)), f"; unpacked here, where {why}"


def _multiplied(weights: Tree, config: ModelConfig) -> tuple[tuple[int, int], ...]:
    """The shapes (out, in) of the quantized matrices that every token is multiplied with."""
    names = {name for name, _ in items(weights)}
    return tuple(
        shape for name, shape in weight_shapes(config).items()
        if f"{name.removesuffix('weight')}packed" in names and ("embed_tokens" not in name or config.tie_embeddings)
    )  # fmt: skip


def _in_rows(backend: Backend, weights: Tree, config: ModelConfig) -> Tree:
    """The tree with an `int8` leaf for each quantized matrix.

    Embeddings keep their codes to be looked up in, and get the other form if they are the output matrix as well.
    """
    flat = {name: backend.array(leaf) for name, leaf in items(weights)}
    for name, shape in weight_shapes(config).items():
        stem, looked_up = name.removesuffix("weight"), "embed_tokens" in name
        if f"{stem}packed" not in flat or (looked_up and not config.tie_embeddings):
            continue
        codes = {part: backend.numpy((flat.get if looked_up else flat.pop)(stem + part)) for part in QUANTIZED}
        flat[f"{stem}int8"] = backend.quantized.int8.matrix(dequantize_matrix(codes, shape[1]))
    return unflatten(flat)


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
        raise UsageError(message, "Choose --method round-to-nearest.")
    rows = STAGES[stage].form.rows(run.training_data(stage), context, seed)
    batches = Batches(rows, 1, seed)
    return [batches(step) for step in range(min(ROWS, rows.count))]
