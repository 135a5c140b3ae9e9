"""Perplexity from per-token losses: windows, groups and figures, with models whose losses are known."""

import math

import numpy as np
import pytest

from minigpt.evaluate.perplexity import (
    Document,
    by_document,
    by_frequency,
    by_position,
    figures,
    language_of,
    row_sums,
    score,
    windows,
)  # fmt: skip

GENERATOR = np.random.default_rng(0)
BYTES = np.arange(1, 11)  # token i has i + 1 bytes
BIGRAM = GENERATOR.dirichlet(np.ones(10), 10)  # p(next | this)


def bigram(ids, targets):
    return -np.log(BIGRAM[ids, targets])


def by_past(ids, targets):
    """A model that is the better the more it sees: 1 / (tokens seen)."""
    return np.broadcast_to(1.0 / np.arange(1, ids.shape[1] + 1), ids.shape)


def documents(count, longest=50):
    return [Document(GENERATOR.integers(0, 10, GENERATOR.integers(0, longest))) for _ in range(count)]


def test_windows_by_hand():
    assert windows(10, 4, 4) == [(0, 1, 5), (4, 5, 9), (8, 9, 10)]
    assert windows(10, 4, 2) == [(0, 1, 5), (2, 5, 7), (4, 7, 9), (6, 9, 10)]
    assert windows(5, 4, 1) == [(0, 1, 5)]
    assert windows(1, 4, 2) == windows(0, 4, 2) == []


@pytest.mark.parametrize("stride", [0, -1, 5])
def test_windows_refuse_a_stride_that_skips_tokens(stride):
    with pytest.raises(ValueError, match="1 to 4"):
        windows(10, 4, stride)


def test_every_token_counts_once():
    for _ in range(1000):
        length, context = int(GENERATOR.integers(2, 60)), int(GENERATOR.integers(1, 20))
        found = windows(length, context, int(GENERATOR.integers(1, context + 1)))
        assert [t for _, counted, end in found for t in range(counted, end)] == list(range(1, length))
        assert all(end - first <= context + 1 and counted > first for first, counted, end in found)


@pytest.mark.parametrize("stride", [None, 1, 3, 8])
def test_a_bigram_model_scores_the_same_however_windows_are_laid(stride):
    docs = documents(30)
    expected = [-math.log(BIGRAM[a, b]) for d in docs for a, b in zip(d.ids[:-1], d.ids[1:], strict=True)]
    scored = score(bigram, docs, 8, stride, batch_size=5)
    np.testing.assert_allclose(scored.nats, expected, atol=1e-12)
    np.testing.assert_array_equal(scored.ids, np.concatenate([d.ids[1:] for d in docs]))
    np.testing.assert_array_equal(scored.documents, np.repeat(range(30), [max(0, len(d.ids) - 1) for d in docs]))


@pytest.mark.parametrize("stride", [1, 3, 8])
def test_a_sliding_window_shows_more_of_the_past(stride):
    """After the first window a token sees at least context - stride + 1 tokens, at most the context."""
    scored = score(by_past, [Document(np.zeros(60, int))], 8, stride)
    np.testing.assert_allclose(scored.nats, 1 / scored.seen)
    assert list(scored.seen[:8]) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert scored.seen[8:].min() == 8 - stride + 1 and scored.seen.max() == 8


def test_figures_against_sums_by_hand():
    docs = documents(40)
    scored = score(bigram, docs, 16)
    nats = sum(-math.log(BIGRAM[a, b]) for d in docs for a, b in zip(d.ids[:-1], d.ids[1:], strict=True))
    tokens, size = sum(max(0, len(d.ids) - 1) for d in docs), sum(int(t) + 1 for d in docs for t in d.ids[1:])
    found = figures(scored, BYTES)
    assert found["loss"].value == pytest.approx(nats / tokens)
    assert found["perplexity"].value == pytest.approx(math.exp(nats / tokens))
    assert found["bits_per_byte"].value == pytest.approx(nats / math.log(2) / size)
    assert found["loss"].rows == sum(len(d.ids) > 1 for d in docs)  # documents
    assert found["loss"].low < found["loss"].value < found["loss"].high


def test_a_uniform_model_has_the_vocabulary_as_perplexity():
    found = figures(score(lambda ids, t: np.full(ids.shape, math.log(10)), documents(30), 8), np.ones(10))
    assert found["perplexity"].value == pytest.approx(10) == found["perplexity"].high
    assert found["bits_per_byte"].value == pytest.approx(math.log2(10))


def test_of_one_document_the_windows_are_the_rows():
    scored = score(bigram, [Document(GENERATOR.integers(0, 10, 801))], 8)
    assert figures(scored, BYTES)["loss"].rows == 100
    assert row_sums(scored, BYTES)[:, 1].tolist() == [8.0] * 100


def test_groups_add_up_to_the_whole():
    docs = [Document(d.ids, source="ab"[i % 2]) for i, d in enumerate(documents(40))]
    scored, counts = score(by_past, docs, 16), np.array([0, 1, 9, 10, 99, 100, 5, 5, 5, 5])
    whole = figures(scored, BYTES)["loss"].value
    for groups in (
        by_position(scored, BYTES), by_frequency(scored, BYTES, counts),
        by_document(scored, BYTES, [d.source for d in docs]),
    ):  # fmt: skip
        assert sum(g.tokens for g in groups) == len(scored.nats)
        weighted = sum(g.tokens * g.figures["loss"].value for g in groups) / len(scored.nats)
        assert weighted == pytest.approx(whole)


def test_by_position():
    groups = by_position(score(by_past, [Document(np.zeros(17, int))] * 30, 16), BYTES)
    tokens = {g.label: g.tokens for g in groups}
    assert tokens == {"1": 30, "2-3": 60, "4-7": 120, "8-15": 240, "16-31": 30}
    assert groups[1].figures["loss"].value == pytest.approx((1 / 2 + 1 / 3) / 2)


def test_by_frequency():
    scored = score(bigram, documents(40), 16)
    counts = np.array([0, 1, 9, 10, 99, 100, 0, 0, 0, 0])
    found = {g.label: g.tokens for g in by_frequency(scored, BYTES, counts)}
    often = [np.isin(scored.ids, ids).sum() for ids in ([0, 6, 7, 8, 9], [1, 2], [3, 4], [5])]
    assert found == dict(zip(["never", "1-9", "10-99", "100-999"], often, strict=True))


def test_nothing_to_score():
    scored = score(bigram, [Document(np.array([3]))], 8)
    assert len(scored.nats) == 0 and by_position(scored, BYTES) == []
    assert math.isnan(figures(scored, BYTES)["loss"].low)


@pytest.mark.parametrize("text, language", [
    ("The cat sat.", "latin"), ("她在花园里看见一只猫 OK", "han"), ("これは猫です", "japanese"), ("кот", "cyrillic"),
    ("12 + 3 = ?", "none"), ("", "none"), ("한국어", "hangul"),
])  # fmt: skip
def test_language_of(text, language):
    assert language_of(text) == language
