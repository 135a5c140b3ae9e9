"""Kinds of mistakes by examples of each, what is confused with what, and the nearest training rows by scikit-learn."""

import numpy as np
import pytest

from minigpt.data.shards import MemoryShard
from minigpt.evaluate.mistakes import KINDS, Confused, confusions, kind_of
from minigpt.evaluate.nearest import Neighbours

RIGHT = ["Tom has the red kite."]
CASES = [
    ("tom has the red kite", RIGHT, "stop", ""),
    ("Tom has the blue kite.", RIGHT, "stop", "wrong fact"),
    ("Tom has the red kite. He likes it very much.", RIGHT, "stop", "right and more"),
    ("", RIGHT, "stop", "empty"),
    ("?!", RIGHT, "stop", "empty"),
    ("Tom has the red", RIGHT, "length", "cut off"),
    ("no no no no", RIGHT, "stop", "repetition"),
    ("the cat the cat the cat the cat", RIGHT, "stop", "repetition"),
    ("We saw it and then we saw it and then we saw it and then we saw it", RIGHT, "length", "repetition"),
    ("汤姆有风筝。", RIGHT, "stop", "wrong language"),
    ("Tom has it.", ["汤姆有红色的风筝。"], "stop", "wrong language"),
    ("Well, that is a long story and I cannot say where all of this began", RIGHT, "stop", "too long"),
    ("Anna.", RIGHT, "stop", "too short"),
    ("Anna went to school today.", RIGHT, "stop", "something else"),
    ("12加7等于18。", ["12加7等于19。"], "stop", "wrong fact"),
    ("Anna has it.", ["Tom has the kite.", "Lily has it."], "stop", "wrong fact"),  # the nearest right answer counts
]


@pytest.mark.parametrize("answer, right, reason, kind", CASES, ids=[case[3] or "right" for case in CASES])
def test_kinds(answer, right, reason, kind):
    assert kind_of(answer, right, reason) == kind
    assert kind == "" or kind in KINDS


def test_every_kind_has_an_example():
    assert {kind for *_, kind in CASES} == {"", *KINDS}


def test_what_is_confused():
    rows = [
        ("have", "Tom has the blue kite.", RIGHT), ("have", "Tom has the blue kite.", RIGHT),
        ("have", "Ann has the red kite.", RIGHT), ("sum", "12加7等于18。", ["12加7等于19。"]),
        ("have", "Nothing of the kind was ever said here.", RIGHT), ("have", "Tom has the red kite.", RIGHT),
    ]  # fmt: skip
    assert confusions(rows) == [
        Confused("have", "red", "blue", 2), Confused("have", "tom", "ann", 1), Confused("sum", "19", "18", 1),
    ]  # fmt: skip


def test_the_nearest_rows_are_those_of_scikit_learns_vectors():
    from sklearn.feature_extraction.text import TfidfVectorizer

    generator, size = np.random.default_rng(1), 40
    rows = [generator.integers(2, size, generator.integers(3, 30)) for _ in range(60)]
    shard = MemoryShard(np.concatenate(rows), np.cumsum([len(row) for row in rows]))
    vectors = TfidfVectorizer(analyzer=lambda row: row, sublinear_tf=True)
    table = vectors.fit_transform([list(map(int, row)) for row in rows])
    found = Neighbours(shard, size)
    for _ in range(20):
        asked = [int(i) for i in generator.integers(2, size, 12)]
        asked = [i for i in asked if i in vectors.vocabulary_]
        cosines = (table @ vectors.transform([asked]).T).toarray()[:, 0]
        near = found.nearest(asked, 5)
        assert [one.row for one in near] == list(np.argsort(-cosines, kind="stable")[:5])
        np.testing.assert_allclose([one.cosine for one in near], np.sort(cosines)[::-1][:5], atol=1e-9)


def test_equal_rows_are_named_once_and_control_tokens_count_nothing():
    shard = MemoryShard(np.array([1, 5, 6, 1, 5, 6, 1, 7, 8, 1, 9, 9]), np.array([3, 6, 9, 12]))
    near = Neighbours(shard, 10, first=4).nearest([1, 5, 6], 2)
    assert near[0].row == 0 and near[0].cosine == pytest.approx(1) and near[1].cosine == 0
