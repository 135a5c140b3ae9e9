"""From prompts to preference pairs: answers are sampled, judged, perhaps revised, and the best and the worst are kept.

Beside the file of pairs stands a journal with everything (`work_of`). It is written prompt by prompt, so that what an
interruption or a failing judge leaves is where the same call goes on.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from minigpt.data.batches import stream
from minigpt.errors import MiniGPTError, UsageError
from minigpt.events import Note, Progress, Report, silent
from minigpt.feedback.judges import Judge, revised
from minigpt.generate.engine import Answer, Engine, chat_prompt
from minigpt.generate.sampling import GREEDY, Sampling
from minigpt.store.durable import write_whole
from minigpt.text.messages import Message

AT_ONCE = 8  # prompts that are answered together
RUBBISH = 5  # prompts in a row whose judge gives no scores, after which it is given up


@dataclass(frozen=True)
class Asked:
    """A prompt: its messages, and the row that it comes from."""

    messages: list[Message]
    row: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The last message, which the user wrote."""
        return self.messages[-1]["content"]


@dataclass(frozen=True)
class Wanted:
    """How answers are sampled and whether the best is revised. `who` says in words who answers and judges: what was
    begun with others does not go on.
    """

    answers: int = 4
    max_tokens: int = 64
    temperature: float = 1.0
    seed: int = 1
    revise: bool = False
    who: str = ""


@dataclass
class Gathered:
    """What came of the prompts."""

    pairs: int = 0
    even: int = 0  # all answers scored the same, or were the same
    unjudged: int = 0  # the judge gave no scores
    kept: int = 0  # prompts that an earlier call had done


def gather(
    engine: Engine, judge: Judge, prompts: Sequence[Asked], out: Path, wanted: Wanted, report: Report = silent
) -> Gathered:
    """Write preference rows `{"prompt", "chosen", "rejected"}` to `out`, going on where an earlier call stopped.

    Raises UsageError when that one had other settings or prompts, and MiniGPTError when a judge fails: what was done
    before stays.
    """
    journal = _Journal(out, wanted, prompts)
    for number in range(journal.done, len(prompts), AT_ONCE):
        group = prompts[number : number + AT_ONCE]
        for offset, (asked, answers) in enumerate(zip(group, _answered(engine, group, number, wanted), strict=True)):
            try:
                record = _judged(engine, judge, asked, answers, wanted)
            except MiniGPTError as error:
                done = f"{journal.done:,} of {len(prompts):,} prompts are done, and kept in {work_of(out)}"
                error.hint = f"{error.hint} {done}: the same command goes on from there.".strip()
                raise
            journal.add(record)
            if journal.rubbish >= RUBBISH:
                raise MiniGPTError(
                    f"The judge gave no scores for {RUBBISH} prompts in a row. It said nothing that is a list of "
                    f"{wanted.answers} numbers.", "Take a model that follows instructions. What is judged is kept.",
                )  # fmt: skip
            report(Progress("judging answers", number + offset + 1, len(prompts)))
    report(Progress("judging answers", len(prompts), len(prompts), finished=True))
    found = journal.counted()
    if found.kept:
        report(Note(f"{found.kept:,} of {len(prompts):,} prompts were done before ({work_of(out)})."))
    return found


def work_of(out: Path) -> Path:
    """The journal beside a file of pairs."""
    return out.with_name(f"{out.name}.work")


def pair_of(record: dict[str, Any]) -> dict[str, Any] | None:
    """The preference row of a prompt whose answers are judged: the best one against the worst; None where none is."""
    answers, scores = record["answers"], record["scores"]
    if scores is None:
        return None
    best, worst = (choose(range(len(scores)), key=scores.__getitem__) for choose in (max, min))
    if scores[best] <= scores[worst] or answers[best].strip() == answers[worst].strip():
        return None
    if not answers[best].strip() or not answers[worst].strip():
        return None  # rows of pairs have two texts
    return {"prompt": record["prompt"], "chosen": answers[best], "rejected": answers[worst]}


def _answered(engine: Engine, group: Sequence[Asked], first: int, wanted: Wanted) -> Iterator[list[Answer]]:
    """The answers to each prompt; a prompt is read once for all of its answers."""
    ids, samplings = [], []
    for number, asked in enumerate(group, first):
        prompt, _ = chat_prompt(engine.tokenizer, asked.messages, engine.model.config.context, wanted.max_tokens)
        seeds = stream(wanted.seed, "answers", number).integers(0, 2**62, wanted.answers)
        ids += [prompt] * wanted.answers
        samplings += [Sampling(wanted.temperature, seed=int(seed)) for seed in seeds]
    found = engine.answer_each(ids, samplings, wanted.max_tokens)
    for place in range(0, len(found), wanted.answers):
        yield found[place : place + wanted.answers]


