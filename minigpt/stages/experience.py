"""What PPO learns from: answers of the model in training, judged and valued, cut into the batches of several epochs.

A sampling begins at some step and serves the next `epochs` · `mini_batches` steps, or fewer where the model has moved
too far from it. It is kept in the stage's directory under the step that it began at until no checkpoint can need it:
which one a step belongs to, and whether it is over, depends on these files and the weights alone, so that training goes
on exactly, wherever it was interrupted.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from backends.base import Array
from backends.tree import Tree
from minigpt.data.batches import Batch, stream
from minigpt.stages.micro_batches import Reader
from minigpt.stages.packed import READ, laid_out, packed
from minigpt.stages.questions import answered_and_judged, in_turn, questions_of
from minigpt.stages.rollouts import SAMPLES, Sampled, token_logprobs
from minigpt.stages.stage import Job
from minigpt.stages.value import values
from minigpt.store.durable import whole_file
from minigpt.train.advantages import TokenRewards, gae, token_rewards, whitened
from minigpt.train.kl import adapted_coefficient, moved_too_far
from minigpt.train.losses import losses_after, of_rows
from minigpt.train.policy_losses import token_weights
from minigpt.train.rewards import Reward

AT_ONCE = 64  # answers that are sampled together
SINGLE = ("ids", "targets", "mask")  # of a sampling (N, T): each answer in a row of its own, and what was found of
ROWS = (*SINGLE, "old", "values", "returns", "advantages")  # its tokens


class Experience:
    """`experience(step, weights)`: the batch of a step. `figures` names the columns of its `told`.

    `latest` are the answers that this process sampled last, `samples` the best and the worst of those that the step
    learns from.
    """

    def __init__(self, job: Job, rewards: list[Reward], reference: Tree):
        self.job, self.config, self.rewards, self.reference = job, job.config, rewards, reference
        self.questions = questions_of(job, job.training)
        self.count = self._answers
        if job.made_up:  # each step samples its share
            self.count = max(1, self.config.batch_size // self.config.epochs)
        names = [f"reward_{reward.name}" for reward in rewards] if len(rewards) > 1 else []
        self.figures = ["reward", "reward_spread", "kl", "kl_coefficient", "length", "cut_off", *names]
        self.kept = _Kept(None if job.directory is None else job.directory / "rollouts", job.model.backend.group.rank)
        self.latest: Sampled | None = None
        self.samples: list[dict[str, Any]] = []
        self._read = _policy_and_values(job)
        self._logprobs = token_logprobs(job)

    @property
    def _answers(self) -> int:
        return self.config.batch_size * self.config.mini_batches

    def __call__(self, step: int, weights: Tree) -> Batch:
        found = self._sampling(step, weights)
        self.samples = json.loads(str(found.get(SAMPLES, "[]")))
        epoch, number = divmod(step - int(found["first"]), self.config.mini_batches)
        order = stream(self.job.seed, "mini", step - number).permutation(self._answers) % self.count
        chosen = np.sort(order[number * self.config.batch_size : (number + 1) * self.config.batch_size])
        single = {name: found[name][chosen] for name in ROWS}
        single["weights"] = token_weights(single["mask"], "dapo")
        batch = packed(self.job.model, single).rows(single)
        rows = len(batch["ids"])
        return batch | {"told": np.tile(found["told"][:1] / np.float32(rows), (rows, 1))}

    def _sampling(self, step: int, weights: Tree) -> Batch:
        """The answers that a step learns from: those at hand, or new ones."""
        before = None if self.job.made_up else self.kept.last(step)
        if before is not None and not self._over(before, step, weights):
            return before
        found = self._sampled(step, weights, before)
        self.kept.keep(step, found, step - (self.config.keep_last + 2) * self.config.save_every)
        return found

    def _over(self, found: Batch, step: int, weights: Tree) -> bool:
        """Whether all epochs are done, or the model has moved so far that the remaining ones are omitted."""
        config, done = self.config, step - int(found["first"])
        if done >= config.epochs * config.mini_batches:
            return True
        if not config.target_kl or not done or done % config.mini_batches:
            return False
        now, _ = self._policy_and_values(weights, found)
        d = (now - found["old"]) * found["mask"]
        moved = float((np.exp(d) - 1.0 - d).sum() / max(found["mask"].sum(), 1.0))  # k3, of the sampling model
        return moved_too_far(moved, config.target_kl)

    def _sampled(self, step: int, weights: Tree, before: Batch | None) -> Batch:
        """New answers with all that does not change while they are learned from."""
        config = self.config
        place = self.count * (step // (config.epochs * config.mini_batches))  # where no sampling before is known
        place = place if before is None else int(before["place"]) + self.count
        coefficient = config.kl_coefficient if before is None else float(before["next_coefficient"])
        asked = in_turn(self.questions, place, self.count, self.job.seed)
        answers, scores, single = answered_and_judged(
            self.job, self.rewards, weights, asked, step, at_once=AT_ONCE
        )
        found = laid_out([question.ids for question in asked], answers)  # (N, T)
        mask, ended = found["mask"], np.array([answer.reason == "stop" for answer in answers])
        old, told = self._policy_and_values(weights, found)
        apart = (old - self._of_all(self._logprobs, self.reference, found)) * mask  # (N, T)
        settings = TokenRewards(coefficient, config.missing_eos_penalty)
        rewards = token_rewards(scores, mask, apart, ended, settings)
        rewards = whitened(rewards, mask, centre=False) if config.whiten_rewards else rewards
        advantages, returns = gae(rewards, told, mask, config.gamma, config.gae_lambda)
        kl = float(apart.sum() / len(answers))  # k1: nats per answer
        self.latest = Sampled(asked, [[answer] for answer in answers], scores[:, None], single[:, None])
        figures = [scores.mean(), scores.std(), kl, coefficient, np.mean([len(answer.ids) for answer in answers]),
                   1.0 - ended.mean(), *(single.mean(axis=0) if len(self.rewards) > 1 else [])]  # fmt: skip
        if config.kl_target:
            coefficient = adapted_coefficient(coefficient, kl, config.kl_target, len(answers), config.kl_horizon)
        rows = {
            "scores": scores, "old": old, "values": told, "returns": returns, "advantages": whitened(advantages, mask),
            "told": np.tile(np.array(figures), (len(answers), 1)),
        }  # fmt: skip
        return found | {name: row.astype(np.float32) for name, row in rows.items()} | {
            "first": np.array(step), "place": np.array(place), "next_coefficient": np.array(coefficient),
            SAMPLES: np.array(json.dumps(self.latest.best_and_worst())),
        }  # fmt: skip

    def _policy_and_values(self, weights: Tree, found: Batch) -> tuple[np.ndarray, np.ndarray]:
        """(log-probabilities, values) (N, T) of the sampled tokens."""
        read = self._of_all(self._read, weights, found)
        return read[..., 0].copy(), read[..., 1].copy()

    def _of_all(self, reader: Reader, weights: Tree, found: Batch) -> np.ndarray:
        """What `reader` finds of the tokens (N, T, …); 0 where an answer has none."""
        single = {name: found[name] for name in SINGLE}
        where = packed(self.job.model, single)
        return where.back(reader(weights, where.rows(single)))


def _policy_and_values(job: Job) -> Reader:
    """(weights, batch) -> (R, W, 2): log-probability and value of each token."""
    model, temperature = job.model, job.config.temperature

    def read(weights: Tree, batch: dict[str, Array]) -> Array:
        hidden = model.hidden(weights, batch["ids"], **of_rows(batch))
        nll = losses_after(model, weights, hidden, batch["targets"], batch["mask"] > 0, temperature)
        return model.backend.concat([-nll[..., None], values(model, weights, batch, hidden)[..., None]], -1)

    return Reader(model.backend, read, READ, job.rows_at_once)


class _Kept:
    """Samplings by the step that they began at: the last one in memory, and in a directory where there is one.

    Of several processes the first one writes.
    """

    def __init__(self, directory: Path | None, rank: int):
        self.directory, self.rank = directory, rank
        self.current: Batch | None = None

    def last(self, step: int) -> Batch | None:
        """The last sampling that began at `step` or before; None when there is none."""
        if self.directory is None:
            return self.current
        firsts = [int(path.stem) for path in self.directory.glob("*.npz") if int(path.stem) <= step]
        if not firsts:
            return None
        if self.current is None or int(self.current["first"]) != max(firsts):
            with np.load(self._path(max(firsts))) as kept:
                self.current = dict(kept)
        return self.current

    def keep(self, step: int, found: Batch, oldest: int) -> None:
        """Keep a sampling. Those older than what `oldest`, the first step that may be needed, belongs to are removed.

        What an interrupted training has left from later steps is removed, too.
        """
        self.current = found
        if self.directory is None or self.rank:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        with whole_file(self._path(step)) as temporary, temporary.open("wb") as file:
            np.savez(file, **found)
        firsts = sorted(int(path.stem) for path in self.directory.glob("*.npz"))
        needed = [first for first in firsts if first <= oldest][-2:]  # its own, and the one that it follows
        for first in firsts:
            if first > step or (needed and first < needed[0]):
                self._path(first).unlink()

    def _path(self, first: int) -> Path:
        return self.directory / f"{first:08}.npz"
