"""Rows of single answers that are called good or bad, and beside each the mismatched answers that KTO measures."""

import numpy as np

from minigpt.data.batches import Batch, pack, side_by_side, stream
from minigpt.data.shards import MemoryShard

GOOD, BAD = 1, 2  # in a shard's mask, at the tokens of an answer
OTHER = "other_"  # before the names of a row's mismatched sequences


class LabelledRows:
    """Rows that hold whole answers to their prompts; which ones share a row is decided once.

    Beside them stand the same prompts, each with the answer of the prompt before it in the row, the first with the
    last one's: pairs that do not match, made of the very answers that the batch learns from (Ethayarajh et al. 2024,
    section 4.1). They take as many tokens as the row. An answer that is alone in its row meets that of another row.

    `reference` (answers, 2) holds the reference model's summed log-probabilities of each answer and of the mismatched
    one after its prompt. A row has `2 · length` tokens, and these arrays (S answers at most, T tokens):
    ids, targets, segments (T,), spans (S, T), all four with the prefix OTHER as well; reference (S, 2); labels,
    weights (S,).
    """

    def __init__(self, shard: MemoryShard, length: int, seed: int, reference: np.ndarray | None = None):
        self.shard, self.longest, self.length = shard, length, 2 * length
        starts = np.concatenate([[0], shard.ends[:-1]])
        order = stream(seed, "packing", 0).permutation(len(shard))
        self.rows = pack(shard.ends - starts - 1, order, self.length)
        self.count = len(self.rows)
        self.most = max(len(row) for row in self.rows)
        self.reference = np.zeros((len(shard), 2), np.float32) if reference is None else reference

    def row(self, epoch: int, i: int) -> Batch:
        held = self.rows[i]
        others = self.rows[i - 1][-1:] if len(held) == 1 else held[-1:] + held[:-1]
        own = self._filled([self.shard.sequence(n) for n in held])
        other = self._filled([self._mismatched(a, b) for a, b in zip(held, others, strict=True)])
        labels, reference = np.zeros(self.most, np.float32), np.zeros((self.most, 2), np.float32)
        labels[: len(held)] = [self.shard.sequence(n)[1].max() == GOOD for n in held]
        reference[: len(held)] = self.reference[held]
        weights = (np.arange(self.most) < len(held)).astype(np.float32)
        return own | {OTHER + name: x for name, x in other.items()} | {
            "reference": reference, "labels": labels, "weights": weights}  # fmt: skip

    def _mismatched(self, prompt: int, answer: int) -> tuple[np.ndarray, np.ndarray]:
        """(ids, mask): the prompt of one example and the answer of another, at most as long as an example may be."""
        (asked, of_prompt), (said, of_answer) = self.shard.sequence(prompt), self.shard.sequence(answer)
        begins, goes_on = int((of_prompt != 0).argmax()), int((of_answer != 0).argmax())
        ids = np.concatenate([asked[:begins], said[goes_on:]])[: self.longest + 1]
        return ids, np.concatenate([0 * of_prompt[:begins], of_answer[goes_on:]])[: self.longest + 1]

    def _filled(self, sequences: list[tuple[np.ndarray, np.ndarray]]) -> Batch:
        row = side_by_side([(ids, mask != 0) for ids, mask in sequences], self.length, self.most)
        del row["weights"]
        return row
