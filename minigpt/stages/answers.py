"""Whose answers a distillation learns from: given ones, the student's own (Agarwal et al. 2024, GKD), or the teacher's
(Kim & Rush 2016).
"""

import numpy as np

from backends.tree import Tree
from minigpt.data.batches import Batch, Batches, normalized, pack, stream
from minigpt.data.shards import MemoryShard
from minigpt.errors import DataError
from minigpt.model.gpt import GPT
from minigpt.stages.packed import laid_out, packed
from minigpt.stages.questions import in_turn, sampled
from minigpt.stages.stage import Job


class Answers:
    """Given batches, but for a share `own_answers` and a share `teacher_answers` of the steps. These are packed rows of
    `size` prompts, each with what the model in training or its teacher answers at temperature 1, and its end if it has
    one: as many as `batch_size` rows hold with the longest answers. A prompt is a conversation up to its last answer,
    or a row that nobody has answered.

    A batch is a pure function of (weights, seed, step).
    """

    def __init__(self, job: Job, teacher: GPT, frozen: Tree):
        self._job, self._teacher, self._frozen = job, teacher, frozen
        config = job.config
        self._own, self._asked = config.own_answers, config.own_answers + config.teacher_answers
        given = with_answers(job.training)
        self.prompts = _prompts(job) if self._asked else []
        if self._asked:
            if not self.prompts:
                raise DataError("No prompt leaves room for an answer.", "Raise model.context.")
            longest = np.array([min(len(ids) + config.max_tokens, job.context) for ids in self.prompts])
            rows = pack(longest, np.arange(len(longest)), job.context)
            self.size = config.batch_size * len(longest) // len(rows)
        if self._asked < 1:
            if not len(given):
                raise DataError("No conversation has an answer to learn from.",
                                "Let the teacher answer the prompts: --set distill.teacher_answers=1.")  # fmt: skip
            rows = job.form.rows(given, job.context, job.seed)
            self._given = Batches(rows, config.batch_size, job.seed)
            if not self._asked and (unused := len(job.training) - len(given)):
                job.note(f"distill: {unused:,} prompts without an answer are not used. For steps in which the teacher "
                         "answers prompts: --set distill.teacher_answers=0.5.")  # fmt: skip

    def __call__(self, step: int, weights: Tree) -> Batch:
        drawn = stream(self._job.seed, "whose", step).random() if self._asked else 1.0
        if drawn >= self._asked:
            return self._given(step)
        model, tree = (self._job.model, weights) if drawn < self._own else (self._teacher, self._frozen)
        prompts = in_turn(self.prompts, step * self.size, self.size, self._job.seed)
        answers, _ = sampled(self._job, tree, prompts, step, model=model)
        single = laid_out(prompts, answers)
        batch = packed(self._job.model, single).rows(single)
        return normalized(batch | {"weights": batch.pop("mask")})


def with_answers(shard: MemoryShard) -> MemoryShard:
    """The sequences of which something is learned; the shard itself where all are."""
    sizes = np.diff(shard.ends, prepend=0)
    learned = np.logical_or.reduceat(np.asarray(shard.mask) != 0, np.cumsum(sizes) - sizes)
    if learned.all():
        return shard
    kept = np.repeat(learned, sizes)  # of the tokens
    return MemoryShard(shard.ids[kept], np.cumsum(sizes[learned]), shard.mask[kept])


def _prompts(job: Job) -> list[list[int]]:
    """What comes before the last answer of each conversation, or all of one without an answer, where the context has
    room for one more token; of made-up rows (see Job) the first half.
    """
    found = []
    for i in range(len(job.training)):
        ids, mask = job.training.sequence(i)
        learned, start = np.flatnonzero(mask), len(ids)
        if job.made_up:
            start = len(ids) // 2
        elif len(learned):
            start = int(learned[np.flatnonzero(np.diff(learned, prepend=-1) > 1)[-1]])
        if 0 < start < job.context:
            found.append([int(token) for token in ids[:start]])
    return found
