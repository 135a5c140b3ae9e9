"""From prompts to answers: one, or many that are computed together, each as it would be alone."""

from collections.abc import Callable, Iterator

from backends.tree import Tree
from minigpt.generate.cache import check_cache_bits
from minigpt.generate.request import Answer, Request, finished
from minigpt.generate.sampling import Sampling
from minigpt.generate.scheduler import UNBOUNDED, Scheduler
from minigpt.generate.speculate import Speculation
from minigpt.model.gpt import GPT
from minigpt.model.moe import with_stacks
from minigpt.model.router import check_generates
from minigpt.text.chatml import render
from minigpt.text.messages import Message
from minigpt.text.tokenizer import Tokenizer


class Engine:
    """A model with its weights and tokenizer, ready to answer."""

    def __init__(self, model: GPT, weights: Tree, tokenizer: Tokenizer, kv_bits: int = 0):
        check_cache_bits(model.config, kv_bits)
        check_generates(model.config)
        self.model, self.tokenizer = model, tokenizer
        self.weights = with_stacks(model.backend, model.config, weights)
        self.kv_bits = kv_bits  # 0: keys and values as they are computed

    def stream(
        self, prompt: list[int], sampling: Sampling, max_tokens: int, speculation: Speculation | None = None
    ) -> Iterator[str]:
        """Pieces of the answer as they become complete characters; the return value is the Answer.

        With a `speculation` it is the same answer, sooner.
        """
        return self.pieces(Request(prompt, sampling, max_tokens, speculation=speculation))

    def pieces(self, request: Request) -> Iterator[str]:
        """The same for a request with all its wishes. Raises MiniGPTError when the answer fails."""
        scheduler = self._scheduler(1)
        sequence = scheduler.add(request)
        while not sequence.reason:
            for token in scheduler.step():
                if token.text:
                    yield token.text
        return finished(sequence)

    def streamed(
        self, prompt: list[int], sampling: Sampling, max_tokens: int, speculation: Speculation | None = None,
        write: Callable[[str], object] = str,
    ) -> Answer:  # fmt: skip
        """The Answer of a stream; its pieces go to `write` as they come."""
        return self.written(Request(prompt, sampling, max_tokens, speculation=speculation), write)

    def written(self, request: Request, write: Callable[[str], object] = str) -> Answer:
        """The same for a request with all its wishes."""
        stream = self.pieces(request)
        while True:
            try:
                write(next(stream))
            except StopIteration as end:
                return end.value

    def answer(self, prompts: list[list[int]], sampling: Sampling, max_tokens: int) -> list[Answer]:
        """One answer per prompt. Each is what its prompt would get alone; the settings' seed holds for every one."""
        return self.answer_each(prompts, [sampling] * len(prompts), max_tokens)

    def answer_each(self, prompts: list[list[int]], samplings: list[Sampling], max_tokens: int) -> list[Answer]:
        """Like `answer`, with settings of its own for each prompt."""
        pairs = zip(prompts, samplings, strict=True)
        return self.answers([Request(list(prompt), sampling, max_tokens) for prompt, sampling in pairs])

    def answers(self, requests: list[Request]) -> list[Answer]:
        """The answers to requests that are computed together. Raises MiniGPTError when one fails."""
        scheduler = self._scheduler(len(requests))
        sequences = [scheduler.add(request) for request in requests]
        while not scheduler.idle:
            scheduler.step()
        return [finished(sequence) for sequence in sequences]

    def _scheduler(self, rows: int) -> Scheduler:
        """Where all prompts are read at once, as nobody waits for the first token."""
        return Scheduler(self, rows, chunk=UNBOUNDED, cache_bytes=0)


def chat_prompt(tokenizer: Tokenizer, messages: list[Message], context: int, reserve: int) -> tuple[list[int], int]:
    """(ids, dropped): the conversation up to the assistant's turn, without its oldest turns if they do not fit.

    `reserve` tokens of the context stay free for the answer. A system message is kept.
    """
    system = messages[:1] if messages[0]["role"] == "system" else []
    turns = messages[len(system) :]
    dropped = 0
    while True:
        ids, _ = render(tokenizer, system + turns, generation_prompt=True)
        if len(ids) + reserve <= context or len(turns) <= 1:
            return ids, dropped
        cut = 2 if len(turns) > 2 else 1
        turns, dropped = turns[cut:], dropped + cut
