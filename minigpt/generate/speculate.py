"""Speculative decoding: draft several tokens, check them all in one forward pass, keep those that are right.

A pass over eight tokens reads the weights as often as a pass over one: once, and that is what a step costs. Somebody
cheaper proposes the next tokens (see `minigpt.generate.proposers`), and the model computes the logits after each of
them at once.

The answer is the one that the plain engine gives, token for token, for greedy and for sampled answers: `sample` is a
pure function of logits, settings, text and position, so each token is chosen by the same call as ever, and a draft
token is kept only where it is what was chosen. Leviathan et al. 2023 and Chen et al. 2023 accept by a ratio of
probabilities instead, which keeps the distribution but not the tokens. A draft that draws with the same seed and
position (common random numbers) agrees often, though not as often as their rule, which is the best one there is: that
is the price of having the same answer with and without.

The logits of a wider pass differ in their last bits, so a close call may go the other way. In float32 that takes two
tokens whose scores agree to about six digits: of 1,200 answers on each backend (a briefly trained tiny model, 200
texts, two drafts and look-up, greedy and sampled) none was another. Where numbers are rounded more it happens: 39 of
600 in bfloat16, and 2 of 960 with keys and values in 4 or 8 bits, as a number between two codes may go either way.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from minigpt.generate.sampling import Sampling

if TYPE_CHECKING:
    from minigpt.generate.request import Sequence

FIRST = 4  # draft tokens in the first pass of an answer


class Proposer(Protocol):
    """Draft tokens for one answer. The texts that it is shown continue each other."""

    def propose(self, text: list[int], count: int) -> list[int]:
        """At most `count` tokens that may follow `text`, the prompt with the answer so far."""


@dataclass
class Speculation:
    """Who drafts, how much at most, and what came of it; one may serve many answers, one after the other."""

    start: Callable[[list[int], Sampling, int], Proposer]  # (prompt, settings, most tokens of text) of a new answer
    most: int = 8  # draft tokens in one pass
    passes: int = 0
    tokens: int = 0  # that these passes gave
    drafted: int = 0
    accepted: int = 0
    seconds: float = 0.0  # as the caller has timed it


def draft_of(row: "Sequence") -> list[int]:
    """Draft tokens for a row's next pass, which gives one token more than were drafted; none without a proposer."""
    speculation = row.request.speculation
    if row.proposer is None or speculation is None:
        return []
    row.drafts = row.drafts or min(FIRST, speculation.most)
    return row.proposer.propose(row.seen, min(row.drafts, row.remaining - 1))


def after_pass(row: "Sequence", draft: list[int], right: int, given: int) -> None:
    """Count a pass that gave a row `given` tokens, the first `right` of them as drafted; sets the next draft's length.
    """
    speculation = row.request.speculation
    if row.proposer is None or speculation is None:
        return
    speculation.passes += 1
    speculation.drafted += len(draft)
    speculation.accepted += right
    speculation.tokens += given
    if draft:
        row.drafts = _next_count(row.drafts, right == len(draft), speculation.most)


def _next_count(count: int, all_right: bool, most: int) -> int:
    """Two more after a pass without a fault, else one less: the rule of transformers' assisted generation."""
    return min(count + 2, most) if all_right else max(count - 1, 1)
