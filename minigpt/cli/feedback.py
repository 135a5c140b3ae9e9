"""`minigpt feedback`: preference pairs from a model's own answers, judged by rewards, principles or another model."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from typer import Option

from minigpt.cli import flags, opening
from minigpt.cli.command import command

if TYPE_CHECKING:
    from minigpt.feedback.judges import Judge
    from minigpt.generate.engine import Engine


@dataclass(frozen=True)
class Answers:
    """What is asked, and how often."""

    title: ClassVar[str] = "Prompts and answers"

    data: Annotated[
        list[str] | None,
        Option("--data", metavar="SOURCE", help="Rows with prompts, a text with one a line, or world. Repeatable."),
    ] = None
    count: Annotated[int | None, Option("--prompts", metavar="N", min=1, help="Only the first N prompts.")] = None
    answers: Annotated[int, Option("--answers", metavar="K", min=2, help="Answers to each prompt.")] = 4
    max_tokens: Annotated[int, Option("--max-tokens", metavar="N", min=1, help="Longest answer.")] = 64
    temperature: Annotated[float, Option("--temperature", metavar="T", min=0.01, help="Of sampling.")] = 1.0
    seed: Annotated[int, Option("--seed", metavar="N", min=0, help="The same seed gives the same answers.")] = 1


@dataclass(frozen=True)
class Judging:
    """Who judges."""

    title: ClassVar[str] = "Who judges"

    reward: Annotated[
        list[str] | None,
        Option("--reward", metavar="NAME", help="exact, length:80, …, FILE.py:NAME, or a reward model's run. "
               "Repeatable."),
    ] = None  # fmt: skip
    reward_weight: Annotated[
        list[float] | None,
        Option("--reward-weight", metavar="X", help="How much a reward counts, in the order of --reward."),
    ] = None
    principles: Annotated[
        Path | None,
        Option("--principles", metavar="FILE", help="A principle a line, with its rule in brackets where it has one."),
    ] = None
    judge: Annotated[
        str | None,
        Option("--judge", metavar="URL", help="An endpoint that speaks OpenAI's chat API, such as "
               "http://localhost:8080/v1. Its key is in OPENAI_API_KEY."),
    ] = None  # fmt: skip
    model: Annotated[str, Option("--model", metavar="NAME", help="The endpoint's model.")] = "default"
    timeout: Annotated[float, Option("--timeout", metavar="S", min=0.1, help="Seconds of one try.")] = 60.0
    retries: Annotated[int, Option("--retries", metavar="N", min=0, help="Further tries.")] = 2
    revise: Annotated[
        bool, Option("--revise", help="Let the judge (or the model itself) criticize and rewrite the best answer.")
    ] = False


Out = Annotated[Path, Option("--out", metavar="FILE", help="Where the pairs go.")]


@command(
    "minigpt feedback runs/demo --stage sft --data world --prompts 200 --reward length:60 --out pairs.jsonl",
    "minigpt feedback runs/demo --data questions.txt --principles rules.txt --judge http://localhost:8080/v1",
)
def feedback(
    chosen: flags.Chosen,
    answers: Answers,
    judging: Judging,
    where: flags.Where,
    out: Out = Path("pairs.jsonl"),
    json: flags.AsJson = False,
) -> None:
    """Preference pairs from a model's own answers.

    Each prompt is answered several times, the answers are judged, and the best and the worst become a row for
    `minigpt train dpo`. The same command again goes on where it stopped.
    """
    from minigpt.cli import console
    from minigpt.cli.reporter import Reporter
    from minigpt.data.forms import REQUESTS, WORLD
    from minigpt.feedback.gather import Wanted, gather, work_of
    from minigpt.feedback.prompts import prompts_of

    sources = answers.data or [WORLD]
    count = answers.count or (REQUESTS.count if WORLD in sources else None)
    prompts = prompts_of(sources, opening.RUNS / "downloads", answers.seed, count)
    check(judging)
    engine, stage = opening.engine_at(chosen.path, chosen.stage, where, flags.Faster())
    opening.tell_if_untaught(engine, stage)
    judge = judge_of(judging, engine, chosen.path)
    wanted = Wanted(answers.answers, answers.max_tokens, answers.temperature, answers.seed, judging.revise,
                    who_of(judging, stage))  # fmt: skip
    with Reporter() as report:
        found = gather(engine, judge, prompts, out, wanted, report)
    if json:
        console.print_json(vars(found) | {"prompts": len(prompts), "out": str(out)})
        return
    console.note(f"{found.pairs:,} pairs of {len(prompts):,} prompts in {out}; all that was said: {work_of(out)}")
    if found.even:
        console.note(f"{found.even:,} prompts gave no pair: their answers scored the same, or said the same.")
    if found.unjudged:
        console.note(f"{found.unjudged:,} prompts gave no pair: the judge answered with no list of scores.")
    console.note(f"Look at them:  minigpt data check {out}")


def check(judging: Judging) -> None:
    """Raises UsageError or DataError, before a model is loaded, for judges that do not exist."""
    from minigpt.feedback.judges import nobody
    from minigpt.feedback.principles import read_principles, rules_of
    from minigpt.generate.endpoint import check_endpoint
    from minigpt.train.rewards import make_rewards

    rules = rules_of(read_principles(judging.principles)) if judging.principles else []
    if judging.judge:
        check_endpoint(judging.judge)
    if judging.reward:
        make_rewards(judging.reward, judging.reward_weight or ())
    if not (rules or judging.judge or judging.reward):
        raise nobody()


def judge_of(judging: Judging, engine: "Engine", path: Path | None) -> "Judge":
    """Rewards, the rules of principles, and an endpoint, as they are asked for."""
    from minigpt.cli import console
    from minigpt.feedback.judges import Judge
    from minigpt.feedback.principles import read_principles, rules_of
    from minigpt.generate.endpoint import Endpoint
    from minigpt.train.rewards import make_rewards

    def scorer(run: str):
        from minigpt.cli.best_of import scorer_at

        found = scorer_at(Path(run) if run else path, engine)
        return lambda prompts, answers, rows: [
            one.score for one in found.scores([r["prompt_ids"] for r in rows], [r["answer_ids"] for r in rows])
        ]

    rewards = make_rewards(judging.reward, judging.reward_weight or (), scorer) if judging.reward else []
    told = {} if judging.principles is None else {"principles": read_principles(judging.principles)}
    if told:
        rewards += rules_of(told["principles"])
        left = sum(one.rule is None for one in told["principles"])
        if left and judging.judge is None:
            of = f"{left} of {len(told['principles'])} principles"
            console.note(f"{of} have no rule, and without --judge nobody looks at them.")
    endpoint = None
    if judging.judge:
        key = os.environ.get("OPENAI_API_KEY", "none")
        endpoint = Endpoint(judging.judge, judging.model, key, judging.timeout, judging.retries)
    return Judge(rewards, endpoint, **told)


def who_of(judging: Judging, stage: str) -> str:
    """Who answers and judges, in words that tell one call from another."""
    judges = [*(judging.reward or []), *map(str, judging.reward_weight or [])]
    judges += [str(judging.principles.read_text("utf-8"))] if judging.principles else []
    judges += [f"{judging.model} at {judging.judge}"] if judging.judge else []
    return f"{stage}, judged by {', '.join(judges)}"
