"""The peak memory of a training stage, item by item, from the model's shape and what each framework keeps.

The counts of arrays say what a framework stores for the backward pass; the factors beside them were measured on
Linux (torch 2.13 and mlx 0.32 on CPUs, 38 shapes, one thing changed at a time; see scripts/fit.py). What is not
measured: GPUs. There the counts are those of the same framework, with Metal's unfused attention.
"""

from dataclasses import asdict, dataclass

from backends.updates import MUON_GROUP
from minigpt.data.forms import Form
from minigpt.model.gpt import kept_values
from minigpt.model.heads import head_of
from minigpt.plan.costs import FLOAT, Beside, part_of, row_width, state_of
from minigpt.sections import ModelConfig, StageConfig


@dataclass(frozen=True)
class Memory:
    """Bytes. `base` is what Python and the framework take before the model; `work` what the peak has beyond the others.

    `work` holds an update's temporaries, the copies of a checkpoint that is written, and the allocator's fragmentation.
    """

    base: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    work: int

    @property
    def total(self) -> int:
        return sum(asdict(self).values())


@dataclass(frozen=True)
class Habits:
    """How a framework stores what the backward pass needs, in arrays of N tokens (see `kept_values` of each layer)."""

    norm: float  # arrays of width d that a norm keeps
    gated: float  # arrays of width d_ff that SwiGLU keeps
    head_norm: float  # arrays as wide as q and k that their norms keep
    scores: float  # (B, H, T, T) arrays that attention keeps: 0 where it is fused
    masked: float  # (B, T, T) arrays per layer with a mask of segments
    passing: float  # layers' worth that the backward pass adds while it is in one layer
    recomputed: float  # the same with activation checkpointing, the recomputed layer included
    logits: float  # (N, V) float32 arrays at the loss
    chunk: float  # the same per chunk of a chunked loss
    fragmentation: float  # of the activations: blocks that malloc cannot use again
    slack: float  # of everything that the framework holds: its cache
    constant: int  # bytes
    returned: int = 1 << 62  # bytes of a block that goes back to the system at once when it is freed
    lanes: int = 1  # of the backend: each has gradients of its own
    strip: int = 0  # queries whose causal scores exist together, with the keys up to their own only; 0: all keys
    exact: int = 0  # tokens of a row up to which attention is computed in float32 though the rest is not


HABITS = {
    ("torch", "cpu"): Habits(3, 4, 2, 0, 0.25, 1.0, 2.5, 3.0, 1.0, 0.13, 0.0, 8_000_000, 32 << 20),  # glibc's malloc
    ("torch", "gpu"): Habits(3, 4, 2, 0, 2, 1.0, 2.0, 3.5, 3.0, 0.0, 0.05, 300_000_000),
    ("mlx", "cpu"): Habits(2, 5, 1, 1, 0, 1.0, 4.0, 2.2, 6.0, 0.0, 0.06, 20_000_000, lanes=2, strip=64),
    ("mlx", "gpu"): Habits(2, 5, 1, 3.3, 0, 1.5, 3.0, 2.2, 6.0, 0.0, 0.06, 20_000_000),
}  # fmt: skip
# In bfloat16, where that is otherwise: a norm keeps what it reads in float32, which counts as two arrays, and a
# processor's matrix units have code of their own, about a megabyte, for each shape of a product.
NARROW = {
    ("torch", "cpu"): Habits(4, 4, 3, 0, 0.25, 1.0, 2.5, 3.0, 1.0, 0.25, 0.0, 60_000_000, 32 << 20, exact=256),
}
SHARDING = 46_000_000  # bytes that torch's FSDP2 takes as a library (measured)
GROUP = 6 * FLOAT * MUON_GROUP  # bytes of Muon's temporaries for one group of matrices


