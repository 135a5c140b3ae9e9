"""Outer steps for slow links: each process trains alone for many steps, and only then they exchange what they learned.

DiLoCo (Douillard et al. 2023): after H steps each process's way from the weights that all had in common counts as a
gradient, and their mean is the gradient of one step of SGD with Nesterov momentum on the common weights. An exchange
every H steps is 1/H of the traffic; the price is that the processes learn from weights that drift apart in between.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from backends.base import Array, Backend
from backends.tree import Tree, count, leaves, map_leaves, names, rebuild
from minigpt.data.batches import Batch, normalized
from minigpt.errors import MiniGPTError
from minigpt.events import Note, Report
from minigpt.sections import StageConfig
from minigpt.train.health import Health, Verdict
from minigpt.train.loop import Done, State
from minigpt.train.together import RANKS, Together, fitting


class OuterSteps(Together):
    """Rounds of `config.outer_every` steps that each process takes alone; as a hook it ends a round when that is due.

    A process computes the mean over its own rows, and clips, judges and updates with its own moments. What needs all
    of them waits for the end of a round: stopping, pausing, measuring and saving.
    """

    def __init__(self, backend: Backend, stage: str, config: StageConfig, report: Report):
        super().__init__(backend, config.transfer)
        self.stage, self.config, self.report = stage, config, report
        self.traffic = self.saving = self.rounds = 0  # bytes of exchanges, bytes of moments for checkpoints
        self._names: list[str] = []
        self._common: list[Array] = []  # the weights that all had when the round began
        self._momentum: list[Array] = []
        self._answers: list[Any] = []
        self._failing = False

    # ---- within a round ----------------------------------------------------------------------------------

    def rows(self, batch: Batch) -> Batch:
        """This process's rows, whose loss weights sum to 1 by themselves."""
        return batch if self.group.size == 1 else normalized(super().rows(batch))

    def summed(self, loss: Array, metrics: dict[str, Array], grads: Tree) -> tuple[Array, dict[str, Array], Tree]:
        """As they are: nothing is sent."""
        return loss, metrics, grads

    def agreed(self, ask: Callable[[], Any], choices: Sequence[Any]) -> Callable[[], Any]:
        """As in `Together`, asked and answered at the end of a round; None within one."""
        self._asked.append((ask, choices))
        place = len(self._asked) - 1
        return lambda: self._answers[place]

    def judged(self, verdict: Verdict) -> Verdict:
        """One process cannot go back alone: it learns nothing more until the round ends, which all drop then."""
        self._failing |= verdict == "failing"
        return "skip" if self._failing else verdict

    # ---- its end -----------------------------------------------------------------------------------------

    def __call__(self, state: State, done: Done) -> None:
        self._answers = [None] * len(self._asked)
        if state.step % self.config.outer_every and state.step < self.config.steps:
            return
        before = self.group.sent
        own = {"answers": [ask() for ask, _ in self._asked], "failing": self._failing, "health": asdict(state.health)}
        found = self.group.gather(own)
        for place, (_, choices) in enumerate(self._asked):
            given = [one["answers"][place] for one in found]
            self._answers[place] = next((one for one in choices if one in given), None)
        state.health = Health(**found[0]["health"])  # so that a resumed run judges as it would have
        if any(one["failing"] for one in found):
            self._drop(state)
        else:
            self._step(state)
        self.rounds, self.traffic = self.rounds + 1, self.traffic + self.group.sent - before
        if state.step == self.config.steps and self.group.size > 1:
            self.report(Note(self.told()))

    def _step(self, state: State) -> None:
        """m ← μ m + g and θ ← θ - rate · (g + μ m), where g is the mean of θ - θ_i over the processes i."""
        rate, mu, share = self.config.outer_learning_rate, self.config.outer_momentum, 1.0 / self.group.size
        ways = [self.backend.cast(a - b, self.transfer)
                for a, b in zip(self._common, leaves(state.weights), strict=True)]  # fmt: skip
        grads = [share * self.backend.cast(x, "float32") for x in self.group.sum(ways)]
        self._momentum = [mu * m + g for m, g in zip(self._momentum, grads, strict=True)]
        steps = [g + mu * m for m, g in zip(self._momentum, grads, strict=True)]
        self._common = [w - rate * step for w, step in zip(self._common, steps, strict=True)]
        state.weights = rebuild(state.weights, _copies(self._common))
        self.backend.sync(state.weights, self._common, self._momentum)

    def _drop(self, state: State) -> None:
        """Back to where the round began, with new moments; the batches since are omitted.

        Raises MiniGPTError when that happened before.
        """
        first, last = max(1, state.step + 1 - self.config.outer_every), state.step
        reason = f"{self.stage}: in a process the loss jumped or was not finite (steps {first:,} to {last:,})"
        if state.health.rollbacks:
            raise MiniGPTError(
                f"{reason}, although such steps were dropped before.",
                f"Lower {self.stage}.learning_rate (now {self.config.learning_rate:g}) or "
                f"{self.stage}.outer_learning_rate, then give the command with --allow-changes.",
            )
        self._failing = False
        state.weights = rebuild(state.weights, _copies(self._common))
        state.moments = map_leaves(lambda x: self.backend.zeros(tuple(x.shape)), state.moments)
        state.health = Health(skipped=state.health.skipped, rollbacks=1, offset=state.health.offset)
        self.report(Note(f"{reason}. All processes drop these steps and go on from step {last:,} with other batches."))

    # ---- checkpoints -------------------------------------------------------------------------------------

    def kept(self, moments: Tree) -> Tree:
        """{"ranks": {rank: moments}, "outer": {name: momentum}}; the weights are those that all have in common."""
        before = self.group.sent
        ranks = {"0": moments} | {str(rank): self.group.share(moments, rank) for rank in range(1, self.group.size)}
        self.saving += self.group.sent - before
        return {RANKS: ranks, "outer": dict(zip(self._names, self._momentum, strict=True))}

    def loaded(self, load: Callable[[Any], tuple[Tree, Tree, dict]], weights: Tree, moments: Tree) -> tuple:
        """As in `Together`. Each process gets its moments again; another number of processes shares them out."""
        found: dict[str, Any] = {}

        def read() -> dict[str, Any]:
            arrays, optim, state = load(fitting(moments, weights))
            found["weights"] = arrays if callable(optim) else self._arrays(arrays)
            plain = callable(optim) or RANKS not in optim  # a beginning, or a checkpoint without outer steps
            optim = moments if callable(optim) else self._arrays(optim)
            found.update({RANKS: {"0": {kind: optim[kind] for kind in moments}} if plain else optim[RANKS]})
            found["outer"] = None if plain else list(optim["outer"].values())
            return {"state": state, "ranks": len(found[RANKS]), "begins": plain}

        told = self.group.first(read)
        weights = self.group.share(found.get("weights", weights))
        self._common, self._names = _copies(leaves(weights)), names(weights)
        zeros = [self.backend.zeros(tuple(x.shape)) for x in self._common]
        self._momentum = zeros if told["begins"] else self.group.share(found.get("outer") or zeros)
        mine, kept = moments, found.get(RANKS, {})
        for rank in range(told["ranks"]):
            one = self.group.share(kept.get(str(rank), moments))
            mine = one if rank == self.group.rank % told["ranks"] else mine
        return weights, mine, told["state"]

    def told(self) -> str:
        """What was sent, in a ring, beside what the gradients of every step would have been."""
        turns = 2 * (self.group.size - 1) / self.group.size
        each, steps = turns * self.traffic, self.rounds * self.config.outer_every
        width = 2 if self.transfer == "bfloat16" else 4
        plain = turns * steps * width * count(self._common)
        return (
            f"{self.stage}: each of {self.group.size} processes sent {each / 1e6:,.2f} MB in {self.rounds:,} "
            f"exchanges, {each / steps / 1e3:,.1f} kB a step; gradients at every step would be {plain / each:,.1f} "
            "times as much. "
            f"Checkpoints took {turns * self.saving / 1e6:,.2f} MB beside that."
        )


def _copies(arrays: Sequence[Array]) -> list[Array]:
    """Arrays of their own: an update may change weights in place."""
    return [x + 0 for x in arrays]
