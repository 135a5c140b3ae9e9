"""The forms of training data: what a row is, how it becomes token ids, and how these fill the rows of a batch.

A stage names one of TEXTS, CONVERSATIONS, PAIRS, LABELLED and STEPS, or a variation (`dataclasses.replace`).
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from minigpt.data.batches import PackedRows, PairRows, Rows, TextRows, ValidationText
from minigpt.data.examples import Conversation, Example, LabelledAnswer, Preference, Prompt, Steps, Text
from minigpt.data.labelled import BAD, LabelledRows
from minigpt.data.parse.fields import EXAMPLES
from minigpt.data.scored import RIGHT, WRONG, PairScores, StepScores, line_ends
from minigpt.data.shards import Shard
from minigpt.data.world import rows as world
from minigpt.data.world.lessons import lessons
from minigpt.errors import DataError
from minigpt.text.chatml import render
from minigpt.text.messages import Message
from minigpt.text.tokenizer import Tokenizer

WORLD = "world"  # the built-in world as a source
FRESH = 1_000  # added to the seed: other questions than those that SFT learns from
Tokens = tuple[list[int], list[int] | None]  # ids, and the loss mask of a sequence where only a part is learned


@dataclass(frozen=True)
class World:
    """What the built-in world draws for a form, and what is known of its rows before they are drawn."""

    draw: Callable[[int, int, str], Iterator[dict]]  # (seed, count, "train" or "test") -> rows
    setting: str  # the key in [data] for how many
    count: int  # its default
    describes: str
    tokens: int = 0  # of a row on average with the vocabulary of the preset tiny; 0: not needed
    counted: float = 1.0  # share of the tokens that are part of the loss
    beside: "World | None" = None  # other training rows that it draws as well, if their setting says how many


@dataclass(frozen=True)
class Form:
    """One form of training data.

    `accept` gives what a stage learns from a parsed row, None for a row that it cannot use. `encode` gives the token
    sequences of each example, one for each of the `names`, or the DataError of one that a chat template refuses. A
    `stream` is text without borders: files of text will do, every token is learned, and rows cut it anywhere; other
    examples stay whole, and several share a row. A row holds `width` times the context.
    """

    kind: type  # of the examples that it is made for
    needs: str  # "conversations", for the sentence about a row that is something else
    unit: str  # "conversation"
    example: str  # a row as JSON
    accept: Callable[[Example], Example | None]
    encode: Callable[[Tokenizer, Sequence[Example]], Iterator[list[Tokens] | DataError]]
    rows: Callable[[Shard, int, int], Rows]  # (shard, context, seed): for training
    held_out: Callable[[Shard, int, int], Rows]  # for measuring: each row once
    stream: bool = False
    names: tuple[str, ...] = ("",)  # of the sequences of an example
    width: int = 1
    cut: bool = True  # whether an example that is too long is cut at its end; else it is omitted
    prompts: bool = False  # whether a row may be a prompt without an answer; then keys that no layout reads are kept,
    # for reward functions
    world: World | None = None
    note: Callable[[Counter[str]], str] = lambda layouts: ""  # what to say of the layouts that the rows were written in

    @property
    def sequences(self) -> int:
        """How many token sequences an example has."""
        return len(self.names)


def _encode_texts(tokenizer: Tokenizer, examples: Sequence[Example]) -> Iterator[list[Tokens] | DataError]:
    """Texts in one batch, which uses all cores; conversations as their whole rendering."""
    texts = iter(tokenizer.encode_batch([example.text for example in examples if isinstance(example, Text)]))
    for example in examples:
        if isinstance(example, Text):
            yield [(next(texts), None)]
        else:
            yield _or_error(lambda messages: [(render(tokenizer, messages)[0], None)], example.messages)


def _encode_conversations(tokenizer: Tokenizer, examples: Sequence[Example]) -> Iterator[list[Tokens] | DataError]:
    for example in examples:
        yield _or_error(lambda messages: [render(tokenizer, messages)], example.messages)


def _encode_taught(tokenizer: Tokenizer, examples: Sequence[Example]) -> Iterator[list[Tokens] | DataError]:
    """Conversations; of a prompt nothing is learned before somebody answers it."""
    for example in examples:
        written = _unanswered if isinstance(example, Prompt) else render
        yield _or_error(lambda messages, written=written: [written(tokenizer, messages)], example.messages)


def _unanswered(tokenizer: Tokenizer, prompt: list[Message]) -> Tokens:
    """Ids up to the assistant's turn; nothing of them is learned, also no earlier answer."""
    ids, _ = render(tokenizer, prompt, generation_prompt=True)
    return ids, [0] * len(ids)


