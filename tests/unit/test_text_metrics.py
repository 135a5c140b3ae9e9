"""Each metric against an independent implementation, on a thousand ordinary and awkward rows."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from awkward import pairs, text
from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu, sentence_bleu
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
from sacrebleu.tokenizers.tokenizer_zh import TokenizerZh

from minigpt.evaluate import text_metrics
from minigpt.evaluate.text_metrics import AGAINST_ANSWERS, common_subsequence, distinct, pass_at_k, repetition, words

ROWS = pairs(1000)
ANSWERS = [answer for answer, _ in ROWS]
REFERENCES = [references for _, references in ROWS]
GENERATOR = np.random.default_rng(1)


def padded(references):
    """sacrebleu's form: the first references of all rows, the second ones, …; None where a row has fewer."""
    return [list(column) for column in itertools.zip_longest(*references)]


def row_values(name):
    metric = AGAINST_ANSWERS[name]
    return metric.value(metric.rows(ANSWERS, REFERENCES))


class Words:
    """Our words for rouge_score, whose own tokenizer knows ASCII only."""

    def tokenize(self, text):
        return words(text)


def nearest(score):
    return np.array([max(score(answer, one) for one in ones) for answer, ones in ROWS])


# ---- words -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given, expected", [
    ("The U.S. cat, it's 3.14!", ["the", "u", "s", "cat", "it", "s", "3", "14"]),
    ("她在花园里看见3只猫。", ["她", "在", "花", "园", "里", "看", "见", "3", "只", "猫"]),
    ("ｆｕｌｌ width, naïve_word", ["full", "width", "naïve", "word"]),
    ("こんにちは世界", list("こんにちは世界")),
    ("…?!", []),
])  # fmt: skip
def test_words(given, expected):
    assert words(given) == expected


def test_words_of_ascii_are_those_of_rouge_score():
    from rouge_score.tokenize import tokenize

    ascii_texts = [a.encode("ascii", "ignore").decode() for a in ANSWERS]
    assert [words(one) for one in ascii_texts] == [tokenize(one, None) for one in ascii_texts]


# ---- against right answers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ours, theirs", [("rouge_1", "rouge1"), ("rouge_2", "rouge2"), ("rouge_l", "rougeL")])
def test_rouge(ours, theirs):
    scorer = RougeScorer([theirs], tokenizer=Words())
    expected = nearest(lambda answer, one: scorer.score(one, answer)[theirs].fmeasure)
    assert 0.2 < expected.mean() < 0.9
    np.testing.assert_allclose(row_values(ours), expected, atol=1e-6)


def test_longest_common_subsequence_against_the_table():
    def table(a, b):
        row = [0] * (len(b) + 1)
        for x in a:
            before = row[:]
            for j, y in enumerate(b):
                row[j + 1] = before[j] + 1 if x == y else max(row[j], before[j + 1])
        return row[-1]

    for _ in range(1000):
        a, b = (list(GENERATOR.integers(0, 6, GENERATOR.integers(0, 70))) for _ in range(2))
        assert common_subsequence(a, b) == table(a, b)


@pytest.mark.parametrize("rows", [slice(None), slice(0, 1), slice(1, 2), slice(0, 40)])
def test_bleu_of_a_corpus(rows):
    answers, references = ANSWERS[rows], REFERENCES[rows]
    scorer = BLEU(tokenize=text_metrics.bleu_tokens(references))
    expected = scorer.corpus_score(answers, padded(references)).score
    found = text_metrics.bleu(text_metrics.bleu_rows(answers, references).sum(0))
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("tokenizer", [Tokenizer13a(), TokenizerZh()])
def test_bleu_against_nltk(tokenizer):
    """Another implementation, on the same tokens. Answers of fewer than 4 tokens have other totals there."""
    chinese = isinstance(tokenizer, TokenizerZh)
    rows = [(a, r) for a, r in ROWS if len(tokenizer(a).split()) >= 4]
    rows = [(a, r) for a, r in rows if (text_metrics.bleu_tokens([r]) == "zh") == chinese]
    answers, references = zip(*rows, strict=True)
    expected = corpus_bleu([[tokenizer(one).split() for one in ones] for ones in references],
                           [tokenizer(answer).split() for answer in answers])  # fmt: skip
    found = text_metrics.bleu(text_metrics.bleu_rows(answers, references).sum(0))
    assert len(rows) > 200 and expected > 0.1
    assert found == pytest.approx(100 * expected, abs=1e-6)


def test_chrf_row_by_row():
    scorer = CHRF()
    expected = [scorer.sentence_score(answer, ones).score for answer, ones in ROWS]
    np.testing.assert_allclose(row_values("chrf"), expected, atol=1e-6)


def test_chrf_of_a_corpus():
    expected = CHRF().corpus_score(ANSWERS, padded(REFERENCES)).score
    found = text_metrics.chrf(text_metrics.chrf_rows(ANSWERS, REFERENCES).sum(0))
    assert found == pytest.approx(expected, abs=1e-6)


