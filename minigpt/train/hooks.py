"""What happens after a training step: it is reported, measured and saved, and the machine is asked what it can bear."""

import math
import signal
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Protocol

from backends.base import Backend
from backends.tree import Tree
from minigpt.errors import Interrupted, MiniGPTError, OutOfMemory
from minigpt.events import Continued, Eval, Note, Paused, Report, Resumed, Saved, Skipped, Step, Usage
from minigpt.sections import StageConfig
from minigpt.store.stage import StageStore, averaged, check_base
from minigpt.train.clock import Clock
from minigpt.train.health import Health
from minigpt.train.loop import Done, Objective, State
from minigpt.train.optim import rate
from minigpt.train.stop import Stop
from minigpt.train.together import Together

UNMEASURED = {"loss": math.inf}
PAUSES = {"pause for memory": "this machine is short of memory", "pause for heat": "this machine is too hot"}
NOT_FINITE, NOTHING_TO_LEARN = "the loss or its gradient is not finite", "its batch has no token to learn from"
RISING = 3  # measurements in a row above the best one after which a model is said to learn by heart


class Brake(Protocol):
    """What holds a training within its limits (see `minigpt.machine.brake`)."""

    rested: float
    resident: int
    limits: Any

    def rest(self) -> None: ...
    def decide(self) -> str: ...
    def usage(self) -> Usage: ...
    def pause(self, action: str) -> float: ...


class Reports:
    """Tells of each step, and writes some of them into the journal."""

    def __init__(self, stage: str, config: StageConfig, store: StageStore, report: Report, clock: Clock):
        self.stage, self.config, self.store, self.report, self.clock = stage, config, store, report, clock

    def __call__(self, state: State, done: Done) -> None:
        config, (seconds, rested) = self.config, self.clock.end_step()
        event = Step(
            self.stage, state.step, config.steps, done.loss,
            config.learning_rate * rate(config, state.step - 1), done.norm, done.batch["ids"].size,
            seconds, done.metrics, rested, self.clock.waited,
        )  # fmt: skip
        self.report(event)
        if done.verdict == "skip":  # the weights are as they were
            reason = NOT_FINITE if done.batch["weights"].any() else NOTHING_TO_LEARN
            self.store.log({"step": event.step, "loss": event.loss, "norm": event.norm, "skipped": reason})
            self.report(Skipped(self.stage, event.step, reason, state.health.skipped))
        elif event.step % config.log_every == 0 or event.step == event.steps:
            record = {"step": event.step, "loss": event.loss, "learning_rate": event.learning_rate, "norm": event.norm}
            times = {"seconds": round(event.seconds, 4), "waited": round(event.waited, 6)}
            self.store.log(record | event.metrics | {"tokens": event.tokens} | times)


