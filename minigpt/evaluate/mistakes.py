"""What kind of mistake a wrong answer is, and what a model confuses with what."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from minigpt.evaluate.perplexity import language_of
from minigpt.evaluate.text_metrics import repetition, same, words

# In the order in which they are tried: the first that fits names the mistake.
KINDS = {
    "empty": "no answer",
    "cut off": "the answer did not end by itself",
    "repetition": "it says the same again and again",
    "wrong language": "it answers in another writing than the right answer",
    "right and more": "the right answer is in it, and it goes on",
    "wrong fact": "the form of the right answer, with another fact in it",
    "too long": "more than twice as long as the right answer",
    "too short": "less than half as long as the right answer",
    "something else": "none of these",
}
REPEATED, ALIKE = 0.3, 0.5  # shares: of 4-grams that were there before; of words in common


def is_right(answer: str, references: Sequence[str]) -> bool:
    """Whether the answer is one of the right ones, whatever the case and the punctuation (see `same`)."""
    return any(same(answer, one) for one in references)


def kind_of(answer: str, references: Sequence[str], reason: str = "stop") -> str:
    """The kind of mistake, one of KINDS; "" for a right answer. `reason` is why the answer ended."""
    if is_right(answer, references):
        return ""
    said = words(answer)
    if not said:
        return "empty"
    if reason in ("length", "context"):
        return "repetition" if _repeats(said) or repetition(answer) > REPEATED else "cut off"
    if _repeats(said) or repetition(answer) > REPEATED:
        return "repetition"
    nearest = _nearest(said, references)
    wanted = words(nearest)
    if language_of(answer) != language_of(nearest) and "none" not in (language_of(answer), language_of(nearest)):
        return "wrong language"
    if len(said) > len(wanted) and _contains(said, wanted):
        return "right and more"
    if _alike(said, wanted) >= ALIKE and len(said) <= 2 * len(wanted):
        return "wrong fact"
    if len(said) > 2 * len(wanted):
        return "too long"
    return "too short" if 2 * len(said) < len(wanted) else "something else"


def _nearest(said: list[str], references: Sequence[str]) -> str:
    return max(references, key=lambda one: _alike(said, words(one)))


def _alike(said: Sequence[str], wanted: Sequence[str]) -> float:
    """2 × words in common and in order / all words."""
    return SequenceMatcher(None, said, wanted, autojunk=False).ratio()


def _contains(said: list[str], wanted: list[str]) -> bool:
    return any(said[i : i + len(wanted)] == wanted for i in range(len(said) - len(wanted) + 1)) if wanted else False


def _repeats(said: list[str]) -> bool:
    """Whether one word, or two in turn, stand there more than three times in a row."""
    alone = any(len(set(said[i : i + 4])) == 1 for i in range(len(said) - 3))
    return alone or any(said[i : i + 6] == said[i + 2 : i + 8] for i in range(len(said) - 7))


@dataclass(frozen=True)
class Confused:
    """In answers of the right form: how often `said` stood where `wanted` belongs, in which task."""

    task: str
    wanted: str
    said: str
    count: int


def confusions(rows: Iterable[tuple[str, str, Sequence[str]]]) -> list[Confused]:
    """What stands in place of what, most frequent first, over rows (task, answer, right answers).

    A right answer and the model's are aligned word by word; each stretch that was replaced is one confusion. Only
    answers of the right form count, as all words of others are replaced.
    """
    counts: Counter[tuple[str, str, str]] = Counter()
    for task, answer, references in rows:
        said = words(answer)
        wanted = words(_nearest(said, references))
        matcher = SequenceMatcher(None, wanted, said, autojunk=False)
        if said == wanted or matcher.ratio() < ALIKE:
            continue
        for what, a, b, c, d in matcher.get_opcodes():
            if what != "equal":
                counts[task, _joined(wanted[a:b]), _joined(said[c:d])] += 1
    return [Confused(*key, count) for key, count in counts.most_common()]


def _joined(found: Sequence[str]) -> str:
    """Words with spaces between them, Chinese characters without; "–" for none."""
    return ("" if any(one > "\u2e80" for one in found) else " ").join(found) or "–"