def _encode_pairs(tokenizer: Tokenizer, examples: Sequence[Example]) -> Iterator[list[Tokens] | DataError]:
    for pair in examples:
        yield _or_error(lambda pair: [_answer(tokenizer, pair, one) for one in (pair.chosen, pair.rejected)], pair)


def _or_error(encode: Callable[[object], list[Tokens]], content: object) -> list[Tokens] | DataError:
    try:
        return encode(content)
    except DataError as error:
        return error


def _answer(tokenizer: Tokenizer, pair: Preference, answer: list) -> Tokens:
    """Ids of prompt + answer with a mask on the answer only, also when the prompt holds earlier answers."""
    prompt, _ = render(tokenizer, pair.prompt, generation_prompt=True)
    ids, mask = render(tokenizer, pair.prompt + answer)
    return ids, [0] * len(prompt) + mask[len(prompt) :]


def _encode_questions(tokenizer: Tokenizer, examples: Sequence[Example]) -> Iterator[list[Tokens] | DataError]:
    """The conversation, whose last answer alone is one, and what a reward is told of it, as JSON."""
    for example in examples:
        yield _or_error(lambda example: _question(tokenizer, example), example)


def _question(tokenizer: Tokenizer, example: Conversation | Prompt) -> list[Tokens]:
    unanswered = isinstance(example, Prompt)
    prompt, answer = example.messages[: None if unanswered else -1], example.messages[-1]
    ids, mask = _unanswered(tokenizer, prompt)
    told = example.others | {"prompt": prompt[-1]["content"]}
    if not unanswered:
        ids, learned = render(tokenizer, example.messages)
        mask, told["answer"] = mask + learned[len(mask) :], answer["content"]
    row = tokenizer.encode(json.dumps(told, ensure_ascii=False, default=str))
    return [(ids, mask), (row, [0] * len(row))]


def _asked(example: Example) -> Example | None:
    """A prompt, or a conversation whose last answer a reward may compare with; of a pair the chosen one."""
    return example if isinstance(example, Prompt) else _as_conversation(example)


def _encode_scored_pairs(tokenizer: Tokenizer, examples: Sequence[Example]) -> Iterator[list[Tokens] | DataError]:
    """Both answers, and as JSON how much better the chosen one is."""
    for pair, encoded in zip(examples, _encode_pairs(tokenizer, examples), strict=True):
        if isinstance(encoded, DataError):
            yield encoded
            continue
        margin = tokenizer.encode(json.dumps(pair.margin))
        yield [*encoded, (margin, [0] * len(margin))]


def _encode_steps(tokenizer: Tokenizer, examples: Sequence[Example]) -> Iterator[list[Tokens] | DataError]:
    for example in examples:
        yield _or_error(lambda steps: [_steps(tokenizer, steps)], example)


def _steps(tokenizer: Tokenizer, example: Steps) -> Tokens:
    """Prompt and answer; the mask is WRONG or RIGHT at the last token of each step, else 0."""
    prompt, _ = render(tokenizer, example.prompt, generation_prompt=True)
    answer = {"role": "assistant", "content": "\n".join(example.steps)}
    ids, _ = render(tokenizer, [*example.prompt, answer])
    ends = line_ends(tokenizer, ids[len(prompt) :])[: len(example.steps)]
    if len(ends) < len(example.steps):
        message = f"The answer has {len(ends)} lines as the chat template writes it, and {len(example.steps)} steps."
        raise DataError(message, "Omit the row.")
    mask = [0] * len(ids)
    for place, label in zip(ends, example.labels, strict=True):
        mask[len(prompt) + place] = RIGHT if label else WRONG
    return ids, mask


def _encode_labelled(tokenizer: Tokenizer, examples: Sequence[Example]) -> Iterator[list[Tokens] | DataError]:
    """Prompt and answer; the mask says of the answer's tokens whether they are GOOD or BAD."""
    for example in examples:
        encoded = _or_error(lambda one: [_answer(tokenizer, one, one.answer)], example)
        if isinstance(encoded, list) and not example.desirable:
            encoded = [(ids, [BAD * learned for learned in mask]) for ids, mask in encoded]
        yield encoded


def _as_text(example: Example) -> Example | None:
    """A text, or a conversation as one."""
    example = _without_label(example)
    return example if isinstance(example, Text | Conversation) else None


def _without_label(example: Example) -> Example:
    return Conversation(example.prompt + example.answer) if isinstance(example, LabelledAnswer) else example


def _as_conversation(example: Example) -> Example | None:
    """A conversation; of a pair the chosen answer."""
    if isinstance(example, Preference):
        return Conversation(example.prompt + example.chosen)
    example = _without_label(example)
    return example if isinstance(example, Conversation) else None


