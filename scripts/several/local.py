"""What outer steps save and cost: the same tokens with an exchange at every step and at every fiftieth."""

import json
from dataclasses import dataclass
from pathlib import Path

from minigpt.events import silent
from minigpt.parity.trajectories import tiny_config
from minigpt.runs.inputs import make_data, make_tokenizer
from minigpt.runs.run import Run
from minigpt.stages.table import FIRST
from minigpt.store.checkpoint import read_state
from several import equality

EVERY, BEHIND, LESS = 50, 0.02, 50  # steps between exchanges; nats that it may cost; times that it must save
TEXTS = 12_000  # of the built-in world: a text is read a few times at most
WAYS = {
    "every step": {}, f"{EVERY} steps": {"outer_every": EVERY},
    f"{EVERY} steps, bfloat16": {"outer_every": EVERY, "transfer": "bfloat16"},
}  # fmt: skip
COLUMNS = ("exchange", "loss", "behind", "MB in steps", "less", "MB in all", "less", "")


@dataclass(frozen=True)
class Row:
    """A training's last validation loss and the bytes that its first process gave to exchanges, and the plain one's."""

    backend: str
    way: str
    loss: float
    training: int
    all: int
    plain: "Row | None" = None

    @property
    def good(self) -> bool:
        plain = self.plain
        return plain is None or (self.loss - plain.loss <= BEHIND and round(plain.training / self.training) >= LESS)

    def cells(self) -> list[str]:
        plain = self.plain or self
        return [f"{self.backend}, {self.way}", f"{self.loss:.4f}", f"{self.loss - plain.loss:+.4f}",
                f"{self.training / 1e6:.2f}", f"{plain.training / self.training:.1f}x", f"{self.all / 1e6:.2f}",
                f"{plain.all / self.all:.1f}x", "good" if self.good else "NOT"]  # fmt: skip


def compared(directory: Path, backend: str, steps: int) -> list[Row]:
    """Two processes train the same model from the same start on the same batches, in each way."""
    place = directory / f"outer-{backend}"
    place.mkdir()
    base = _prepared(place)
    common = {"batch_size": 16, "eval_rows": 128, "learning_rate": 3e-3, "warmup_steps": steps // 20, "grad_clip": 1.0}
    cases = [equality.Case(FIRST, name.replace(",", ""), common | settings) for name, settings in WAYS.items()]
    equality.trained(place, backend, 2, equality.copies(base, place, cases, steps, max(EVERY, steps // 2)))
    rows: list[Row] = []
    for name, case in zip(WAYS, cases, strict=True):
        run = place / case.directory
        last = max((run / case.stage / "checkpoints").glob("step-*"))
        sent = json.loads((run / "sent.json").read_text("utf-8"))
        loss = read_state(last)["metrics"]["loss"]
        rows.append(Row(backend, name, loss, sent["training"], sent["all"], rows[0] if rows else None))
    return rows


def _prepared(directory: Path) -> Run:
    """A run with text for a model of 120,000 parameters, of which nothing is trained."""
    config = tiny_config((FIRST,))
    model = config.model.model_copy(update={"context": 64, "d_model": 64, "d_ff": 160, "head_dim": 16})
    data = config.data.model_copy(update={"world_texts": TEXTS, "world_lessons": 0})
    run = Run(directory / "base", config.model_copy(update={"model": model, "data": data}))
    run.save_config()
    make_tokenizer(run, (FIRST,), silent)
    make_data(run, FIRST, silent)
    return run
