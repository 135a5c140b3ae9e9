"""How much a client, and all clients together, may ask for: nothing that arrives is without a bound."""

from dataclasses import dataclass

MOST_TOKENS = 1_000_000  # that may be asked for; an answer ends at the model's context anyway
MOST_CHOICES = 8  # `n`
MOST_PROMPTS = 16  # of one completion request
MOST_ROWS = 32  # sequences of one request
MOST_MESSAGES = 1_000
MOST_STOPS = 16
MOST_TOOLS = 64
MOST_ALTERNATIVES = 20  # `top_logprobs`
MOST_BIASES = 1_024  # tokens in `logit_bias`


@dataclass(frozen=True)
class Bounds:
    """Of the server as a whole. Times in seconds, sizes in bytes."""

    rows: int = 16  # sequences that are computed together
    queue: int = 64  # sequences that may wait beside them
    chunk: int = 128  # tokens of a prompt that are read between two steps of the others
    cache: int = 64 << 20  # for keys and values of beginnings that are kept, per model
    body: int = 1_000_000
    headers: int = 32 << 10
    connections: int = 512
    arrive: float = 20.0  # for headers, and for a body, to arrive
    answer: float = 300.0  # for an answer, waiting included
    stuck: float = 60.0  # a step that takes longer means that the engine is stuck
    drain: float = 30.0  # for answers in flight when the server is told to stop