def test_word_f1_against_counting_one_by_one():
    def score(answer, reference):
        found, wanted = words(answer), words(reference)
        if not found or not wanted:
            return float(answer.strip() == reference.strip() if not (found or wanted) else False)
        left, hits = list(wanted), 0
        for word in found:
            if word in left:
                left.remove(word)
                hits += 1
        precision, recall = hits / len(found), hits / len(wanted)
        return 0.0 if not hits else 2 * precision * recall / (precision + recall)

    np.testing.assert_allclose(row_values("f1"), nearest(score), atol=1e-12)


@pytest.mark.parametrize("answer, reference, right", [
    ("Paris.", "paris", True), ("  the  CAT", "The cat!", True), ("它是猫", "它 是 猫。", True),
    ("Paris France", "Paris", False),
    ("", "", True), ("?!", "?!", True), ("?!", "!?", False), ("", "cat", False), ("１２", "12", True),
])  # fmt: skip
def test_exact_match(answer, reference, right):
    assert text_metrics.same(answer, reference) == right


def test_the_nearest_of_several_right_answers_counts():
    assert AGAINST_ANSWERS["exact_match"](["cat"], [["dog", "Cat"]]).value == 1.0


def test_pass_at_k_against_all_subsets():
    for n, right in [(1, 0), (1, 1), (5, 2), (7, 7), (8, 1), (8, 5)]:
        for k in range(1, n + 1):
            subsets = list(itertools.combinations(range(n), k))  # samples 0 … right - 1 are the right ones
            expected = np.mean([min(subset) < right for subset in subsets])
            assert pass_at_k(n, right, k) == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_of_many_samples():
    for _ in range(1000):
        n = int(GENERATOR.integers(1, 300))
        right, k = int(GENERATOR.integers(0, n + 1)), int(GENERATOR.integers(1, n + 1))
        assert pass_at_k(n, right, k) == pytest.approx(1 - math.comb(n - right, k) / math.comb(n, k), abs=1e-9)


@pytest.mark.parametrize("n, right, k", [(3, 1, 4), (3, 1, 0), (3, 4, 1), (3, -1, 1)])
def test_pass_at_k_refuses_nonsense(n, right, k):
    with pytest.raises(ValueError, match="pass@"):
        pass_at_k(n, right, k)


# ---- texts by themselves -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3])
def test_distinct_and_its_jackknife(n):
    texts = [text(GENERATOR) for _ in range(60)]

    def share(chosen):
        grams = [tuple(w[i : i + n]) for w in map(words, chosen) for i in range(len(w) - n + 1)]
        return len(set(grams)) / max(len(grams), 1)

    found = distinct(texts, n)
    without = np.array([share(texts[:i] + texts[i + 1 :]) for i in range(len(texts))])
    error = math.sqrt(59 / 60 * ((without - without.mean()) ** 2).sum())
    assert found.value == pytest.approx(share(texts), abs=1e-12)
    assert (found.high - found.low) / 2 == pytest.approx(1.959964 * error, rel=1e-6)


def test_repetition_against_counting():
    for one in ANSWERS:
        w = words(one)
        grams = [tuple(w[i : i + 4]) for i in range(len(w) - 3)]
        repeated = sum(gram in grams[:i] for i, gram in enumerate(grams))
        assert repetition(one) == pytest.approx(repeated / len(grams) if grams else 0.0, abs=1e-12)
    assert repetition("a b c d " * 20) == pytest.approx(1 - 4 / 77)


def test_self_bleu_against_nltk():
    starts = itertools.product(["the", "a"], ["big", "red"], ["ran", "slept", "ate"])
    texts = [f"{a} {b} cat sat on the mat and {c}" for a, b, c in starts]
    tokens = [one.split() for one in texts]
    smooth = SmoothingFunction().method3
    others = [(tokens[:i] + tokens[i + 1 :], one) for i, one in enumerate(tokens)]
    expected = [sentence_bleu(rest, one, smoothing_function=smooth) for rest, one in others]
    found = text_metrics.self_bleu(texts)
    assert found.value == pytest.approx(100 * np.mean(expected), abs=1e-6) and found.rows == 12


def test_self_bleu_draws_from_many_texts_and_says_so():
    texts = [f"text {i}" for i in range(300)]
    assert text_metrics.self_bleu(texts, seed=3) == text_metrics.self_bleu(texts, seed=3)
    assert text_metrics.self_bleu(texts).rows == text_metrics.OTHERS


def test_all_figures_have_intervals_and_rows():
    figures = {name: metric(ANSWERS[:50], REFERENCES[:50]) for name, metric in AGAINST_ANSWERS.items()}
    figures |= text_metrics.by_themselves(ANSWERS[:50])
    assert {name: figure.rows for name, figure in figures.items()} == Counter(dict.fromkeys(figures, 50))
    for figure in figures.values():
        assert figure.low < figure.value < figure.high


def test_no_rows_give_no_figure():
    assert all(math.isnan(metric([], []).value) or metric([], []).rows == 0 for metric in AGAINST_ANSWERS.values())
