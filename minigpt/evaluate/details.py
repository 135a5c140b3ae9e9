"""A model's figures on some rows with their intervals, in groups, and beside those of another model."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from minigpt.data.shards import MemoryShard
from minigpt.evaluate.intervals import Figure, Statistic, bootstrap, mean
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
from minigpt.evaluate.questions import Question, answers_of
from minigpt.evaluate.significance import Difference, compare, holm, in_words
from minigpt.evaluate.text_metrics import AGAINST_ANSWERS, by_themselves
from minigpt.generate.engine import Engine

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
    """`measures` by name, further figures of the same rows, and tables of groups of tokens or rows."""

    measures: dict[str, Measure]
    more: dict[str, Figure] = field(default_factory=dict)
    groups: dict[str, list[Group]] = field(default_factory=dict)

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
    limit: int | None = None, seed: int = 0,
) -> Details:  # fmt: skip
    """Loss, perplexity and bits per byte, by position, by writing, and by how often a token is in `training`."""
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
    return Details({name: Measure(rows, statistic) for name, statistic in STATISTICS.items()}, groups=groups)


# ---- answering ---------------------------------------------------------------------------------------------


def of_answers(engine: Engine, questions: Sequence[Question], seed: int = 0) -> Details:
    """The text metrics of greedy answers against the rows' answers; exact match by task where rows name one."""
    answers, references = answers_of(engine, questions), [question.references for question in questions]
    measures = {name: Measure(metric.rows(answers, references), metric.value)
                for name, metric in AGAINST_ANSWERS.items()}  # fmt: skip
    right, tasks = measures["exact_match"].rows, np.array([question.task for question in questions], str)
    groups = [Group(str(task), int((tasks == task).sum()), {"exact_match": bootstrap(right[tasks == task], seed=seed)})
              for task in np.unique(tasks) if task]  # fmt: skip
    return Details(measures, by_themselves(answers, seed), {"task": groups} if groups else {})


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
