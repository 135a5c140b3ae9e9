"""The training loop: a batch, its gradients, an update. All else that a step may need hangs on it as a hook.

`fit` assembles it for a stage; the hooks are in `minigpt.train.hooks`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from backends.base import Array, Backend
from backends.tree import Tree
from minigpt.data.batches import Ahead, Batch
from minigpt.sections import StageConfig
from minigpt.train.clock import Clock
from minigpt.train.gradients import accumulated
from minigpt.train.health import Health, Verdict
from minigpt.train.together import Together

Loss = Callable[..., tuple[Array, dict[str, Array]]]  # (weights, batch[, base]) -> (scalar, metrics)
Validate = Callable[[Tree], dict[str, float]]


@dataclass(frozen=True)
class Objective:
    """What a training minimizes: a pure `loss`, on which batches, and how it is measured on held-out data. The
    loss is an average with the batch's own loss weights. A batch is a function of the step and, where it is sampled, of
    the model's weights: `needs_weights` says so of batches for which the stage's settings do not.

    With a `base` (weights that no step changes) the loss takes it as its third argument. Leaves `beside` the model's,
    such as those of a value model, stand in the tree that is trained, under names of their own. Its `hooks` are called
    after each step.
    """

    loss: Loss
    batches: Callable[[int, Tree], Batch]
    validate: Validate
    base: Tree | None = None
    beside: Tree | None = None
    hooks: tuple["Hook", ...] = ()
    needs_weights: bool = False


@dataclass
class State:
    """What changes from step to step. `ended` says that a hook wants no further step."""

    weights: Tree
    moments: Tree
    step: int = 0
    health: Health = field(default_factory=Health)
    ended: bool = False


@dataclass(frozen=True)
class Done:
    """A step that was computed: its loss, the gradient's norm before clipping, and what became of it."""

    loss: float
    norm: float
    metrics: dict[str, float]
    batch: Batch
    verdict: Verdict


Hook = Callable[[State, Done], None]


def train(
    backend: Backend, config: StageConfig, objective: Objective, state: State, hooks: Sequence[Hook], clock: Clock,
    go_back: Callable[[State, float], None], together: Together,
) -> None:  # fmt: skip
    """Train `state` until `config.steps` updates are done; each hook is called after each step.

    Of several processes each computes its rows; after the sum all of them have the same numbers and do the same.

    Where a step shows that training fails, `go_back` sets the state back to an earlier one (or raises).
    """
    optimizer = together.optimizer(config, state.weights)
    gradient = _gradient(backend, config, objective)
    batches = Ahead(objective.batches)
    while state.step < config.steps and not state.ended:
        clock.begin_step()
        number = state.step + state.health.offset
        batch = clock.waiting(batches, number, state.weights)
        value, metrics, grads = accumulated(
            backend, gradient, state.weights, together.rows(batch), config.grad_accumulation, clock.rest
        )
        value, metrics, grads = together.summed(value, metrics, grads)
        grads, norm = optimizer.clip(grads)
        if backend.device == "gpu" and state.step + 1 < config.steps:
            backend.async_eval(norm)  # the GPU computes this step while the next one's batch is made
            if not (config.needs_weights or objective.needs_weights):
                batches.make(number + 1)
        done = _read(backend, value, norm, metrics, batch, state.health, config, together)
        if done.verdict == "failing":
            go_back(state, done.loss)
            continue
        if done.verdict == "good":
            state.weights, state.moments = optimizer.update(state.weights, grads, state.moments, state.step)
            if backend.lazy:  # else the update is under way, and a GPU goes on with it
                backend.sync(state.weights, state.moments)
        state.step += 1
        for hook in hooks:
            hook(state, done)


def _gradient(backend: Backend, config: StageConfig, objective: Objective) -> Callable:
    """(weights, batch) -> ((loss, metrics), gradients)."""
    gradient = backend.value_and_grad(objective.loss, compiled=config.compile)
    if objective.base is None:
        return gradient
    return lambda weights, batch: gradient(weights, batch, objective.base)


def _read(
    backend: Backend, value: Array, norm: Array, metrics: dict[str, Array], batch: Batch, health: Health,
    config: StageConfig, together: Together,
) -> Done:  # fmt: skip
    """The step's loss and norm, read before the update: afterwards a read would wait for that, too."""
    backend.sync(value, norm, metrics)
    loss, size = float(value), float(norm)
    verdict = health.judge(loss, size, bool(batch["weights"].any()), config.bad_steps, config.spike)
    return Done(loss, size, {name: float(x) for name, x in metrics.items()}, batch, together.judged(verdict))
