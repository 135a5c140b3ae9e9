"""A whole training: from the last checkpoint, if there is one, to the last step."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from backends.base import Backend
from backends.tree import Tree
from minigpt.data.batches import Batch
from minigpt.errors import MiniGPTError
from minigpt.events import Report, silent
from minigpt.sections import StageConfig
from minigpt.store.stage import StageStore
from minigpt.train.clock import Clock, never
from minigpt.train.fully_sharded import FULL, FullySharded
from minigpt.train.hooks import Bounds, Brake, Checkpoints, Reports, Stops
from minigpt.train.loop import Done, Hook, Objective, State, train
from minigpt.train.outer import OuterSteps
from minigpt.train.sharded import ShardedMoments
from minigpt.train.stop import Stop
from minigpt.train.together import Together, check_rows, check_weights_are_whole


def fit(
    backend: Backend, stage: str, config: StageConfig, weights: Tree, objective: Objective, store: StageStore,
    report: Report = silent, stop: Stop | None = None, brake: Brake | None = None, hooks: Sequence[Hook] = (),
    fingerprint: str = "",
) -> Tree:  # fmt: skip
    """Train `weights` for `config.steps` updates, from the store's last whole checkpoint if it has one.

    The weights passed in must not be used afterwards. `hooks` are called after each step, too. `fingerprint` tells the
    objective's base from all others: its checkpoints fit no other. Returns the last weights, which are no averages; the
    store keeps the best ones too. Raises Interrupted, with a checkpoint saved, when `stop` is requested, OutOfMemory,
    with one, when it takes too much memory, and MiniGPTError when training fails again after it went back to an earlier
    checkpoint.
    """
    check_rows(config.batch_size, stage, backend.group.size)
    check_weights_are_whole(config, stage, objective.needs_weights, backend.group.size)
    stop, clock = stop or Stop(), Clock(_resting(brake))
    outer = OuterSteps(backend, stage, config, report) if config.outer_every else None
    together = outer or _together(backend, config, store)
    checkpoints = Checkpoints(backend, stage, config, objective, store, report, clock, fingerprint, together)
    state = State(weights, together.optimizer(config, weights).init(weights))
    checkpoints.resume(state)
    chain: list[Hook] = [outer] if outer else []
    chain += [Reports(stage, config, store, report, clock), checkpoints]
    chain += [_beside(hook, clock) for hook in hooks]
    chain += [Bounds(stage, brake, checkpoints, report, clock, together)] if brake is not None else []
    chain += [Stops(stage, config.steps, stop, checkpoints, together)]
    if config.needs_weights or objective.needs_weights:
        objective = replace(objective, batches=_Saving(objective.batches, checkpoints, state))
    with stop.listening():
        train(backend, config, objective, state, chain, clock, checkpoints.go_back, together)
    return state.weights


def _together(backend: Backend, config: StageConfig, store: StageStore) -> Together:
    """What the processes share out. One alone has all of it."""
    if config.shard == FULL and backend.group.size > 1:
        return FullySharded(backend, store)
    return (ShardedMoments if config.shard == "moments" else Together)(backend, config.transfer)


class _Saving:
    """Batches that are sampled: where one fails, as a reward function does, what was learned before it is saved."""

    def __init__(self, batches: Callable[[int, Tree], Batch], checkpoints: Checkpoints, state: State):
        self._batches, self._checkpoints, self._state = batches, checkpoints, state

    def __call__(self, step: int, weights: Tree) -> Batch:
        try:
            return self._batches(step, weights)
        except MiniGPTError:
            if self._state.step:
                self._checkpoints.save(self._state)
            raise


def _beside(hook: Hook, clock: Clock) -> Hook:
    """The hook, whose time is none of a step's."""

    def called(state: State, done: Done) -> None:
        hook(state, done)
        clock.restart()

    return called


def _resting(brake: Brake | None) -> Callable[[], float]:
    """Sleeps for as long as the brake says; returns the seconds that it has rested so far."""
    if brake is None:
        return never

    def rest() -> float:
        brake.rest()
        return brake.rested

    return rest
