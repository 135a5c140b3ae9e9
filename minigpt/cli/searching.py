"""The flags of `minigpt generate` that say more of how an answer is searched for: penalties, ends, grammars, beams."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from typer import Option

from minigpt.errors import UsageError

if TYPE_CHECKING:
    from minigpt.generate.engine import Engine
    from minigpt.generate.request import Answer, Constraint, Request
    from minigpt.generate.sampling import Sampling


@dataclass(frozen=True)
class Penalties:
    """What makes tokens rarer, or likelier."""

    title: ClassVar[str] = "Against repetition, and for or against tokens"

    frequency_penalty: Annotated[
        float, Option("--frequency-penalty", metavar="X", help="Taken off a logit each time the answer has its token.")
    ] = 0.0
    presence_penalty: Annotated[
        float, Option("--presence-penalty", metavar="X", help="Taken off once a token is in the answer.")
    ] = 0.0
    no_repeat_ngram: Annotated[
        int, Option("--no-repeat-ngram", metavar="N", min=0, help="No N tokens in a row come twice; 0 lets them.")
    ] = 0
    logit_bias: Annotated[
        list[str] | None,
        Option("--logit-bias", metavar="TOKEN=X", help="Added to a token's logit; its number or text. Repeatable."),
    ] = None

    def added(self, sampling: "Sampling", engine: "Engine") -> "Sampling":
        """The settings with these. Raises UsageError for a token that there is not."""
        bias = tuple(_bias(one, engine) for one in self.logit_bias or ())
        return replace(
            sampling, frequency_penalty=self.frequency_penalty, presence_penalty=self.presence_penalty,
            no_repeat_ngram=self.no_repeat_ngram, logit_bias=bias,
        )  # fmt: skip


@dataclass(frozen=True)
class Form:
    """Where an answer ends, and what it must be."""

    title: ClassVar[str] = "Where the answer ends, and what it must be"

    stop: Annotated[
        list[str] | None, Option("--stop", metavar="TEXT", help="End before this text. Repeatable.")
    ] = None
    json_schema: Annotated[
        str | None, Option("--json-schema", metavar="FILE|JSON", help="JSON that fits a schema; {} takes any JSON.")
    ] = None
    regex: Annotated[
        str | None, Option("--regex", metavar="PATTERN", help="Text that a regular expression matches as a whole.")
    ] = None
    choice: Annotated[
        list[str] | None, Option("--choice", metavar="TEXT", help="One of the texts that are given so. Repeatable.")
    ] = None
    logprobs: Annotated[
        int | None,
        Option("--logprobs", metavar="N", min=0, max=20,
               help="With --json: each token's log-probability, and the N likeliest ones."),
    ] = None  # fmt: skip

    def constraint(self, engine: "Engine") -> "Constraint | None":
        """The grammar that is asked for. Raises UsageError for several, or one that cannot be followed."""
        from minigpt.generate import constraint

        given = [one for one in (self.json_schema, self.regex, self.choice) if one]
        if len(given) > 1:
            raise UsageError("--json-schema, --regex and --choice exclude each other.", "Give one of them.")
        if self.json_schema is not None:
            return constraint.json_schema(engine.tokenizer, _schema(self.json_schema))
        if self.regex is not None:
            return constraint.regular_expression(engine.tokenizer, self.regex)
        return constraint.choice(engine.tokenizer, self.choice) if self.choice else None


@dataclass(frozen=True)
class Search:
    """Searches that look further than at one token."""

    title: ClassVar[str] = "Other ways to search"

    beams: Annotated[
        int | None, Option("--beams", metavar="N", min=1, help="Beam search: the likeliest answers as wholes.")
    ] = None
    length_penalty: Annotated[
        float, Option("--length-penalty", metavar="X", help="With --beams: above 0 favours long answers.")
    ] = 1.0
    early_stopping: Annotated[
        bool, Option("--early-stopping", help="With --beams: end when there are as many answers as beams.")
    ] = False
    contrastive: Annotated[
        float | None,
        Option("--contrastive", metavar="ALPHA", help="Contrastive search among the --top-k likeliest tokens (or 4)."),
    ] = None

    def check(self, samples: int, others: bool) -> None:
        """Raises UsageError for flags that contradict each other."""
        if self.beams is not None and self.contrastive is not None:
            raise UsageError("--beams and --contrastive exclude each other.", "Give one of them.")
        if self.asked and (others or (self.contrastive is not None and samples > 1)):
            raise UsageError("This search does not go with other ways to choose.", "Omit --samples and --best-of.")
        if self.beams is not None and samples > self.beams:
            raise UsageError(f"{self.beams} beams are not {samples} answers.", f"Give --beams {samples} or more.")

    @property
    def asked(self) -> bool:
        return self.beams is not None or self.contrastive is not None

    def answers(self, engine: "Engine", request: "Request", samples: int) -> "list[tuple[Answer, float | None]]":
        """The best `samples` answers to a request, with their scores where the search has some."""
        from minigpt.generate.beams import beam_search
        from minigpt.generate.contrastive import contrastive_search

        if self.beams is not None:
            return beam_search(engine, request, self.beams, self.length_penalty, self.early_stopping)[:samples]
        return [(contrastive_search(engine, request, request.sampling.top_k or 4, self.contrastive), None)]


def rows_of_logprobs(answer: "Answer", engine: "Engine") -> list[dict]:
    """An answer's tokens with their log-probabilities, for JSON."""

    def shown(token: int) -> str:
        return engine.tokenizer.show([token])

    return [
        {"token": shown(one.token), "id": one.token, "logprob": round(one.logprob, 6),
         "top": [{"token": shown(i), "id": i, "logprob": round(x, 6)} for i, x in one.alternatives]}
        for one in answer.logprobs
    ]  # fmt: skip


def _bias(given: str, engine: "Engine") -> tuple[int, float]:
    text, _, value = given.rpartition("=")
    try:
        bias = float(value)
    except ValueError:
        raise UsageError(f"--logit-bias {given} has no number.", "Write it as TOKEN=2 or TOKEN=-100.") from None
    vocabulary = engine.tokenizer.vocab_size
    ids = [int(text)] if text.isdecimal() and int(text) < vocabulary else engine.tokenizer.encode(text)
    if len(ids) != 1:
        message = f"{text!r} is {len(ids)} tokens, not one."
        raise UsageError(message, f"Give a token's number below {vocabulary:,} (minigpt tokenizer lists them).")
    return ids[0], bias


def _schema(given: str) -> dict | bool:
    path = Path(given)
    try:
        text = given if given.lstrip().startswith(("{", "true")) else path.read_text("utf-8")
    except OSError as error:
        raise UsageError(f"{given} cannot be read: {error.strerror}.", "Give a file, or the schema itself.") from None
    try:
        return json.loads(text)
    except ValueError as error:
        raise UsageError(f"The JSON schema is no JSON: {error}.", "Check its brackets and quotes.") from None
