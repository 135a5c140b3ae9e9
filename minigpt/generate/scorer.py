"""A reward model that is ready to judge answers.

Each answer is read after its prompt, token by token as it was sampled, with its end token where it has one. It is
scored at its last token, or, by a model that was taught steps, at the end of each line; the lowest of those counts, as
a solution is as good as its weakest step (Wang et al. 2024, Math-Shepherd, section 3.4).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from backends.tree import Tree
from minigpt.data.scored import line_ends
from minigpt.errors import UsageError
from minigpt.model.gpt import GPT
from minigpt.text.tokenizer import Tokenizer, same_tokenizer

END, STEPS = "end", "steps"
AT_ONCE = 32  # answers that are read together
WIDTH = 32  # rows are padded to a multiple of this: few shapes to compile


@dataclass(frozen=True)
class Scored:
    """An answer's score, and those of its steps where it has some."""

    score: float
    steps: tuple[float, ...] = ()


class Scorer:
    """A scoring model with its weights and tokenizer. `at` is END or STEPS, and `name` says which model it is."""

    def __init__(self, model: GPT, weights: Tree, tokenizer: Tokenizer, at: str, name: str):
        self.model, self.weights, self.tokenizer, self.at, self.name = model, weights, tokenizer, at, name
        self._scores = model.backend.compile(lambda weights, ids: model.scores(weights, model.hidden(weights, ids)))

    def check(self, tokenizer: Tokenizer) -> None:
        """Raises UsageError when answers have other tokens than this model reads."""
        if not same_tokenizer(self.tokenizer, tokenizer):
            told = [f"{one.kind}, {one.vocab_size:,} tokens" for one in (self.tokenizer, tokenizer)]
            raise UsageError(
                f"The reward model {self.name} has another tokenizer ({told[0]}) than what answers ({told[1]}).",
                "A reward model judges the tokens themselves: train one that starts from the same run.",
            )

    def scores(self, prompts: Sequence[list[int]], answers: Sequence[list[int]]) -> list[Scored]:
        """The score of each answer (its tokens, with the one that ended it) to its prompt.

        That of one answer does not depend on the others beside it. An answer without a token, or without a line, has
        the score of the prompt's last token.
        """
        found: list[Scored] = []
        for first in range(0, len(answers), AT_ONCE):
            found += self._some(prompts[first : first + AT_ONCE], answers[first : first + AT_ONCE])
        return found

    def _some(self, prompts: Sequence[list[int]], answers: Sequence[list[int]]) -> list[Scored]:
        backend, context = self.model.backend, self.model.config.context
        rows = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
        if (longest := max(map(len, rows))) > context + 1:  # the token that ends an answer may be one too many
            message = f"The reward model {self.name} reads {context:,} tokens; an answer and its prompt have"
            raise UsageError(f"{message} {longest:,}.", "Allow shorter answers (max_tokens).")
        ids = np.zeros((len(rows), -(-longest // WIDTH) * WIDTH), np.int32)
        for n, row in enumerate(rows):
            ids[n, : len(row)] = row
        with backend.inference():
            scores = backend.numpy(self._scores(self.weights, backend.array(ids)))  # (B, T)
        return [self._scored(line, len(prompt), answer)
                for line, prompt, answer in zip(scores, prompts, answers, strict=True)]  # fmt: skip

    def _scored(self, scores: np.ndarray, prompt: int, answer: list[int]) -> Scored:
        """From the scores (T,) of all tokens of a row."""
        if self.at == END:
            return Scored(float(scores[prompt + len(answer) - 1]))
        steps = tuple(float(scores[prompt + place]) for place in line_ends(self.tokenizer, answer))
        return Scored(min(steps, default=float(scores[prompt - 1])), steps)