def _pairs_among(layouts: Counter[str]) -> str:
    pairs = layouts["dpo"] + layouts["dpo-implicit"]
    told = [f"{pairs:,} rows are preference pairs; of these the chosen answers are learned."] if pairs else []
    if labelled := layouts["labelled"]:
        told.append(f"{labelled:,} rows have a label, which is not read: undesirable answers are learned, too (kto).")
    return " ".join(told)


TEXTS = Form(
    kind=Text,
    needs="texts or conversations",
    unit="document",
    example=EXAMPLES["text"],
    accept=_as_text,
    encode=_encode_texts,
    rows=TextRows,
    held_out=lambda shard, context, seed: ValidationText(shard, context),
    stream=True,
    world=World(
        world.texts, "world_texts", 20_000, "texts that the built-in world writes",
        beside=World(
            lambda seed, count, split: lessons(seed, count), "world_lessons", 0,
            "lessons that it writes beside its texts: questions in a row, with their answers",
        ),
    ),
)
# Questions without one right answer, for people and models that compare answers: of no stage.
REQUESTS = World(world.requests, "", 200, "everyday requests of the built-in world")
CONVERSATIONS = Form(
    kind=Conversation,
    needs="conversations",
    unit="conversation",
    example=EXAMPLES["messages"],
    accept=_as_conversation,
    encode=_encode_conversations,
    rows=PackedRows,
    held_out=PackedRows,
    world=World(
        world.conversations, "world_instructions", 24_000, "conversations of the built-in world", counted=0.3
    ),  # measured: 0.28
    note=_pairs_among,
)
PAIRS = Form(
    kind=Preference,
    needs="preference pairs",
    unit="pair",
    example=EXAMPLES["pair"],
    accept=lambda example: example if isinstance(example, Preference) else None,
    encode=_encode_pairs,
    rows=PairRows,
    held_out=PairRows,
    names=("chosen", "rejected"),
    width=2,
    cut=False,
    world=World(
        world.preferences, "world_pairs", 3_000, "preference pairs of the built-in world", tokens=87, counted=0.45
    ),  # measured: 87 tokens with the held-out ones, 0.41
)
# For a teacher: it or its student may answer what nobody has answered.
TAUGHT = replace(
    CONVERSATIONS,
    needs="conversations or prompts",
    accept=_asked,
    prompts=True,
    encode=_encode_taught,
    world=replace(
        CONVERSATIONS.world,
        beside=World(
            lambda seed, count, split: world.prompts(seed + FRESH, count, split), "world_prompts", 0,
            "prompts of the built-in world without answers, for distill",
        ),
    ),
)
LABELLED = Form(
    kind=LabelledAnswer,
    needs="labelled answers",
    unit="answer",
    example=EXAMPLES["labelled"],
    accept=lambda example: example if isinstance(example, LabelledAnswer) else None,
    encode=_encode_labelled,
    rows=LabelledRows,
    held_out=LabelledRows,
    width=2,
    cut=False,
    world=World(
        world.labelled, "world_pairs", 3_000, "preference pairs of the built-in world", tokens=43, counted=0.45
    ),
)
QUESTIONS = replace(
    CONVERSATIONS,
    needs="prompts or conversations",
    unit="question",
    example='{"prompt": "What is 3 plus 4?", "answer": "7"}',
    accept=_asked,
    prompts=True,
    encode=_encode_questions,
    names=("conversation", "row"),
    cut=False,
    world=World(
        lambda seed, count, split: world.instructions(seed + FRESH, count, split), "world_instructions", 24_000,
        "conversations of the built-in world",
    ),
    note=lambda forms: "",
)  # fmt: skip
# Prompts of pairs; the chosen answer is what a reward function is told.
PAIR_QUESTIONS = replace(
    QUESTIONS,
    world=World(
        lambda seed, count, split: world.preferences(seed + FRESH, count, split), "world_pairs", 3_000,
        "preference pairs of the built-in world",
    ),
)  # fmt: skip
SCORED_PAIRS = replace(
    PAIRS, encode=_encode_scored_pairs, rows=PairScores, held_out=PairScores, names=("chosen", "rejected", "margin")
)
STEPS = Form(
    kind=Steps,
    needs="answers in labelled steps",
    unit="answer",
    example=EXAMPLES["steps"],
    accept=lambda example: example if isinstance(example, Steps) else None,
    encode=_encode_steps,
    rows=StepScores,
    held_out=StepScores,
    cut=False,
    world=World(world.solutions, "world_solutions", 3_000, "sums in steps of the built-in world", tokens=75),
)
