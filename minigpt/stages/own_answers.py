"""Answers that a student gives itself, for its teacher to say how they should go on (Agarwal et al. 2024, GKD)."""

from collections.abc import Callable

import numpy as np

from backends.tree import Tree
from minigpt.data.batches import Batch, normalized, stream
from minigpt.errors import DataError
from minigpt.stages.packed import laid_out, packed
from minigpt.stages.questions import in_turn, sampled
from minigpt.stages.stage import Job


class OwnAnswers:
    """`given` batches, but for a share `own_answers` of the steps. These are packed rows of `batch_size` conversations,
    up to their last answers, each with what the model in training answers at temperature 1, and its end if it has one.

    A batch is a pure function of (weights, seed, step).
    """

    def __init__(self, job: Job, given: Callable[[int], Batch]):
        self._job, self._given, self._prompts = job, given, _prompts(job)
        if not self._prompts:
            raise DataError("No prompt leaves room for an answer of the student's own.", "Raise model.context.")

    def __call__(self, step: int, weights: Tree) -> Batch:
        if stream(self._job.seed, "whose", step).random() >= self._job.config.own_answers:
            return self._given(step)
        size = self._job.config.batch_size
        prompts = in_turn(self._prompts, step * size, size, self._job.seed)
        answers, _ = sampled(self._job, weights, prompts, step)
        single = laid_out(prompts, answers)
        batch = packed(self._job.model, single).rows(single)
        return normalized(batch | {"weights": batch.pop("mask")})


def _prompts(job: Job) -> list[list[int]]:
    """What comes before the last answer of each conversation, where the context has room for an answer; of made-up
    rows (see Job) the first half.
    """
    found = []
    for i in range(len(job.training)):
        ids, mask = job.training.sequence(i)
        learned = np.flatnonzero(mask)
        start = len(ids) // 2
        if not job.made_up and len(learned):
            start = int(learned[np.flatnonzero(np.diff(learned, prepend=-1) > 1)[-1]])
        if 0 < start < job.context:
            found.append([int(token) for token in ids[:start]])
    return found
