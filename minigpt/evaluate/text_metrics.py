"""Answers against right answers: BLEU, chrF, ROUGE, exact match, F1; texts by themselves: diversity, repetition.

Each metric is two functions: the rows' counts (n, K), and the figure as a function of their sums. So intervals and
paired tests (see `intervals` and `significance`) treat all alike. Chinese and Japanese are counted by character.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minigpt.evaluate.intervals import Figure, Statistic, bootstrap, jackknife, mean, with_ones

CHINESE = "\u2e80-\u2eff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
WORD = re.compile(rf"[{CHINESE}]|[^\W_{CHINESE}]+")
ORDERS = 6  # chrF's n-grams: 1 to 6 characters
BETA = 2.0  # chrF2: recall counts twice as much as precision
OTHERS = 200  # self-BLEU compares with at most so many other texts

Answers = Sequence[str]
References = Sequence[Sequence[str]]  # one or several right answers per row


@dataclass(frozen=True)
class Metric:
    """`rows(answers, references)` gives counts (n, K), `value(sums)` the figure."""

    rows: Callable[[Answers, References], np.ndarray]
    value: Statistic = mean

    def __call__(self, answers: Answers, references: References, seed: int = 0) -> Figure:
        """The figure over all rows, with its bootstrap interval."""
        return bootstrap(self.rows(answers, references), self.value, seed)


def words(text: str) -> list[str]:
    """Lower-case words without punctuation; every Chinese or Japanese character is a word of its own."""
    return WORD.findall(unicodedata.normalize("NFKC", text).lower())


def ngrams(items: Sequence, n: int) -> Counter:
    return Counter(tuple(items[i : i + n]) for i in range(len(items) - n + 1))


def _f1(matched: float, found: float, wanted: float) -> float:
    """The harmonic mean of precision and recall; 0 where nothing matches."""
    return 2.0 * matched / (found + wanted) if matched else 0.0


def _best(score: Callable[[str, str], float]) -> Callable[[Answers, References], np.ndarray]:
    """Rows of a metric whose score of an answer is that against the nearest of its references."""

    def rows(answers: Answers, references: References) -> np.ndarray:
        pairs = zip(answers, references, strict=True)
        return with_ones(np.array([max(score(answer, one) for one in ones) for answer, ones in pairs]))

    return rows


# ---- right or wrong ----------------------------------------------------------------------------------------


def same(answer: str, reference: str) -> float:
    """1 when the words are the same, whatever the case, the punctuation and the spaces; else 0.

    Answers without a word ("?!") are compared as they are.
    """
    found, wanted = words(answer), words(reference)
    return float(found == wanted if found or wanted else answer.strip() == reference.strip())


def word_f1(answer: str, reference: str) -> float:
    """F1 of the words as bags (Rajpurkar et al. 2016); two answers without words are equal or not."""
    found, wanted = words(answer), words(reference)
    if not found or not wanted:
        return same(answer, reference)
    return _f1(sum((Counter(found) & Counter(wanted)).values()), len(found), len(wanted))


def pass_at_k(samples: int, right: int, k: int) -> float:
    """The chance that one of k samples is right, unbiased: 1 - C(n - c, k) / C(n, k) (Chen et al. 2021, eq. 1).

    Raises ValueError when there are fewer samples than k.
    """
    if not 1 <= k <= samples or not 0 <= right <= samples:
        raise ValueError(f"pass@{k} of {samples} samples, {right} right: 1 <= k <= samples and 0 <= right <= samples")
    return 1.0 if samples - right < k else 1.0 - float(np.prod(1.0 - k / np.arange(samples - right + 1, samples + 1)))


# ---- overlap with the right answer -------------------------------------------------------------------------


def rouge_n(answer: str, reference: str, n: int) -> float:
    """F1 of the words' n-grams (Lin 2004)."""
    found, wanted = ngrams(words(answer), n), ngrams(words(reference), n)
    return _f1((found & wanted).total(), found.total(), wanted.total())


def rouge_l(answer: str, reference: str) -> float:
    """F1 of the longest common subsequence of words (Lin 2004)."""
    found, wanted = words(answer), words(reference)
    return _f1(common_subsequence(found, wanted), len(found), len(wanted))


def common_subsequence(a: Sequence, b: Sequence) -> int:
    """The length of the longest common subsequence: one big integer holds a row of the table (Hyyrö 2004)."""
    places: dict[Any, int] = {}
    for i, item in enumerate(a):
        places[item] = places.get(item, 0) | 1 << i
    full = (1 << len(a)) - 1
    row = full
    for item in b:
        matches = row & places.get(item, 0)
        row = (row + matches | row - matches) & full
    return len(a) - row.bit_count()


def bleu_tokens(references: References) -> str:
    """The name of sacrebleu's tokenizer: "zh" for right answers with Chinese or Japanese characters, else "13a"."""
    chinese = re.compile(f"[{CHINESE}]")
    return "zh" if any(chinese.search(one) for ones in references for one in ones) else "13a"


def bleu_rows(answers: Answers, references: References) -> np.ndarray:
    """Rows (n, 10): matching and all n-grams of 1 to 4 words, and the lengths of answer and nearest reference."""
    from sacrebleu.metrics import BLEU

    scorer = BLEU(tokenize=bleu_tokens(references), effective_order=True)
    found = (scorer.sentence_score(answer, list(ones)) for answer, ones in zip(answers, references, strict=True))
    return np.array([[*s.counts, *s.totals, s.sys_len, s.ref_len] for s in found], np.float64).reshape(-1, 10)