class Checkpoints:
    """Measures and saves when that is due, and whenever a measurement is the best one so far; finds the way back."""

    def __init__(
        self, backend: Backend, stage: str, config: StageConfig, objective: Objective, store: StageStore,
        report: Report, clock: Clock, fingerprint: str, together: Together,
    ):  # fmt: skip
        self.backend, self.stage, self.config, self.objective = backend, stage, config, objective
        self.store, self.report, self.clock = store, report, clock
        self.together = together
        self.fingerprint = fingerprint  # of the frozen weights that an adapter belongs to
        self.saved = 0  # the step of the last checkpoint
        self.best: tuple[float, int] = (math.inf, 0)  # lowest validation loss, its step
        self.before = math.inf  # the validation loss of the weights that training starts from
        self.since = 0  # measurements since then

    def resume(self, state: State) -> None:
        """Take up the last checkpoint, or measure the weights that training starts from."""
        state.weights, state.moments, found = self._load(self.store.resume, state)
        self._set(state, found)
        state.ended = 0 < self.config.patience <= self.since
        if state.step and self.fingerprint:
            check_base(found, self.fingerprint, self.store.directory)
        if state.step:
            self.report(Resumed(self.stage, state.step))
        else:
            self.before = self._measure(state)["loss"]
        self.clock.restart()

    def __call__(self, state: State, done: Done) -> None:
        saving = state.step % self.config.save_every == 0 or state.step == self.config.steps
        if not saving and state.step % self.config.eval_every:
            return
        measured, best, failed = UNMEASURED, self.best, True
        try:
            measured = self._measure(state)
            self._watch(state)
            failed = False
        finally:  # an evaluation that fails costs no training
            alone = failed and self.backend.group.in_step  # the others may be in a pass, and cannot save with this one
            if (saving or state.ended or self.best != best) and not alone:
                self.save(state, measured)
            self.clock.restart()

    def save(self, state: State, measured: dict[str, float] = UNMEASURED) -> None:
        """A checkpoint of this step, unless there is one. What may be ruined counts as unmeasured: never the best."""
        if self.saved == state.step:
            return
        measured = UNMEASURED if state.health.high else measured
        kept = {"step": state.step, "metrics": measured, "health": asdict(state.health), "dtype": self.config.dtype}
        kept |= {"before": self.before} if math.isfinite(self.before) else {}
        kept |= {"best": {"loss": self.best[0], "step": self.best[1], "since": self.since}} if self.best[1] else {}
        kept |= {"base": self.fingerprint} if self.fingerprint else {}
        self.together.check_weights(state.weights, state.step)
        path = self.together.saved(self.store, state.weights, state.moments, kept, self.config.keep_last)
        self.saved = state.step
        self.report(Saved(self.stage, state.step, path))

    def go_back(self, state: State, loss: float) -> None:
        """To the last good checkpoint, and on from there with other batches.

        Raises MiniGPTError when there is none, or when the stage went back before.
        """
        stage, health = self.stage, state.health
        reason = f"{stage}: {health.reason(loss)} (step {state.step + 1:,})"
        hint = (
            f"Lower {stage}.learning_rate (now {self.config.learning_rate:g}), lengthen {stage}.warmup_steps or look "
            "at the data (minigpt data check), then give the command with the changed settings and --allow-changes."
        )
        if health.rollbacks:
            raise MiniGPTError(f"{reason}, although training went back to a checkpoint before.", hint)
        if not self.together.group.first(lambda: self.store.last_good() is not None):
            raise MiniGPTError(f"{reason}, before a first checkpoint was saved.", hint)
        failed = state.step
        state.weights, state.moments, found = self._load(self.store.roll_back, state)
        self._set(state, found)
        back = state.step
        self.report(Note(f"{reason}. Going back to the checkpoint of step {back:,}; the batches since are omitted."))
        self.store.log({"step": back, "went_back_from": failed + 1, "reason": health.reason(loss)})
        state.health.rollbacks, state.health.skipped = 1, health.skipped
        state.health.offset = failed + health.offset + 1 - back
        self.clock.restart()

    def _load(self, load: Callable, state: State) -> tuple[Tree, Tree, dict]:
        weights, moments = state.weights, state.moments
        return self.together.loaded(lambda wanted: load(self.backend, weights, wanted, self.report), weights, moments)

    def _set(self, state: State, found: dict) -> None:
        """The state as a checkpoint has it."""
        state.step, state.health = found["step"], Health(**found.get("health", {}))
        best = found.get("best") or {"loss": math.inf, "step": 0, "since": 0}
        self.best, self.since, self.saved = (best["loss"], best["step"]), best["since"], state.step
        self.before = found.get("before", math.inf)

    def _measure(self, state: State) -> dict[str, float]:
        group = self.together.group
        weights = averaged(state.weights, state.moments)
        measured = group.gather(group.opened(self.objective.validate)(weights))[0]
        self.store.log({"step": state.step} | {f"validation_{name}": value for name, value in measured.items()})
        self.report(Eval(self.stage, state.step, measured))
        if state.step and measured["loss"] < self.best[0] and not state.health.high:
            self.best, self.since = (measured["loss"], state.step), 0
        else:
            self.since += bool(self.best[1])
        return measured

    def _watch(self, state: State) -> None:
        """Say when a model begins to learn its text by heart, and end its training where patience is at its end."""
        loss, step = self.best
        if self.since == RISING and self.config.patience != RISING:
            why = "" if self.config.samples else ": from here the model learns its training data by heart"
            told = f"{self.stage}: best at step {step:,} (validation loss {loss:.4f}); not better since{why}."
            self.report(Note(f"{told} The best weights are kept."))
        if self.config.patience and self.since >= self.config.patience and state.step < self.config.steps:
            state.ended = True
            told = f"{self.stage}: ended after step {state.step:,} of {self.config.steps:,}: no measurement since step "
            self.report(Note(f"{told}{step:,} was better (patience {self.config.patience})."))
        if step and (state.ended or state.step == self.config.steps) and self.before < loss:
            told = f"{self.stage}: no measurement was as good as the one before the first step: a validation loss of "
            hint = f"What it began with may be better. Lower {self.stage}.learning_rate, or look at the data."
            self.report(Note(f"{told}{self.before:.4f}, at best {loss:.4f} (step {step:,}). {hint}"))


class Bounds:
    """Holds training to the machine's limits: a pause, or the end of this process with a checkpoint."""

    def __init__(
        self, stage: str, brake: Brake, checkpoints: Checkpoints, report: Report, clock: Clock, together: Together
    ):
        self.stage, self.brake, self.checkpoints, self.report, self.clock = stage, brake, checkpoints, report, clock
        self.decide = together.agreed(brake.decide, ("smaller micro-batches", *PAUSES))

    def __call__(self, state: State, done: Done) -> None:
        action = self.decide() or "go on"
        self.report(self.brake.usage())
        if action == "smaller micro-batches":
            self.checkpoints.save(state)
            used = self.brake.limits.said(self.brake.resident)
            raise OutOfMemory(
                f"The memory ran out during training: {used} after step {state.step:,}.",
                "Raise grad_accumulation (more micro-batches per step, the same result) or --max-memory.",
            )
        if action.startswith("pause"):
            if action == "pause for memory":  # the system may end this process meanwhile
                self.checkpoints.save(state)
            self.report(Paused(self.stage, state.step, PAUSES[action], self.checkpoints.saved == state.step))
            self.report(Continued(self.stage, state.step, self.brake.pause(action)))
            self.clock.restart()


class Stops:
    """Ends training, with a checkpoint, when somebody asked for that."""

    def __init__(self, stage: str, steps: int, stop: Stop, checkpoints: Checkpoints, together: Together):
        self.stage, self.steps, self.stop, self.checkpoints = stage, steps, stop, checkpoints
        self.requested = together.agreed(lambda: stop.requested, (True,))  # `self` would be a circle, freed late

    def __call__(self, state: State, done: Done) -> None:
        if self.requested() and state.step < self.steps:
            self.checkpoints.save(state)
            message = f"Stopped during {self.stage} after step {state.step:,} of {self.steps:,}, which is saved."
            raise Interrupted(message, "", self.stop.signal or signal.SIGTERM)
