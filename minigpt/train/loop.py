"""The one training loop: batches → parts → accumulated gradients → clip → update → events."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict

from backends.base import Array, Backend
from backends.tree import Tree
from minigpt.config import StageConfig
from minigpt.data.batches import Ahead, Batches
from minigpt.errors import Interrupted, MiniGPTError, OutOfMemory
from minigpt.events import Continued, Eval, Note, Paused, Report, Resumed, Saved, Skipped, Step
from minigpt.machine.brake import Brake
from minigpt.stages.adapter import Base
from minigpt.store.stage import StageStore
from minigpt.train.control import Control
from minigpt.train.gradients import accumulated
from minigpt.train.health import Health
from minigpt.train.optim import Optimizer, rate

Loss = Callable[..., tuple[Array, dict[str, Array]]]  # (weights, batch[, base]) -> (scalar, metrics)
Validate = Callable[[Tree], dict[str, float]]
UNMEASURED = {"loss": math.inf}
PAUSES = {"pause for memory": "this machine is short of memory", "pause for heat": "this machine is too hot"}
NOT_FINITE, NOTHING_TO_LEARN = "the loss or its gradient is not finite", "its batch has no token to learn from"


def train(
    backend: Backend, stage: str, config: StageConfig, weights: Tree, loss: Loss, batches: Batches,
    validate: Validate, store: StageStore, report: Report, control: Control,
    base: Base | None = None,
) -> Tree:
    """Train `weights` for `config.steps` updates, from the store's last whole checkpoint if it has one.

    `loss` is a pure function whose value is already averaged by the batch's weights; with a `base` its weights are
    the third argument. The weights passed in must not be used afterwards. Returns the last weights; the store
    keeps the best ones too. Raises Interrupted, with a checkpoint saved, when `control` asks to stop, OutOfMemory,
    with one, when it takes too much memory, and MiniGPTError when training fails again after it went back to an
    earlier checkpoint.
    """
    training = _Training(backend, stage, config, weights, loss, batches, validate, store, report, base, control.rest)
    training.begin()
    with control.stop.listening():
        while training.step < config.steps:
            training.advance()
            if control.brake is not None:
                training.heed(control.brake)
            if control.stop.requested and training.step < config.steps:
                training.save()
                message = f"Stopped during {stage} behind step {training.step:,} of {config.steps:,}, which is saved."
                raise Interrupted(message, "", control.stop.signal)
    return training.weights


class _Training:
    """What changes from step to step: weights, moments, health and the number of steps done."""

    def __init__(self, backend, stage, config, weights, loss, batches, validate, store, report, base, rest):
        self.backend, self.stage, self.config, self.base = backend, stage, config, base
        self.batches, self.validate, self.store, self.report, self.rest = Ahead(batches), validate, store, report, rest
        self.optimizer = Optimizer(backend, config, weights)
        gradient = backend.value_and_grad(loss, compiled=config.compile)
        self.gradient = gradient if base is None else lambda weights, batch: gradient(weights, batch, base.weights)
        self.weights, self.moments = weights, self.optimizer.init(weights)

    def begin(self) -> None:
        """Take up the last checkpoint, or measure the weights that training starts from."""
        found = self.store.resume(self.backend, self.weights, self.moments, self.report)
        self.weights, self.moments, state = found
        self.health, self.step = Health(**state.get("health", {})), state["step"]
        self.saved = self.step
        if self.step:
            if self.base is not None:
                self.base.check(state, self.store.directory)
            self.report(Resumed(self.stage, self.step))
        else:
            self._evaluate()
        self.clock = time.perf_counter()  # when the last step ended, or the measuring or saving behind it

    def advance(self) -> None:
        """One step with all that is due behind it; or, when training fails, the way back to a good checkpoint."""
        came = time.perf_counter()
        rested, asked = self.rest(), time.perf_counter()
        number = self.step + self.health.offset
        batch = self.batches(number)
        waited = time.perf_counter() - asked
        self.clock += asked - came  # this rest was owed for other work
        value, metrics, grads = accumulated(
            self.backend, self.gradient, self.weights, batch, self.config.accumulation, self.rest
        )
        slopes, norm = self.optimizer.clip(grads)
        if self.backend.device == "gpu":  # which computes this step while the next one's batch is made
            self.backend.start(norm)
            if self.step + 1 < self.config.steps:
                self.batches.make(number + 1)
        self.backend.sync(value, norm, metrics)
        loss, size = float(value), float(norm)  # read here: behind the update a read would wait for that
        measured, learns = {name: float(x) for name, x in metrics.items()}, bool(batch["weights"].any())
        verdict = self.health.judge(loss, size, learns, self.config.bad_steps, self.config.spike)
        if verdict == "failing":
            self._go_back(loss)
            return
        if verdict == "good":
            self.weights, self.moments = self.optimizer.update(self.weights, slopes, self.moments, self.step)
            self.backend.begin(self.weights, self.moments)
        self.step += 1
        rested, began, self.clock = self.rest() - rested, self.clock, time.perf_counter()
        event = Step(
            self.stage, self.step, self.config.steps, loss,
            self.config.learning_rate * rate(self.config, self.step - 1), size, batch["ids"].size,
            self.clock - began, measured, rested, waited,
        )  # fmt: skip
        self.report(event)
        self._record(event, "" if verdict == "good" else NOT_FINITE if learns else NOTHING_TO_LEARN)
        self._measure_and_save()

    def heed(self, brake: Brake) -> None:
        """What the machine needs between two steps: a pause, or the end of this process with a checkpoint."""
        action = brake.decide()
        self.report(brake.usage())
        if action == "smaller parts":
            self.save()
            raise OutOfMemory(
                f"The memory ran out during training: {brake.limits.said(brake.resident)} behind step {self.step:,}.",
                "Raise accumulation (more parts per step, the same result) or --max-memory.",
            )
        if action.startswith("pause"):
            if action == "pause for memory":  # the system may end this process meanwhile
                self.save()
            self.report(Paused(self.stage, self.step, PAUSES[action], self.saved == self.step))
            self.report(Continued(self.stage, self.step, brake.pause(action)))
            self.clock = time.perf_counter()

    def save(self, measured: dict[str, float] = UNMEASURED) -> None:
        """A checkpoint of this step, unless there is one. What may be ruined counts as unmeasured: never the best."""
        if self.saved == self.step:
            return
        measured = UNMEASURED if self.health.high else measured
        state = {"step": self.step, "metrics": measured, "health": asdict(self.health)}
        state |= {} if self.base is None else {"base": self.base.fingerprint}
        path = self.store.save(self.backend, self.weights, self.moments, state, self.config.keep_last)
        self.saved = self.step
        self.report(Saved(self.stage, self.step, path))

    def _record(self, event: Step, skipped: str) -> None:
        if skipped:  # the weights are as they were
            self.store.log({"step": event.step, "loss": event.loss, "norm": event.norm, "skipped": skipped})
            self.report(Skipped(self.stage, event.step, skipped, self.health.skipped))
        elif event.step % self.config.log_every == 0 or event.step == event.steps:
            record = {"step": event.step, "loss": event.loss, "learning_rate": event.learning_rate, "norm": event.norm}
            times = {"seconds": round(event.seconds, 4), "waited": round(event.waited, 6)}
            self.store.log(record | event.metrics | {"tokens": event.tokens} | times)

    def _measure_and_save(self) -> None:
        saving = self.step % self.config.save_every == 0 or self.step == self.config.steps
        measured = UNMEASURED
        try:
            if saving or self.step % self.config.eval_every == 0:
                measured = self._evaluate()
        finally:  # an evaluation that fails costs no training
            if saving:
                self.save(measured)
            if saving or measured is not UNMEASURED:
                self.clock = time.perf_counter()

    def _evaluate(self) -> dict[str, float]:
        measured = self.validate(self.weights)
        self.store.log({"step": self.step} | {f"validation_{name}": value for name, value in measured.items()})
        self.report(Eval(self.stage, self.step, measured))
        return measured

    def _go_back(self, loss: float) -> None:
        """To the last good checkpoint, and on from there with other batches.

        Raises MiniGPTError when there is none, or when the stage went back before.
        """
        stage, health = self.stage, self.health
        reason = f"{stage}: {health.reason(loss)} (step {self.step + 1:,})"
        hint = (
            f"Lower {stage}.learning_rate (now {self.config.learning_rate:g}), lengthen {stage}.warmup_steps or look "
            "at the data (minigpt data check), then give the command with the changed settings and --allow-changes."
        )
        if health.rollbacks:
            raise MiniGPTError(f"{reason}, although training went back to a checkpoint before.", hint)
        if self.store.last_good() is None:
            raise MiniGPTError(f"{reason}, before a first checkpoint was saved.", hint)
        found = self.store.roll_back(self.backend, self.weights, self.moments, self.report)
        self.weights, self.moments, state = found
        back = state["step"]
        self.report(Note(f"{reason}. Going back to the checkpoint of step {back:,}; the batches since are left out."))
        self.store.log({"step": back, "went_back_from": self.step + 1, "reason": health.reason(loss)})
        offset = self.step + health.offset + 1 - back
        kept = {"rollbacks": 1, "offset": offset, "skipped": health.skipped}
        self.health = Health(**state.get("health", {}) | kept)
        self.step = self.saved = back
        self.clock = time.perf_counter()