def bleu(sums: np.ndarray) -> np.ndarray:
    """BLEU (0 … 100) of a corpus from sums (..., 10) (Papineni et al. 2002).

    An order without a match counts as half a match, the next as a quarter, … (sacrebleu's "exp", from NIST).
    """
    matched, every, length, wanted = sums[..., :4], sums[..., 4:8], sums[..., 8], sums[..., 9]
    smoothed = np.where(matched > 0, matched, 0.5 ** np.cumsum(matched == 0, axis=-1))
    logs = np.log(smoothed / np.maximum(every, 1)).mean(-1)
    short = np.minimum(0.0, 1 - wanted / np.maximum(length, 1))  # the logarithm of the brevity penalty
    return np.where((matched > 0).any(-1) & (every > 0).all(-1), 100 * np.exp(logs + short), 0.0)


def chrf_rows(answers: Answers, references: References) -> np.ndarray:
    """Rows (n, 3 · 6): for 1 to 6 characters the n-grams of the answer, of its best reference, and the common ones."""
    found = []
    for answer, ones in zip(answers, references, strict=True):
        candidates = [_chrf_counts(answer, one) for one in ones]
        found.append(max(candidates, key=lambda row: float(chrf(row))))  # the first of equals, as sacrebleu
    return np.array(found, np.float64).reshape(-1, 3 * ORDERS)


def _chrf_counts(answer: str, reference: str) -> np.ndarray:
    """(18,). An order that the reference is too short for does not count against the answer."""
    found, wanted = ("".join(text.split()) for text in (answer, reference))
    counts = [(ngrams(found, n), ngrams(wanted, n)) for n in range(1, ORDERS + 1)]
    return np.array([[a.total() if b else 0, b.total(), (a & b).total()] for a, b in counts], np.float64).ravel()


def chrf(sums: np.ndarray) -> np.ndarray:
    """chrF2 (0 … 100) of a corpus from sums (..., 18) (Popović 2015): means over the orders, then F with beta 2."""
    found, wanted, matched = np.moveaxis(sums.reshape(*sums.shape[:-1], ORDERS, 3), -1, 0)  # (..., 6) each
    counted = (found > 0) & (wanted > 0)
    orders = np.maximum(counted.sum(-1), 1)
    precision = (matched / np.where(counted, found, 1) * counted).sum(-1) / orders
    recall = (matched / np.where(counted, wanted, 1) * counted).sum(-1) / orders
    below = BETA**2 * precision + recall
    return 100 * (1 + BETA**2) * precision * recall / np.where(below > 0, below, 1)


AGAINST_ANSWERS: dict[str, Metric] = {
    "exact_match": Metric(_best(same)),
    "f1": Metric(_best(word_f1)),
    "rouge_1": Metric(_best(lambda a, b: rouge_n(a, b, 1))),
    "rouge_2": Metric(_best(lambda a, b: rouge_n(a, b, 2))),
    "rouge_l": Metric(_best(rouge_l)),
    "bleu": Metric(bleu_rows, bleu),
    "chrf": Metric(chrf_rows, chrf),
}


# ---- texts by themselves -----------------------------------------------------------------------------------


def distinct(texts: Sequence[str], n: int) -> Figure:
    """Different n-grams over all n-grams of the texts' words (Li et al. 2016); texts without any give 0."""
    counts = [ngrams(words(text), n) for text in texts]
    total = sum(counts, Counter())
    size, kinds = total.total(), len(total)
    owners = Counter(gram for count in counts for gram in count)  # in how many texts each n-gram is
    alone = np.array([sum(owners[gram] == 1 for gram in count) for count in counts], np.float64)
    sizes = np.array([count.total() for count in counts], np.float64)
    return jackknife(kinds / max(size, 1), (kinds - alone) / np.maximum(size - sizes, 1))


def repetition(text: str, n: int = 4) -> float:
    """The share of a text's n-grams of words that stood in it before; 0 for a text shorter than n."""
    counts = ngrams(words(text), n)
    return 1.0 - len(counts) / counts.total() if counts else 0.0


def self_bleu(texts: Sequence[str], seed: int = 0) -> Figure:
    """The mean BLEU (0 … 100) of each text against all others (Zhu et al. 2018): high when a model repeats itself.

    Of more than `OTHERS` texts, so many are drawn. The interval takes the texts compared with as given.
    """
    from sacrebleu.metrics import BLEU

    if len(texts) > OTHERS:
        texts = [texts[i] for i in np.random.default_rng(seed).choice(len(texts), OTHERS, replace=False)]
    if len(texts) < 2:
        return Figure(np.nan, np.nan, np.nan, len(texts))
    scorer = BLEU(tokenize=bleu_tokens([texts]), effective_order=True)
    found = [scorer.sentence_score(text, [*texts[:i], *texts[i + 1 :]]).score for i, text in enumerate(texts)]
    return bootstrap(with_ones(np.array(found)), seed=seed)


def by_themselves(texts: Sequence[str], seed: int = 0) -> dict[str, Figure]:
    """distinct_1, distinct_2, repetition (mean share of repeated 4-grams) and self_bleu of a model's answers."""
    repeated = bootstrap(with_ones(np.array([repetition(text) for text in texts])), seed=seed)
    return {
        "distinct_1": distinct(texts, 1), "distinct_2": distinct(texts, 2), "repetition": repeated,
        "self_bleu": self_bleu(texts, seed),
    }  # fmt: skip
