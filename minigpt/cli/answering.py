"""An answer shown while it is made, and the settings that it is made with."""

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from minigpt.cli import flags
from minigpt.errors import UsageError

if TYPE_CHECKING:
    from minigpt.generate.engine import Engine
    from minigpt.generate.request import Answer, Request
    from minigpt.generate.sampling import Sampling
    from minigpt.generate.speculate import Speculation


@dataclass
class Answering:
    """Who answers, and how."""

    engine: "Engine"
    sampling: "Sampling"
    max_tokens: int
    speculation: "Speculation | None" = None

    def request(self, ids: list[int]) -> "Request":
        """To answer a prompt with these settings."""
        from minigpt.generate.request import Request

        return Request(ids, self.sampling, self.max_tokens, speculation=self.speculation)


def fresh_seed(given: flags.Sampling) -> tuple["Sampling", bool]:
    """(settings, whether their seed was drawn now). No seed is drawn where chance plays no part."""
    from minigpt.generate.sampling import Sampling

    draws = given.seed is None and given.temperature > 0
    seed = secrets.randbelow(10**6) if draws else given.seed or 0
    filters = given.temperature, given.top_k, given.top_p, given.min_p, given.repetition_penalty
    return Sampling(*filters, seed), draws


def refuse_lengths(prompts: Sequence[Sequence[int]], context: int) -> None:
    """Raises UsageError for the first prompt that is empty or fills the context, before any is answered."""
    for number, ids in enumerate(prompts, 1):
        if not 1 <= len(ids) < context:
            which = "The prompt" if len(prompts) == 1 else f"Prompt {number:,} of {len(prompts):,}"
            raise UsageError(
                f"{which} has {len(ids)} tokens; it must have 1 to {context - 1}.",
                "Shorten it, or train with a longer model.context.",
            )


def streamed(
    answering: Answering, request: "Request", before: str = "", heard: Callable[[str], object] = str
) -> "Answer":
    """The answer to a request, written to stdout while it is made, after the text `before`; pieces go to `heard`, too.
    """
    from minigpt.cli import console

    began = time.perf_counter()
    with console.page() as write:
        write(before)

        def both(piece: str) -> None:
            heard(piece)
            write(piece)

        answer = answering.engine.written(request, both)
    if answering.speculation is not None:
        answering.speculation.seconds += time.perf_counter() - began
    return answer