def _judged(engine: Engine, judge: Judge, asked: Asked, sampled: list[Answer], wanted: Wanted) -> dict[str, Any]:
    """The journal's record of a prompt. A revised answer stands beside the sampled ones and is judged like them.

    A reward model reads the very tokens that were sampled, as in training: those of an answer that was cut off at
    `max_tokens` have no end.
    """
    answers, tokens = [one.text for one in sampled], [one.tokens for one in sampled]
    record: dict[str, Any] = {"prompt": asked.messages if len(asked.messages) > 1 else asked.text, "answers": answers}
    ids, _ = chat_prompt(engine.tokenizer, asked.messages, engine.model.config.context, wanted.max_tokens)

    def scores() -> list[float] | None:
        told = [asked.row | {"prompt_ids": ids, "answer_ids": one} for one in tokens]
        return judge.scores(asked.text, answers, told)

    record["scores"] = scores()
    if wanted.revise and record["scores"] is not None:
        best = answers[max(range(len(answers)), key=record["scores"].__getitem__)]
        own = _Own(engine, wanted.max_tokens)
        ask = own if judge.endpoint is None else judge.endpoint.ask
        record["critique"], better = revised(ask, judge.principles, asked.text, best)
        if better:
            answers.append(better)
            whole = [*engine.tokenizer.encode(better), engine.tokenizer.stops[0]]  # what an endpoint said has no tokens
            tokens.append(own.said if judge.endpoint is None else whole)
            record["scores"] = scores()
    return record


class _Own:
    """The model itself as the one who criticizes and revises; `said` are the tokens of its last answer."""

    def __init__(self, engine: Engine, most: int):
        self.engine, self.most = engine, most
        self.said: list[int] = []

    def __call__(self, messages: list[dict]) -> str:
        context = self.engine.model.config.context
        ids, _ = chat_prompt(self.engine.tokenizer, messages, context, self.most)
        if len(ids) + 1 >= context:
            return ""  # a small model's context holds no criticism of a long answer
        answer = self.engine.answer([ids], GREEDY, self.most)[0]
        self.said = answer.tokens
        return answer.text


class _Journal:
    """What is done: a line of settings, then a line for each prompt."""

    def __init__(self, out: Path, wanted: Wanted, prompts: Sequence[Asked]):
        self.out, self.path = out, work_of(out)
        self.records: list[dict[str, Any]] = []
        settings = asdict(wanted) | {"prompts": len(prompts), "first": prompts[0].text, "last": prompts[-1].text}
        if self.path.exists():
            self._take_up(settings)
        else:
            out.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, json.dumps(settings, ensure_ascii=False) + "\n")
        self.kept = len(self.records)
        pairs = [pair for record in self.records if (pair := pair_of(record))]
        write_whole(out, "".join(_line(pair) for pair in pairs))

    @property
    def done(self) -> int:
        return len(self.records)

    @property
    def rubbish(self) -> int:
        """Records without scores at the end."""
        last = [record["scores"] is None for record in self.records]
        return len(last) - 1 - max((i for i, one in enumerate(last) if not one), default=-1)

    def add(self, record: dict[str, Any]) -> None:
        self.records.append(record)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(record))
        if pair := pair_of(record):
            with self.out.open("a", encoding="utf-8") as file:
                file.write(_line(pair))

    def counted(self) -> Gathered:
        found = Gathered(kept=self.kept)
        for record in self.records:
            found.pairs += pair_of(record) is not None
            found.unjudged += record["scores"] is None
        found.even = len(self.records) - found.pairs - found.unjudged
        return found

    def _take_up(self, settings: dict[str, Any]) -> None:
        """Read what is there; a last line that an interruption cut is done again. Answers without scores are, too."""
        first, *lines = self.path.read_text("utf-8").splitlines() or [""]
        try:
            before = json.loads(first)
        except ValueError:
            before = {}
        changed = [f"{name}: {before.get(name)} -> {value}" for name, value in settings.items()
                   if before.get(name) != value]  # fmt: skip
        if changed:
            raise UsageError(f"{self.out} was begun with other settings ({'; '.join(changed)}).",
                             "Give the same ones, or another file with --out.")  # fmt: skip
        for line in lines:
            try:
                self.records.append(json.loads(line))
            except ValueError:
                break
        while self.records and self.records[-1]["scores"] is None:
            self.records.pop()
        write_whole(self.path, "".join(_line(row) for row in [before, *self.records]))


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
