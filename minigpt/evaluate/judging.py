"""Which of two models people prefer: pairs of answers, votes on disk, and what the votes say."""

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minigpt.errors import DataError
from minigpt.evaluate.agreement import cohen_kappa, fleiss_kappa, icc, krippendorff_alpha
from minigpt.evaluate.intervals import Figure
from minigpt.evaluate.ranking import dawid_skene, elo, needed_votes, rated, win_rate
from minigpt.store.durable import write_whole

PAIRS, VOTES = "pairs.json", "votes.jsonl"
CHOICES = {"left": 1.0, "tie": 0.5, "right": 0.0}  # what the one on the left gets


@dataclass(frozen=True)
class Pair:
    """A question and both models' answers; `cut` says which of them were cut off before their end."""

    question: str
    first: str
    second: str
    cut: tuple[bool, ...] = (False, False)

    @property
    def turned(self) -> "Pair":
        """The same with the second answer first."""
        return Pair(self.question, self.second, self.first, self.cut[::-1])


@dataclass(frozen=True)
class Judging:
    """The names of two models and their answers."""

    first: str
    second: str
    pairs: list[Pair]


@dataclass(frozen=True)
class Vote:
    """A rater's choice: the first model gets `score` (1 won, 0 lost, 0.5 a tie).

    `left`: whether it stood there; None: on either side, as a judge that is a model was shown both orders.
    """

    item: int
    rater: str
    score: float
    left: bool | None
    reason: str = ""


def save_pairs(directory: Path, judging: Judging) -> None:
    """Keep the answers, so that a later look shows the same ones."""
    directory.mkdir(parents=True, exist_ok=True)
    write_whole(directory / PAIRS, json.dumps(asdict(judging), ensure_ascii=False, indent=1) + "\n")


def read_pairs(directory: Path) -> Judging | None:
    """None where there are none yet. Raises DataError when they are damaged."""
    path = directory / PAIRS
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text("utf-8"))
        pairs = [Pair(**row | {"cut": tuple(row.get("cut", Pair.cut))}) for row in found["pairs"]]
        return Judging(found["first"], found["second"], pairs)
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path} is damaged.", "Delete it to let both models answer again.") from None


def read_votes(directory: Path) -> list[Vote]:
    """The votes, of each rater and item the last one; a score of null takes a vote back."""
    kept: dict[tuple[str, int], Vote] = {}
    path = directory / VOTES
    for line in path.read_text("utf-8").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
            key = str(row["rater"]), int(row["item"])
            kept.pop(key, None)
            if row["score"] is not None:
                left = None if row["left"] is None else bool(row["left"])
                kept[key] = Vote(key[1], key[0], float(row["score"]), left, str(row.get("reason", "")))
        except (ValueError, KeyError, TypeError):
            continue  # a line that a power cut left behind
    return list(kept.values())


def add_vote(directory: Path, vote: Vote | dict[str, Any]) -> None:
    """Add a line and wait until it is on the disk; a line that was cut off before it stays the only lost one."""
    path, row = directory / VOTES, asdict(vote) if isinstance(vote, Vote) else vote
    cut = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
    with path.open("ab") as file:
        file.write(b"\n" * cut + json.dumps(row, ensure_ascii=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def order_for(rater: str, count: int) -> list[int]:
    """The items in an order of the rater's own, always the same."""
    return sorted(range(count), key=lambda item: _digest(f"order {rater} {item}"))


def first_is_left(rater: str, item: int) -> bool:
    """On which side the first model's answer stands: as good as random, and always the same."""
    return _digest(f"side {rater} {item}") % 2 == 0


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())


# ---- what the votes say ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Results:
    """Win rate of the first model; both ratings; how far raters agree (None where too few voted); each rater's weight.

    `needed` votes would show the observed win rate with 80 % power.
    """

    votes: int
    ties: int
    wins: Figure
    ratings: dict[str, Figure]
    elo: dict[str, float]
    agreement: dict[str, float | None]
    raters: dict[str, tuple[int, float]]  # votes, reliability (Dawid and Skene)
    consensus: float | None  # the first model's share of the likely true classes
    needed: int | None
    left: Figure | None  # share of votes for what stood on the left, where one side is known


def results(judging: Judging, votes: Sequence[Vote], seed: int = 0) -> Results:
    """All figures of the votes. Raises DataError when there are none."""
    if not votes:
        raise DataError("There are no votes yet.", "Open the page and vote: minigpt judge RUN RUN2.")
    scores = [vote.score for vote in votes]
    duels = [(0, 1, score) for score in scores]
    wins = win_rate(scores, seed)
    names = judging.first, judging.second
    table, raters = _table(votes, len(judging.pairs))
    consensus = dawid_skene(np.where(np.isnan(table), -1, np.rint(table * 2)).astype(int), 3)
    reliability = {name: float(x) for name, x in zip(raters, consensus.reliability, strict=True)}
    counts = {name: int((~np.isnan(table[:, i])).sum()) for i, name in enumerate(raters)}
    judged = ~np.isnan(table).all(1)
    share = float((consensus.labels[judged] @ np.array([0.0, 0.5, 1.0])).mean()) if len(raters) > 1 else None
    needed = needed_votes(wins.value) if wins.value not in (0.0, 0.5, 1.0) else None
    sides = [vote.score if vote.left else 1 - vote.score for vote in votes if vote.left is not None]
    left = win_rate(sides, seed) if sides else None
    return Results(
        len(votes), sum(score == 0.5 for score in scores), wins, dict(zip(names, rated(duels, 2, seed), strict=True)),
        dict(zip(names, map(float, elo(duels, 2)), strict=True)), _agreement(table),
        {name: (counts[name], reliability[name]) for name in raters}, share, needed, left,
    )  # fmt: skip


def _table(votes: Sequence[Vote], items: int) -> tuple[np.ndarray, list[str]]:
    """Scores (items, raters), NaN where a rater has not voted, and the raters' names."""
    raters = sorted({vote.rater for vote in votes})
    table = np.full((items, len(raters)), np.nan)
    for vote in votes:
        if 0 <= vote.item < items:
            table[vote.item, raters.index(vote.rater)] = vote.score
    return table, raters


def _agreement(table: np.ndarray) -> dict[str, float | None]:
    """Cohen's kappa (plain and weighted) for two raters, Fleiss' and the intraclass correlation where all rated the
    same items, Krippendorff's alpha for any."""
    whole, raters = table[~np.isnan(table).any(1)], table.shape[1]
    found: dict[str, float | None] = {}
    if raters == 2 and len(whole) > 1:
        found["cohen_kappa"] = cohen_kappa(whole[:, 0].tolist(), whole[:, 1].tolist())
        found["cohen_kappa_linear"] = cohen_kappa(whole[:, 0].tolist(), whole[:, 1].tolist(), "linear")
    if raters >= 2 and len(whole) > 1:
        classes = np.rint(whole * 2)  # two orders may give a quarter
        counts = np.stack([(classes == value).sum(1) for value in (0, 1, 2)], axis=1)
        found["fleiss_kappa"], found["icc"] = fleiss_kappa(counts), icc(whole)
    if raters >= 2:
        found["krippendorff_alpha"] = krippendorff_alpha(table.T, "ordinal")
    return {name: None if value is None or not math.isfinite(value) else float(value) for name, value in found.items()}
