"""The page on which people compare two models' answers without knowing whose they are."""

from pathlib import Path
from typing import Any

from minigpt.evaluate.judging import (
    CHOICES,
    Judging,
    Vote,
    add_vote,
    first_is_left,
    order_for,
    read_votes,
)
from minigpt.pages import html, texts
from minigpt.watch.server import Server, bound

LONGEST = 1000  # characters of a reason, of a rater's name


class Votes:
    """What the page asks for. It never tells which model an answer is from."""

    def __init__(self, directory: Path, judging: Judging):
        self.directory, self.judging = directory, judging

    def next(self, query: dict[str, list[str]]) -> dict[str, Any]:
        rater, count = _rater(query), len(self.judging.pairs)
        done = {vote.item for vote in read_votes(self.directory) if vote.rater == rater}
        found = {"done": len(done), "total": count}
        item = next((item for item in order_for(rater, count) if item not in done), None)
        if item is None:
            return found
        pair = self.judging.pairs[item]
        left, right = (pair.first, pair.second) if first_is_left(rater, item) else (pair.second, pair.first)
        return found | {"item": item, "question": pair.question, "left": left, "right": right}

    def vote(self, query: dict[str, list[str]]) -> dict[str, Any]:
        rater, item, choice = _rater(query), int(query["item"][0]), query["choice"][0]
        if choice not in CHOICES or not 0 <= item < len(self.judging.pairs):
            raise ValueError("a choice is left, right or tie")
        left = first_is_left(rater, item)
        score = CHOICES[choice] if left else 1 - CHOICES[choice]
        add_vote(self.directory, Vote(item, rater, score, left, query.get("reason", [""])[0][:LONGEST]))
        return self.next(query)

    def undo(self, query: dict[str, list[str]]) -> dict[str, Any]:
        """Takes back the rater's last vote."""
        rater = _rater(query)
        own = [vote for vote in read_votes(self.directory) if vote.rater == rater]
        if own:
            add_vote(self.directory, {"item": own[-1].item, "rater": rater, "score": None})
        return self.next(query)


def _rater(query: dict[str, list[str]]) -> str:
    return query["rater"][0].strip()[:LONGEST] or "me"


def judge_page(language: str = "en") -> str:
    """The page itself, at first in this language."""
    scripts = [html.part("common.js"), html.part("judge.js", "minigpt.watch")]
    body = html.part("judge.html", "minigpt.watch")
    return html.page("MiniGPT", body, scripts, texts.both("judge"), language)


def serve_judging(directory: Path, judging: Judging, port: int | None = None, language: str = "en") -> Server:
    """A server of the page on which people vote."""
    votes = Votes(directory, judging)
    return bound(lambda: judge_page(language), {"next": votes.next}, {"vote": votes.vote, "undo": votes.undo}, port)
