"""A model's figures on some rows with their intervals, in groups, and beside those of another model."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from minigpt.data.shards import MemoryShard
from minigpt.evaluate.calibration import brier, error_interval
from minigpt.evaluate.intervals import Figure, Statistic, bootstrap, mean, wilson, with_ones
from minigpt.evaluate.kept import Kept
from minigpt.evaluate.perplexity import (
    STATISTICS,
    Document,
    Group,
    Scored,
    by_document,
    by_frequency,
    by_position,
    language_of,
    losses_of,
    row_sums,
    score,
)
from minigpt.evaluate.questions import GROUPS, Question, confidences, greedy_answers, sampled_right
from minigpt.evaluate.significance import Difference, compare, holm, in_words
from minigpt.evaluate.text_metrics import AGAINST_ANSWERS, by_themselves, pass_at_k
from minigpt.generate.engine import Engine
from minigpt.train.calibration import Bin, reliability

BEGINNING = 200  # tokens of a document that show its language
LOWER_IS_BETTER = ("loss", "perplexity", "bits_per_byte")


@dataclass(frozen=True)
class Measure:
    """A figure as numbers per row (n, K) and a function of their sums, so that it can be compared row by row."""

    rows: np.ndarray
    statistic: Statistic = mean

    def figure(self, seed: int = 0) -> Figure:
        return bootstrap(self.rows, self.statistic, seed)


@dataclass(frozen=True)
class Details:
    """`measures` by name, further figures of the same rows, tables of groups of tokens or rows, a reliability table
    of answers, and the single rows."""

    measures: dict[str, Measure]
    more: dict[str, Figure] = field(default_factory=dict)
    groups: dict[str, list[Group]] = field(default_factory=dict)
    reliability: list[Bin] = field(default_factory=list)
    rows: list[Kept] = field(default_factory=list)

    def with_others(self, other: "Details") -> "Details":
        """These and those of `other`."""
        return Details(
            self.measures | other.measures, self.more | other.more, self.groups | other.groups,
            self.reliability + other.reliability, self.rows + other.rows,
        )  # fmt: skip

    def figures(self, seed: int = 0) -> dict[str, Figure]:
        return {name: measure.figure(seed) for name, measure in self.measures.items()} | self.more


# ---- predicting text ---------------------------------------------------------------------------------------


def scored_shard(engine: Engine, shard: MemoryShard, stride: int | None = None, limit: int | None = None) -> Scored:
    """The losses of a shard's tokens: of a text without borders by windows over all of it, as training measures it;
    of conversations one by one, of the tokens that are learned."""
    losses, context = losses_of(engine.model, engine.weights), engine.model.config.context
    ends = np.asarray(shard.ends, np.int64)
    if shard.mask is None:
        scored = score(losses, [Document(np.asarray(shard.ids))], context, stride, limit=limit)
        return replace(scored, documents=np.searchsorted(ends, scored.places, "right"))
    documents = [Document(shard.sequence(i)[0]) for i in range(len(shard))]
    scored = score(losses, documents, context, stride, limit=limit)
    starts = np.concatenate([[0], ends[:-1]])
    return scored.only(np.asarray(shard.mask)[starts[scored.documents] + scored.places] != 0)


def of_text(
    engine: Engine, shard: MemoryShard, training: MemoryShard | None = None, stride: int | None = None,
    limit: int | None = None, seed: int = 0, sources: Sequence[str] = (), test: str = "held-out rows",
) -> Details:  # fmt: skip
    """Loss, perplexity and bits per byte, by position, by writing, and by how often a token is in `training`.

    `sources` names that of each sequence, where there are several; `test` is what the rows are kept as.
    """
    scored, sizes = scored_shard(engine, shard, stride, limit), engine.tokenizer.byte_lengths
    rows = row_sums(scored, sizes)
    groups = {"position": by_position(scored, sizes, seed)}
    if training is not None:
        counts = np.bincount(np.asarray(training.ids), minlength=len(sizes))
        groups["occurrences in the training data"] = by_frequency(scored, sizes, counts, seed)
    names = [language_of(engine.tokenizer.decode([int(i) for i in shard.sequence(n)[0][:BEGINNING]]))
             for n in range(len(shard))]  # fmt: skip
    if len(set(names)) > 1:
        groups["writing"] = by_document(scored, sizes, names, seed)
    if len(set(sources)) > 1:
        groups["file"] = by_document(scored, sizes, sources, seed)
    measures = {name: Measure(rows, statistic) for name, statistic in STATISTICS.items()}
    return Details(measures, groups=groups, rows=_kept(scored, f"{test}: log-probability per token"))


def _kept(scored: Scored, test: str) -> list[Kept]:
    """The mean log-probability of each document's tokens, or window's where there are few documents."""
    unit = "row" if scored.rows is scored.documents else "window"
    numbers, places = np.unique(scored.rows, return_inverse=True)
    means = -np.bincount(places, scored.nats) / np.bincount(places)
    return [Kept(test, f"{unit} {number}", round(float(mean), 6)) for number, mean in zip(numbers, means, strict=True)]


# ---- answering ---------------------------------------------------------------------------------------------


def of_answers(
    engine: Engine, questions: Sequence[Question], seed: int = 0, samples: int = 0, test: str = "answers"
) -> Details:
    """The text metrics of greedy answers against the rows' answers, whether the model knows which are right, and exact
    match by what the rows name: task, language, source. With `samples`, pass@1 and more of so many drawn answers."""
    given = greedy_answers(engine, questions)
    answers, references = [answer.text.strip() for answer in given], [question.references for question in questions]
    measures = {name: Measure(metric.rows(answers, references), metric.value)
                for name, metric in AGAINST_ANSWERS.items()}  # fmt: skip
    right = measures["exact_match"].rows
    groups = {name: found for name in GROUPS if (found := _grouped(name, questions, right))}
    sure, hits = confidences(engine, questions, given), right[:, 0]
    more = by_themselves(answers, seed) | {
        "calibration_error": error_interval(sure, hits, seed), "brier": brier(sure, hits, seed),
    }  # fmt: skip
    if samples:
        more |= _pass_at(sampled_right(engine, questions, samples, seed), samples, seed)
    rows = [Kept(f"{test}: exact match", one.text, float(hit),
                 {"task": one.task, "answer": answer, "references": one.references, "reason": whole.reason})
            for one, hit, answer, whole in zip(questions, hits, answers, given, strict=True)]  # fmt: skip
    return Details(measures, more, groups, reliability(sure, hits), rows)


def _grouped(name: str, questions: Sequence[Question], right: np.ndarray) -> list[Group]:
    """Exact match for each task, language or source that rows name; [] where none does."""
    names = np.array([getattr(question, name) for question in questions], str)
    return [Group(str(one), int((names == one).sum()),
                  {"exact_match": wilson(float(right[names == one, 0].sum()), int((names == one).sum()))})
            for one in np.unique(names) if one]  # fmt: skip


def _pass_at(right: np.ndarray, samples: int, seed: int) -> dict[str, Figure]:
    """pass@1, a middle one and pass@`samples`, from how many of `samples` answers to each question are right."""
    return {f"pass@{k}": bootstrap(with_ones(np.array([pass_at_k(samples, int(c), k) for c in right])), seed=seed)
            for k in sorted({1, max(1, samples // 2), samples})}  # fmt: skip


# ---- beside another model ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compared:
    """A figure of two models: their difference, its p-value among all figures (Holm), and a sentence."""

    name: str
    difference: Difference
    p: float
    sentence: str


def differences(first: Details, second: Details, seed: int = 0) -> list[Compared]:
    """The paired comparison of every figure whose rows are the same in both.

    The loss of models with other tokenizers is not compared, nor perplexity, which says the same as the loss.
    """
    found = {
        name: compare(measure.rows, second.measures[name].rows, measure.statistic, seed)
        for name, measure in first.measures.items()
        if name in second.measures and _comparable(name, measure.rows, second.measures[name].rows)
    }
    adjusted = holm([one.p for one in found.values()])
    return [
        Compared(name, one, p, in_words(name, one, p, name not in LOWER_IS_BETTER))
        for (name, one), p in zip(found.items(), adjusted, strict=True)
    ]


def _comparable(name: str, first: np.ndarray, second: np.ndarray) -> bool:
    if name == "perplexity" or first.shape != second.shape or len(first) < 2:
        return False
    return name != "loss" or bool((first[:, 1] == second[:, 1]).all())
