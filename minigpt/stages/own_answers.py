"""Answers that a student gives itself, for its teacher to say how they should go on (Agarwal et al. 2024, GKD)."""

from collections.abc import Callable

import numpy as np

from backends.tree import Tree
from minigpt.data.batches import Batch, empty_row, normalized, place_example, stacked, stream
from minigpt.errors import DataError
from minigpt.generate.engine import Answer, Engine
from minigpt.generate.sampling import Sampling
from minigpt.stages.questions import as_told, in_turn
from minigpt.stages.stage import Job


class OwnAnswers:
    """`given` batches, but for a share `own_answers` of the steps: a row of these holds the prompt of one conversation,
    up to its last answer, and what the model in training answers, with its end where it has one.

    A batch is a pure function of (weights, seed, step).
    """

    sampled = True

    def __init__(self, job: Job, given: Callable[[int], Batch]):
        self._job, self._given, self._prompts = job, given, _prompts(job)
        if not self._prompts:
            raise DataError("No prompt leaves room for an answer of the student's own.", "Raise model.context.")

    def __call__(self, step: int, weights: Tree) -> Batch:
        if stream(self._job.seed, "whose", step).random() >= self._job.config.own_answers:
            return self._given(step)
        size = self._job.config.batch_size
        prompts = in_turn(self._prompts, step * size, size, self._job.seed)
        rows = []
        for prompt, answer in zip(prompts, self._answers(prompts, step, weights), strict=True):
            row, ids = empty_row(self._job.context), prompt + answer.tokens
            mask = np.array([0] * len(prompt) + [1] * len(answer.tokens), np.float32)
            place_example(row, 0, 0, np.array(ids, np.int32), mask)
            rows.append(row)
        return normalized(stacked(rows))

    def _answers(self, prompts: list[list[int]], step: int, weights: Tree) -> list[Answer]:
        """Sampled at temperature 1; several processes share the prompts out, and all of them get all answers."""
        job, group = self._job, self._job.model.backend.group
        engine = Engine(job.model, weights, job.tokenizer)
        seeds = stream(job.seed, "answers", step).integers(0, 2**62, len(prompts))

        def some(part: np.ndarray) -> list[list]:
            samplings = [Sampling(1.0, seed=int(seeds[i])) for i in part]
            return as_told(engine.answer_each([prompts[i] for i in part], samplings, job.config.max_tokens))

        parts = np.array_split(np.arange(len(prompts)), min(group.size, len(prompts)))
        return [Answer(*fields) for found in group.map(some, parts) for fields in found]


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
