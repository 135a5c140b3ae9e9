"""`minigpt diagnose`: what is likely wrong with a training, from its curves, its data, its batches and its weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from backends.base import Backend
from minigpt.data.batches import Batches
from minigpt.data.shards import MemoryShard
from minigpt.errors import UsageError
from minigpt.generate.engine import Engine
from minigpt.runs.loading import load_engine
from minigpt.runs.run import Run
from minigpt.stages.table import STAGES
from minigpt.train.losses import token_losses
from minigpt.units import shortened
from minigpt.watch.inside import Watched
from minigpt.watch.journal import Journal
from minigpt.watch.symptoms import RULES, Curves, Finding, curves_of, spikes

WINDOW = 100  # bytes that are compared where texts have no borders
LEAK, DEAD = 0.05, 1e-3  # share of held-out rows; a block's change of the stream, relative to it
SHOWN, MOST_SPIKES = 160, 3  # characters of a row; spikes that are looked into
ROWS = 8  # held-out rows that are run through the model


@dataclass(frozen=True)
class Diagnosis:
    """The findings about a stage; none means that no rule found anything. `looked` says what was looked at."""

    stage: str
    findings: list[Finding]
    looked: list[str]


def diagnose(run: Run, stage: str | None, make_backend: Callable[[], Backend]) -> Diagnosis:
    """Read a stage that was trained, or is. The backend is made only where there are finished weights to look at.

    Raises UsageError when the stage has no curve.
    """
    stage = stage or _last_trained(run)
    journal = Journal(run.store(stage).journal)
    if not journal.update():
        raise UsageError(f"{run.directory} has no curve of {stage}.", "Train it first, or name another --stage.")
    curves, kind = curves_of(journal, run.config.of(stage).model_dump()), STAGES[stage]
    found, looked = [one for rule in RULES if (one := rule(curves))], ["curves", "settings"]
    if run.data(stage).is_dir():
        looked.append("data")
        found += _leak(run, stage)
    if run.store(stage).finished() and kind.form.sequences == 1 and run.data(stage).is_dir():
        engine = load_engine(run, stage, make_backend(), writes=False)
        looked += ["weights", "batches of spikes"]
        found += _dead(engine, run, stage) + _batches(engine, run, stage, curves)
    elif jumps := spikes(curves):
        found.append(_spiked(jumps, ""))
    return Diagnosis(stage, found, looked)


def _last_trained(run: Run) -> str:
    begun = [name for name in STAGES if run.store(name).journal.exists()]
    if not begun:
        raise UsageError(f"{run.directory} has no curves yet.", "Train a stage first.")
    return begun[-1]


# ---- data --------------------------------------------------------------------------------------------------


def _leak(run: Run, stage: str) -> list[Finding]:
    """Held-out rows that are training rows, too; of texts, windows of tokens."""
    training, held_out = run.training_data(stage), run.held_out(stage)
    if STAGES[stage].form.stream:
        sizes = run.tokenizer.byte_lengths[np.asarray(held_out.ids)]
        window = max(8, round(WINDOW / max(float(sizes.mean()), 1.0)))
        found, what = shared_windows(training, held_out, window), "windows of the held-out text"
    else:
        found, what = _shared_rows(training, held_out), "held-out rows"
    if found < LEAK:
        return []
    shows = f"{found:.0%} of the {what} are in the training data as well"
    advice = "The held-out loss is too good to be true: remove the duplicates (minigpt data check), then train again."
    return [Finding("data leak", shows, advice, certain=True)]


def _shared_rows(training: MemoryShard, held_out: MemoryShard) -> float:
    known = {training.sequence(i)[0].tobytes() for i in range(len(training))}
    return float(np.mean([held_out.sequence(i)[0].tobytes() in known for i in range(len(held_out))]))


def shared_windows(training: MemoryShard, held_out: MemoryShard, window: int) -> float:
    """The share of the held-out text's windows of so many tokens, without overlap, that the training text has."""
    ids = np.asarray(held_out.ids)
    if min(len(ids), len(training.ids)) < window:
        return 0.0
    known = set(_rolling(np.asarray(training.ids), window).tolist())
    return float(np.mean([int(one) in known for one in _rolling(ids, window)[::window]]))


