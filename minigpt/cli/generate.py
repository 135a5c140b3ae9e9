"""`minigpt generate`: a text continued, or a message answered; one, or as many as a file has."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from typer import Argument, Option

from minigpt.cli import flags, opening
from minigpt.cli.answering import Answering, fresh_seed, refuse_lengths, streamed
from minigpt.cli.best_of import Choosing, ranked, scorer_at
from minigpt.cli.command import command
from minigpt.cli.prompts import texts_of
from minigpt.cli.searching import Form, Penalties, Search, rows_of_logprobs
from minigpt.cli.speculating import check_speculation, speculation_of, tell_speculation

if TYPE_CHECKING:
    from minigpt.generate.engine import Engine
    from minigpt.generate.request import Answer, Request

BATCH = 32  # answers that are computed together: enough to share a pass's reading of the weights, few enough for memory


@dataclass(frozen=True)
class Prompting:
    """What is to be continued or answered, and how often."""

    title: ClassVar[str] = "Prompts"

    text: Annotated[str | None, Argument(metavar="TEXT", help="The same as --prompt.")] = None
    prompt: Annotated[
        str | None,
        Option(
            "--prompt", "-p", metavar="TEXT", help="The text to continue; - reads stdin, without its last line end."
        ),
    ] = None
    prompts: Annotated[Path | None, Option("--prompts", metavar="FILE", help="A file with one prompt per line.")] = None
    samples: Annotated[
        int, Option("--samples", metavar="N", min=1, help="Answers per prompt, with different seeds.")
    ] = 1
    chat: Annotated[bool, Option("--chat", help="Treat the prompt as a user's message.")] = False


@command(
    "minigpt generate runs/demo 'Ann has'",
    "minigpt generate runs/demo --chat -p 'What is 3 plus 4?' --temperature 0",
    "minigpt generate runs/demo --prompts questions.txt --chat --json > answers.json",
    "minigpt generate runs/demo --chat -p 'Can you help me?' --best-of 8 --reward runs/demo",
    "minigpt generate runs/demo --chat -p 'Is 7 even?' --choice yes --choice no",
    "minigpt generate runs/demo 'Ann has' --beams 4 --samples 4",
)
def generate(
    chosen: flags.Chosen,
    prompting: Prompting,
    sampling: flags.Sampling,
    penalties: Penalties,
    form: Form,
    search: Search,
    faster: flags.Faster,
    choosing: Choosing,
    where: flags.Where,
    json: flags.AsJson = False,
) -> None:
    """Continue a text, or answer one message with --chat.

    Text that is piped in is the prompt, too. Without any the text begins from nothing. With --best-of a reward model
    judges several answers (minigpt train reward makes one), and the best one is printed; --json has all.
    """
    from minigpt.cli import console
    from minigpt.generate.request import Request
    from minigpt.generate.sampling import with_seeds

    settings, seeded = fresh_seed(sampling)
    chat, samples = prompting.chat, prompting.samples
    choosing.check(settings, samples, faster.draft is not None or faster.lookup)
    search.check(samples, choosing.best_of is not None)
    texts = texts_of(prompting.text, prompting.prompt, prompting.prompts, chat)
    check_speculation(faster, len(texts) * samples)
    engine, stage = opening.engine_at(chosen.path, chosen.stage, where, faster)
    if chat:
        opening.tell_if_untaught(engine, stage)
    settings, speculation = penalties.added(settings, engine), speculation_of(engine, faster)
    ids = [_prompt_ids(engine, text, chat) for text in texts]
    refuse_lengths(ids, engine.model.config.context)
    if seeded and not search.asked:
        console.note(f"Seed {settings.seed}: --seed {settings.seed} gives the same again.")
    wishes = {"stops": tuple(form.stop or ()), "logprobs": form.logprobs, "constraint": form.constraint(engine)}
    requests = [Request(one, settings, sampling.max_tokens, **wishes, speculation=speculation) for one in ids]
    shown = ["" if chat else text for text in texts]
    if choosing.best_of is not None:
        _best(engine, choosing, texts, requests, json)
    elif search.asked:
        with console.json_list() if json else nullcontext(console.write) as write:
            for text, before, request in zip(texts, shown, requests, strict=True):
                for answer, score in search.answers(engine, request, samples):
                    row = _row(engine, text, answer) | ({} if score is None else {"score": round(score, 6)})
                    write(row if json else f"{before}{answer.text}\n\n")
    elif len(ids) == samples == 1:
        if json:
            console.print_json([_row(engine, texts[0], engine.written(requests[0]))])
        else:
            streamed(Answering(engine, settings, sampling.max_tokens, speculation), requests[0], shown[0])
        tell_speculation(speculation)
    else:
        jobs = [(n, one) for n in range(len(ids)) for one in with_seeds(settings, samples)]
        answers = _in_batches(engine, [replace(requests[n], sampling=one) for n, one in jobs])
        with console.json_list() if json else nullcontext(console.write) as write:
            for (n, _), answer in zip(jobs, answers, strict=True):
                write(_row(engine, texts[n], answer) if json else f"{shown[n]}{answer.text}\n\n")


def _best(
    engine: "Engine", choosing: Choosing, texts: list[str], requests: list["Request"], json: bool
) -> None:
    """For each prompt several answers, of which the best is printed."""
    from minigpt.cli import console
    from minigpt.generate.sampling import with_seeds

    scorer, count = scorer_at(choosing.reward, engine), choosing.best_of
    with console.json_list() if json else nullcontext(console.write) as write:
        for text, request in zip(texts, requests, strict=True):
            several = [replace(request, sampling=one) for one in with_seeds(request.sampling, count)]
            answers = list(_in_batches(engine, several))
            scores = scorer.scores([request.prompt] * count, [answer.tokens for answer in answers])
            found = ranked(scores, answers, text)
            write(found if json else f"{found['answer']}\n\n")
            if not json:
                lowest = min(row["score"] for row in found["all"])
                console.note(f"Score {found['score']:.2f}, the best of {count} (lowest {lowest:.2f}).")


def _in_batches(engine: "Engine", requests: list["Request"]) -> Iterator["Answer"]:
    """The answers in order, computed BATCH at a time, with a sign of how far it is."""
    from minigpt.cli import reporter

    with reporter.counting("Answers", len(requests)) as count:
        for start in range(0, len(requests), BATCH):
            with count(start):
                answers = engine.answers(requests[start : start + BATCH])
            yield from answers


def _row(engine: "Engine", prompt: str, answer: "Answer") -> dict:
    row = {"prompt": prompt, "answer": answer.text, "tokens": len(answer.ids), "reason": answer.reason}
    return row | ({"logprobs": rows_of_logprobs(answer, engine)} if answer.logprobs else {})


def _prompt_ids(engine: "Engine", text: str, chat: bool) -> list[int]:
    from minigpt.generate.engine import chat_prompt

    if chat:
        messages = [{"role": "user", "content": text}]
        return chat_prompt(engine.tokenizer, messages, engine.model.config.context, 0)[0]
    return engine.tokenizer.prompt(text)