def stage_memory(
    model: ModelConfig, form: Form, config: StageConfig, framework: tuple[str, str], dtype: str, base: int,
    counted: float = 1.0, beside: Beside = None, processes: int = 1,
) -> Memory:  # fmt: skip
    """The peak of a stage with the given settings; `framework` is (backend, device), `base` bytes before the model.

    `counted` is the share of the tokens that are part of the loss: CPUs compute no logits for the others. A second
    trunk `beside` the model's (see Stage.beside) keeps as much of a step as the model's own. Of several `processes`
    it is the peak of each: it has its rows of a step, and what `config.shard` leaves it of the rest.
    """
    whole = state_of(model, config, beside)
    habits = NARROW.get(framework, HABITS[framework]) if dtype == "bfloat16" else HABITS[framework]
    state = part_of(whole, model, config, processes)
    trunks = 1 + any(".layers." in name for name in beside or ())
    narrow = 2 if dtype == "bfloat16" else FLOAT
    width = row_width(model, form)
    rows = -(-config.batch_size // processes)
    tokens = -(-rows // min(config.grad_accumulation, rows)) * width
    layer = int(narrow * tokens * kept_values(model, habits, width, not form.stream))
    layer += 2 * tokens * model.d_model * bool(config.dropout)  # which values dropout took, a byte each
    kept, passing = trunks * model.depth * layer, habits.passing * layer
    if config.activation_checkpointing:
        kept, passing = trunks * model.depth * narrow * tokens * model.d_model, habits.recomputed * layer
    answered = int(tokens * (counted if framework[1] == "cpu" else 1.0))
    logits = int(loss_bytes(model, config, habits, answered))
    if not config.loss_chunk and FLOAT * answered * head_of(model).outputs(model) >= habits.returned:
        passing = max(0, passing - logits)  # the logits have gone when the layers' turn comes
    activations = int(kept + passing)
    sets = min(habits.lanes, config.micro_batch_size) + (config.grad_accumulation > 1)
    sets += processes > 1 and not state.gathered  # the sums over the processes
    gradients = state.trained * sets + state.gathered
    casts = model.n_layer and (state.weights // 2 if narrow == 2 else 0)  # weights in bfloat16, kept for backwards
    computing = gradients + activations + logits + casts
    saved = whole.optimizer if config.shard == "moments" else state.optimizer  # the first process has all of them
    copies = 0 if state.gathered else 2 * max(state.trained, saved)  # for a checkpoint: FSDP2's parts go bit by bit
    peak = max(computing, gradients + update_bytes(model, state), copies)
    fragments = habits.fragmentation * model.depth * layer * (2.5 if config.activation_checkpointing else 1)
    if narrow * tokens * model.d_ff >= habits.returned:
        fragments /= 2  # most of the blocks are of this size
    weights = state.weights + state.gathered
    slack = habits.slack * (weights + state.optimizer + peak)
    constant = habits.constant + SHARDING * (state.gathered > 0)
    work = peak - gradients - activations - logits + int(fragments + slack) + constant
    if work < 0:  # the peak is elsewhere: what does not fit under it was never there at the same time
        gradients, activations, logits, work = _scaled((gradients, activations, logits), peak)
    return Memory(base, weights, gradients, state.optimizer, activations, logits, work)


def loss_bytes(model: ModelConfig, config: StageConfig, habits: Habits, tokens: int) -> float:
    """Bytes of logits and of what the loss makes of them."""
    row = FLOAT * head_of(model).outputs(model)
    if config.loss_chunk:
        return habits.chunk * min(config.loss_chunk, tokens) * row + row * model.d_model
    return habits.logits * tokens * row


def update_bytes(model: ModelConfig, state) -> int:
    """Bytes that an update needs beside weights, gradients and moments: AdamW two arrays per leaf, Muon four."""
    rest = state.trained - state.matrices
    return 2 * rest + 4 * state.matrices + (min(GROUP, 6 * state.matrices) if state.matrices else 0)


def _scaled(parts: tuple[int, ...], whole: int) -> tuple[int, ...]:
    share = whole / sum(parts)
    return *(int(part * share) for part in parts), 0
