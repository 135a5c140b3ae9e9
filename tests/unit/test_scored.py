"""Pairs that a reward model learns from: each answer alone, scored at its end, and answers made worse."""

from collections import Counter

import numpy as np
import pytest

from minigpt.data.scored import SPOILS, PairScores
from minigpt.data.shards import MemoryShard

END, PAIRS = 9, 40


def shard_of(chosen):
    """Pairs of these chosen answers (token ids without the end) to prompts of two tokens, with empty margins."""
    sequences = []
    for number, answer in enumerate(chosen):
        prompt = [100 + number, 1]
        for ids in (prompt + answer + [END], prompt + [2, 3, END]):
            sequences.append((ids + [4], [0, 0] + [1] * (len(ids) - 2) + [0]))  # a template's line break at the end
        sequences.append(([5], [0]))
    ids, masks = (np.concatenate([one[side] for one in sequences]) for side in (0, 1))
    return MemoryShard(ids, np.cumsum([len(one) for one, _ in sequences]), masks)


def pairs_in(rows):
    """(chosen, rejected, margin) of every pair of all rows, both answers as lists up to the scored token."""
    found = []
    for i in range(rows.count):
        row = rows.row(0, i)
        for slot in np.flatnonzero(row["weights"]):
            sides = [row["ids"][row["segments"] == 2 * slot + side].tolist() for side in (0, 1)]
            for side, ids in enumerate(sides):
                assert row["ids"][row["ends"][2 * slot + side] == 1].tolist() == ids[-1:] == [END]
            found.append((*sides, float(row["margins"][slot])))
    return found


def test_each_pair_comes_once_with_its_margin():
    chosen = [list(range(10, 11 + n % 7)) for n in range(PAIRS)]
    found = pairs_in(PairScores(shard_of(chosen), 16, 1, np.arange(PAIRS, dtype=np.float32)))
    expected = [([100 + n, 1, *answer, END], [100 + n, 1, 2, 3, END], n) for n, answer in enumerate(chosen)]
    assert sorted(found) == sorted(expected)


def spoils_of(prompt, whole, found, chosen):
    """Which of SPOILS can have made `found` of a chosen answer `whole` (both with prompt and end)."""
    answer, worse = whole[2:-1], found[2:-1]
    assert found[:2] == prompt and found[-1] == END
    if not worse:
        return "nothing"
    if worse == answer[: len(worse)] and len(worse) < len(answer):
        return "cut short"
    if len(worse) == len(answer) and sum(one != other for one, other in zip(worse, answer, strict=True)) <= 1:
        return "another token"
    assert worse in chosen
    return "of another prompt"


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_a_share_comes_again_with_the_chosen_answer_spoiled(share):
    """In each of the ways about equally often; without a margin, and the same for a seed."""
    chosen = [[10 + n, *range(60, 63 + n % 7)] for n in range(PAIRS)]
    margins = np.full(PAIRS, 2.0, np.float32)
    found = pairs_in(PairScores(shard_of(chosen), 16, 1, margins, share))
    own, more = ([one for one in found if (one[2] == 2.0) == kept] for kept in (True, False))
    assert sorted(own) == sorted(pairs_in(PairScores(shard_of(chosen), 16, 1, margins)))
    assert len(more) == len({tuple(one[0]) for one in more}) == round(share * PAIRS)
    ways = Counter(spoils_of(whole[:2], whole, worse, chosen) for whole, worse, _ in more)
    assert ways.keys() == SPOILS.keys() and max(ways.values()) < 0.6 * len(more)
    assert found == pairs_in(PairScores(shard_of(chosen), 16, 1, margins, share))
    assert found != pairs_in(PairScores(shard_of(chosen), 16, 2, margins, share))


def test_an_empty_chosen_answer_is_not_spoiled():
    found = pairs_in(PairScores(shard_of([[], [10], [10, 11]]), 16, 1, spoiled=1.0))
    assert len(found) == 5 and sorted(len(chosen) for chosen, *_ in found) == [3, 4, 4, 5, 5]


def test_what_is_longer_than_the_context_keeps_its_end():
    found = pairs_in(PairScores(shard_of([list(range(10, 30))]), 8, 1, spoiled=1.0))
    assert [chosen for chosen, *_ in found] == [[*range(23, 30), END]] * 2
    assert all(len(rejected) <= 8 for _, rejected, _ in found)
