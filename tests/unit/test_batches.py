"""Batches: every token and example is seen, targets are shifted by one, weights lie on answers, all by (seed, step)."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigpt.data.batches import (
    Ahead,
    Batches,
    PackedRows,
    PairRows,
    TextRows,
    ValidationText,
    filled,
    in_order,
    normalized,
    pack,
    split,
    stacked,
)
from minigpt.data.shards import Shard, ShardWriter
from minigpt.errors import DataError


def text_of(path, tokens):
    """A text whose tokens are 0, 1, 2, …: an id says where it stands."""
    with ShardWriter(path, 60000, masked=False) as writer:
        writer.add(np.arange(tokens))
    return Shard(path)


def examples_of(path, examples):
    with ShardWriter(path, 60000, masked=True) as writer:
        for ids, mask in examples:
            writer.add(ids, mask)
    return Shard(path)


def random_examples(count, longest, seed=0):
    """Examples of distinct ids, so that each can be recognized; the mask starts at a random place."""
    rng, first, found = np.random.default_rng(seed), 1, []
    for _ in range(count):
        size = int(rng.integers(2, longest + 1))
        answer = int(rng.integers(1, size))
        found.append((list(range(first, first + size)), [0] * answer + [1] * (size - answer)))
        first += size
    return found


class Numbered:
    """Rows that say who they are."""

    count = 10

    def row(self, epoch, i):
        return {"ids": np.array([epoch, i]), "weights": np.ones(2, np.float32)}


# ---- windows of a text


@pytest.mark.parametrize("tokens", [9, 16, 17, 24, 100, 101])
def test_text_rows_lie_side_by_side_and_predict_the_next_token(tmp_path, tokens):
    rows = TextRows(text_of(tmp_path / "s", tokens), 8, seed=1)
    assert rows.count == max(1, (tokens - 8) // 8)
    for epoch in range(3):
        seen = [rows.row(epoch, i) for i in range(rows.count)]
        ids = np.concatenate([row["ids"] for row in seen])
        targets = np.concatenate([row["targets"] for row in seen])
        assert (np.diff(ids) == 1).all()  # no overlap, no gap
        assert (targets == ids + 1).all() and targets.max() < tokens
        assert all((row["weights"] == 1).all() for row in seen)


def test_epochs_cut_the_text_at_other_places_and_reach_every_token(tmp_path):
    tokens = 101
    rows = TextRows(text_of(tmp_path / "s", tokens), 8, seed=1)
    offsets = [int(rows.row(epoch, 0)["ids"][0]) for epoch in range(100)]
    assert set(offsets) == set(range(tokens - 8 * rows.count))  # all that leave room
    seen = {int(t) for epoch in range(100) for i in range(rows.count) for t in rows.row(epoch, i)["targets"]}
    assert seen == set(range(1, tokens))


def test_a_text_shorter_than_a_row_is_refused(tmp_path):
    assert TextRows(text_of(tmp_path / "enough", 9), 8, seed=1).count == 1
    with pytest.raises(DataError, match="has 8 tokens, fewer than one row of 8 \\+ 1.*lower model.context"):
        TextRows(text_of(tmp_path / "short", 8), 8, seed=1)


@pytest.mark.parametrize("length", [2, 7, 16])
@pytest.mark.parametrize("tokens", [0, 1, 2, 3, 7, 8, 14, 15, 16, 17, 50])
def test_validation_sees_every_token_exactly_once(tmp_path, tokens, length):
    rows = ValidationText(text_of(tmp_path / "s", tokens), length)
    row = stacked([rows.row(0, i) for i in range(rows.count)])
    counted = row["weights"] == 1
    assert row["targets"][counted].tolist() == list(range(1, tokens))
    assert row["ids"][counted].tolist() == list(range(tokens - 1))
    assert (row["weights"][~counted] == 0).all()


# ---- packing


@given(sizes=st.lists(st.integers(0, 20), max_size=60), open_rows=st.integers(1, 8), seed=st.integers(0, 9))
@settings(max_examples=200, deadline=None)
def test_packing_never_overfills_a_row_and_loses_nothing(sizes, open_rows, seed):
    order = np.random.default_rng(seed).permutation(len(sizes))
    rows = pack(np.array(sizes, int), order, 20, open_rows)
    assert sorted(item for row in rows for item in row) == list(range(len(sizes)))
    assert all(row and sum(sizes[item] for item in row) <= 20 for row in rows)


def test_packing_wastes_little():
    sizes = np.random.default_rng(0).integers(10, 100, 2000)
    rows = pack(sizes, np.arange(2000), 256)
    assert sizes.sum() / (256 * len(rows)) > 0.97
    unpacked = 2000
    assert len(rows) < unpacked / 4


def test_what_is_longer_than_a_row_is_refused():
    with pytest.raises(DataError, match="An example of 21 tokens does not fit a row of 20"):
        pack(np.array([3, 21]), np.arange(2), 20)


def taken_apart(rows):
    """The examples (ids, mask) that the packed rows hold, read back from the arrays of a batch."""
    found = []
    for i in range(rows.count):
        row = rows.row(0, i)
        for segment in range(len(rows.rows[i])):
            (places,) = np.nonzero(row["segments"] == segment)
            assert (np.diff(places) == 1).all()
            ids, targets = row["ids"][places].tolist(), row["targets"][places].tolist()
            assert targets[:-1] == ids[1:], "targets are the ids, shifted by one and not twice"
            found.append((ids + targets[-1:], [0, *row["weights"][places].astype(int).tolist()]))
        tail = row["segments"] == -1
        assert not row["weights"][tail].any() and not row["ids"][tail].any()
    return sorted(found)


def test_packed_rows_hold_every_example_once_with_its_mask(tmp_path):
    examples = random_examples(60, 20)
    assert taken_apart(PackedRows(examples_of(tmp_path / "s", examples), 32, seed=3)) == sorted(examples)


MISTAKES = {
    "labels shifted twice": lambda ids, mask: (ids[1:], ids[2:], mask[1:]),
    "labels not shifted": lambda ids, mask: (ids[:-1], ids[:-1], mask[1:]),
    "mask shifted by one": lambda ids, mask: (ids[:-1], ids[1:], mask[:-1]),
    "loss on the prompt": lambda ids, mask: (ids[:-1], ids[1:], mask[1:] * 0 + 1),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_known_mistakes_would_be_seen(tmp_path, monkeypatch, mistake):
    def wrong(batch, place, segment, ids, mask):
        size = len(ids) - 1
        for key, values in zip(("ids", "targets", "weights"), MISTAKES[mistake](ids, mask), strict=True):
            batch[key][place : place + len(values)] = values
        batch["segments"][place : place + size] = segment
        return size

    monkeypatch.setattr("minigpt.data.batches.place_example", wrong)
    examples = random_examples(60, 20)
    rows = PackedRows(examples_of(tmp_path / "s", examples), 32, seed=3)
    with pytest.raises(AssertionError):
        assert taken_apart(rows) == sorted(examples)


def test_weights_lie_on_the_tokens_of_answers_only(tmp_path):
    """prompt 10 11 | answer 12 13: what predicts 12 and 13 counts, and nothing that predicts the prompt."""
    row = PackedRows(examples_of(tmp_path / "s", [([10, 11, 12, 13], [0, 0, 1, 1])]), 5, seed=0).row(0, 0)
    assert row["ids"].tolist() == [10, 11, 12, 0, 0]
    assert row["targets"].tolist() == [11, 12, 13, 0, 0]
    assert row["weights"].tolist() == [0, 1, 1, 0, 0]
    assert row["segments"].tolist() == [0, 0, 0, -1, -1]


def test_an_example_longer_than_a_row_is_cut(tmp_path):
    row = PackedRows(examples_of(tmp_path / "s", [(list(range(10)), [0] * 3 + [1] * 7)]), 5, seed=0).row(0, 0)
    assert row["targets"].tolist() == [1, 2, 3, 4, 5]
    assert row["weights"].tolist() == [0, 0, 1, 1, 1]


# ---- preference pairs


def test_pair_rows_keep_pairs_together(tmp_path):
    """Spans mark each answer's tokens, the reference's numbers follow their pair, unused slots weigh nothing."""
    examples = random_examples(2 * 25, 17)
    reference = np.arange(50, dtype=np.float32).reshape(25, 2)
    rows = PairRows(examples_of(tmp_path / "s", examples), 16, seed=3, reference=reference)
    assert rows.most == max(len(held) for held in rows.rows) > 1
    seen = []
    for i in range(rows.count):
        row, held = rows.row(0, i), rows.rows[i]
        assert row["ids"].shape == (32,) and row["spans"].shape == (2 * rows.most, 32)
        assert row["weights"].tolist() == [1] * len(held) + [0] * (rows.most - len(held))
        assert row["reference"].tolist() == reference[held].tolist() + [[0, 0]] * (rows.most - len(held))
        for slot, pair in enumerate(held):
            for side in (0, 1):
                ids, mask = examples[2 * pair + side]
                places = row["segments"] == 2 * slot + side
                assert row["ids"][places].tolist() == ids[:-1]
                assert row["targets"][places].tolist() == ids[1:]
                assert row["spans"][2 * slot + side][places].tolist() == mask[1:]
                assert not row["spans"][2 * slot + side][~places].any()
            seen.append(pair)
        assert not row["spans"][2 * len(held) :].any()
    assert sorted(seen) == list(range(25))


def test_without_a_reference_its_numbers_are_zero(tmp_path):
    rows = PairRows(examples_of(tmp_path / "s", random_examples(8, 9)), 8, seed=0)
    assert rows.reference.shape == (4, 2) and not rows.reference.any()


# ---- batches


def test_every_row_comes_once_per_epoch_in_an_order_that_changes():
    batches = Batches(Numbered(), 4, seed=1)
    seen = np.concatenate([batches(step)["ids"] for step in range(15)])  # 60 rows: six epochs
    assert seen[:, 0].tolist() == [epoch for epoch in range(6) for _ in range(10)]
    orders = [tuple(seen[seen[:, 0] == epoch, 1]) for epoch in range(6)]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert len(set(orders)) == 6


def test_a_batch_depends_on_seed_and_step_only(tmp_path):
    def batches(seed):
        return Batches(TextRows(Shard(tmp_path / "s"), 8, seed), 4, seed)

    text_of(tmp_path / "s", 400)
    first = batches(1)
    forwards = [first(step)["ids"].tolist() for step in range(40)]
    again = batches(1)
    assert [again(step)["ids"].tolist() for step in reversed(range(40))] == forwards[::-1]
    assert batches(1)(37)["ids"].tolist() == forwards[37]  # what a resumed run sees
    assert batches(2)(0)["ids"].tolist() != forwards[0]
    assert all(a != b for a, b in pairwise(forwards))


def test_a_batch_that_was_made_before_is_the_same_and_is_made_once():
    asked = []
    ahead = Ahead(lambda step, weights: asked.append(step) or {"ids": np.array([step])})
    ahead.make(1)
    assert [int(ahead(step)["ids"][0]) for step in (0, 1, 1)] == [0, 1, 1]  # after a way back too
    assert asked == [1, 0, 1]
    ahead.make(2)
    ahead.make(3)  # the second is let go
    assert [int(ahead(step)["ids"][0]) for step in (3, 2)] == [3, 2]
    assert asked == [1, 0, 1, 2, 3, 2]


def test_which_examples_share_a_row_is_a_function_of_the_seed(tmp_path):
    shard = examples_of(tmp_path / "s", random_examples(40, 9))
    rows = {seed: PackedRows(shard, 32, seed).rows for seed in (1, 2)}
    assert PackedRows(shard, 32, 1).rows == rows[1] != rows[2]


def test_weights_of_a_batch_sum_to_one(tmp_path):
    rows = PackedRows(examples_of(tmp_path / "s", random_examples(60, 20)), 32, seed=3)
    batch = Batches(rows, 4, seed=3)(0)
    assert batch["weights"].sum() == pytest.approx(1, abs=1e-6)
    used = np.unique(batch["weights"])
    assert len(used) == 2 and used[0] == 0  # every answer token counts the same
    assert batch["weights"].dtype == np.float32


def test_parts_of_a_batch_sum_to_one_together_and_not_each():
    """A mean of the parts' means would weigh the second row's single token like the three of the first."""
    batch = normalized({"ids": np.arange(6).reshape(2, 3), "weights": np.array([[1, 1, 1], [0, 0, 1]], np.float32)})
    assert batch["weights"].tolist() == [[0.25, 0.25, 0.25], [0, 0, 0.25]]
    assert split(batch, 1) == [batch]
    first, second = split(batch, 2)
    assert (first["ids"].tolist(), second["ids"].tolist()) == ([[0, 1, 2]], [[3, 4, 5]])
    assert (first["weights"].sum(), second["weights"].sum()) == (0.75, 0.25)


def test_a_batch_without_any_weight_stays_at_zero():
    batch = normalized({"weights": np.zeros((2, 3), np.float32)})
    assert batch["weights"].tolist() == [[0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(None, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]), (99, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]),
     (5, [[0, 2, 4, 6], [8]])],
)  # fmt: skip
def test_evaluation_takes_all_rows_or_some_spread_evenly(limit, expected):
    assert in_order(Numbered(), 4, limit) == expected


def test_empty_rows_weigh_nothing_whatever_a_batch_carries():
    """All sums over the rows stay, and no example stands in the new ones."""
    names = ("weights", "shares", "told", "mask", "good", "old", "reference")
    batch = {name: np.ones((2, 3), np.float32) for name in names} | {"segments": np.ones((2, 3), np.int32)}
    batch |= {"ids": np.ones((2, 3), np.int32), "spans": np.ones((2, 4, 3), np.float32)}
    found = filled(batch, 4)
    assert {len(x) for x in found.values()} == {4} and {key: x.dtype for key, x in found.items()} == {
        key: x.dtype for key, x in batch.items()
    }
    for name, x in found.items():
        assert (x[2:] == (-1 if name == "segments" else 0)).all() and (x[:2] == 1).all(), name
    assert filled(batch, 2) is batch
    none = {name: x[:0] for name, x in batch.items()}
    assert filled(none, 1)["spans"].shape == (1, 4, 3), "a process that has no row of its own"