def _rolling(ids: np.ndarray, window: int) -> np.ndarray:
    """A 64-bit hash of each `window` tokens in a row (Rabin and Karp's, modulo 2^64)."""
    powers = np.array([pow(0x9E3779B97F4A7C15, k, 1 << 64) for k in range(window)], np.uint64)
    total = np.zeros(len(ids) - window + 1, np.uint64)
    mixed = (ids.astype(np.uint64) + np.uint64(1)) * np.uint64(0xBF58476D1CE4E5B9)
    for k in range(window):
        total += mixed[k : k + len(total)] * powers[k]
    return total


# ---- weights -----------------------------------------------------------------------------------------------


def _dead(engine: Engine, run: Run, stage: str) -> list[Finding]:
    """Blocks that change nothing: what goes in comes out."""
    backend, rows = engine.model.backend, _held_out_ids(engine, run.held_out(stage))
    model = Watched(engine.model, attention=False)
    with backend.inference():
        model.hidden(engine.weights, backend.array(rows))
    stream = [backend.numpy(backend.cast(x, "float32")) for x in (model.before, *model.after)]
    changes = [float(np.linalg.norm(after - before) / max(np.linalg.norm(before), 1e-12))
               for before, after in zip(stream, stream[1:], strict=False)]  # fmt: skip
    dead = [str(n) for n, change in enumerate(changes, 1) if not change > DEAD]
    if not dead:
        return []
    shows = f"block {', '.join(dead)} of {len(changes)} changes its input by less than {DEAD:.1%}"
    advice = "It does nothing: look for weights that are all 0, or for an adapter that was not merged, or omit it."
    return [Finding("dead layers", shows, advice, certain=True)]


def _held_out_ids(engine: Engine, shard: MemoryShard) -> np.ndarray:
    """Some rows (ROWS, T) of held-out ids, as long as the context allows and the data has."""
    length = min(engine.model.config.context, max(1, len(shard.ids) // ROWS))
    starts = np.linspace(0, len(shard.ids) - length, ROWS).astype(int)
    return np.stack([np.asarray(shard.ids[start : start + length], np.int32) for start in starts])


# ---- batches -----------------------------------------------------------------------------------------------


def _batches(engine: Engine, run: Run, stage: str, curves: Curves) -> list[Finding]:
    """Spikes, with the row of their batch that the finished model finds least likely."""
    jumps = spikes(curves)
    if not jumps:
        return []
    form, config = STAGES[stage].form, run.config
    rows = form.rows(run.training_data(stage), engine.model.config.context, config.seed)
    batches = Batches(rows, config.of(stage).batch_size, config.seed)
    texts = [f"step {step:,}: {_worst_row(engine, batches(step - 1))!r}" for step in jumps[:MOST_SPIKES]]
    return [_spiked(jumps, "; ".join(texts))]


def _spiked(jumps: Sequence[int], rows: str) -> Finding:
    steps = ", ".join(f"{step:,}" for step in jumps[:8])
    shows = f"the loss and its gradient jumped at step {steps}"
    if rows:
        shows += f"; the least likely rows of these batches: {rows}"
    return Finding("spikes", shows, "Look at those rows: broken text, another language, a wrong format? Omit them.")


def _worst_row(engine: Engine, batch: dict[str, np.ndarray]) -> str:
    """The beginning of the row with the highest loss per learned token."""
    backend = engine.model.backend
    learned = batch["weights"] > 0  # (B, T)
    arrays = {name: backend.array(batch[name]) for name in ("ids", "targets", "segments") if name in batch}
    with backend.inference():
        nats = backend.numpy(token_losses(engine.model, engine.weights, arrays))
    means = (nats * learned).sum(-1) / np.maximum(learned.sum(-1), 1)
    ids = batch["ids"][int(means.argmax())]
    text = " ".join(engine.tokenizer.show_quoted([int(i) for i in ids]).split())
    return shortened(text, SHOWN)
