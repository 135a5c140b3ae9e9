"""`minigpt train STAGE`: one stage of a run. Each stage is a command, so that its help is its own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import typer
from typer.core import TyperGroup

from minigpt.cli import flags, opening
from minigpt.cli.command import Command, command
from minigpt.cli.keys import Key, keys_of
from minigpt.cli.limits import limits_from
from minigpt.cli.planning import fitted
from minigpt.cli.session import supervised, training
from minigpt.errors import UsageError, check_name
from minigpt.runs.finding import RUNS


@dataclass(frozen=True)
class Often:
    """The settings of a stage that are given most often."""

    title: ClassVar[str] = "The stage's settings given most often"

    steps: Annotated[int | None, typer.Option("--steps", metavar="N", min=1, help="Updates of the weights.")] = None
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", metavar="N", min=1, help="Rows per step.")
    ] = None
    lr: Annotated[float | None, typer.Option("--lr", metavar="X", min=0, help="The highest learning rate.")] = None

    def section(self, stage: str, sets: Sequence[str]) -> dict[str, dict[str, Any]]:
        """{stage: its settings that are given}. Raises UsageError for one that --set gives as well."""
        found = {"steps": self.steps, "batch_size": self.batch_size, "learning_rate": self.lr}
        found = {name: value for name, value in found.items() if value is not None}
        for one in sets:
            name = one.partition("=")[0].strip().removeprefix(f"{stage}.")
            if name in found:
                flag = "--lr" if name == "learning_rate" else f"--{name.replace('_', '-')}"
                raise UsageError(f"{flag} {found[name]} and --set {one} are the same setting.", "Give one of them.")
        return {stage: found} if found else {}


@dataclass(frozen=True)
class Rewarded(Often):
    """Of a stage that learns from rewards for its own answers."""

    reward: Annotated[
        list[str] | None,
        typer.Option(
            "--reward", metavar="NAME", help="exact, length:80, …, FILE.py:NAME, or a reward model's run. Repeatable."
        ),
    ] = None
    reward_weight: Annotated[
        list[float] | None,
        typer.Option("--reward-weight", metavar="X", help="How much a reward counts, in the order of --reward."),
    ] = None

    def section(self, stage: str, sets: Sequence[str]) -> dict[str, dict[str, Any]]:
        found = super().section(stage, sets).get(stage, {})
        given = {"rewards": self.reward, "reward_weights": self.reward_weight}
        if self.reward and not self.reward_weight:
            given["reward_weights"] = []  # those of other rewards would not fit
        for name, value in given.items():
            if value and any(one.partition("=")[0].strip() == f"{stage}.{name}" for one in sets):
                flag = f"--{name.replace('_', '-').removesuffix('s')}"
                raise UsageError(f"{flag} and --set {stage}.{name} are the same setting.", "Give one of them.")
        found |= {name: value for name, value in given.items() if value is not None}
        return {stage: found} if found else {}


def trainer(stage: str) -> Callable:
    """The command that trains this stage."""
    from minigpt.stages.table import stage_of

    rewarded = "rewards" in stage_of(stage).config.model_fields
    given_often, example = (Rewarded, " --reward exact") if rewarded else (Often, "")

    @command(f"minigpt train {stage} --data FILE --run runs/mine{example}", f"minigpt train {stage} runs/mine")
    def train(
        context: typer.Context,
        sources: flags.Sources,
        often: given_often,
        given: flags.Settings,
        where: flags.Where,
        taking: flags.Taking,
        watched: flags.Watched,
        follow: flags.Follow,
    ) -> None:
        run, data = sources.placed(RUNS / "default")
        if supervised(context, run, watched, follow, where):
            return
        from minigpt.runs.conversations import keep_conversations
        from minigpt.runs.pipeline import run_pipeline

        extra = ({"skip_bad": True} if sources.skip_bad else {}) | ({stage: data} if data else {})
        limits = limits_from(taking)
        chosen = fitted(given, run, [stage], where, limits, taking)
        layers = {"data": extra} | chosen.steps
        for name, values in often.section(stage, given.sets or []).items():
            layers[name] = layers.get(name, {}) | values
        settings = opening.config_of(run, chosen.given, layers)
        session = training(run, settings, [stage], where, limits, chosen.time, follow)
        with session as (opened, framework, report, control):
            run_pipeline(opened, framework, report, [stage], control, sources.allow_changes)
            keep_conversations(opened, framework, report)

    return train


class Stages(TyperGroup):
    """A command per row of the table of stages, made when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        from minigpt.stages.table import STAGES

        return list(STAGES)

    def get_command(self, ctx: Any, name: str) -> Any:
        check_name("stage", name, self.list_commands(ctx))
        return _command_of(name)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The stage may stand anywhere among the flags."""
        known = self.list_commands(ctx)
        places = [i for i, word in enumerate(args) if word in known]
        places.sort(key=lambda i: i > 0 and args[i - 1].startswith("-"))  # one after a flag may be the flag's value
        helped = any(word in ctx.help_option_names for word in args)
        if not ctx.resilient_parsing and not helped and (not args or (not places and args[0].startswith("-"))):
            ctx.fail(f"Missing argument 'STAGE' ({', '.join(known)}).")
        if places:
            args = [args[places[0]], *args[: places[0]], *args[places[0] + 1 :]]
        return super().parse_args(ctx, args)


class StageCommand(Command):
    """Its help also lists the settings that only this stage's section has."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        super().format_options(ctx, formatter)
        if own := own_keys(self.name):
            with formatter.section(f"What only this stage has (all of its settings: minigpt config {self.name})"):
                rows = [(f"--set {self.name}.{key.name}={_shown(key.default)}", _about(key)) for key in own]
                formatter.write_dl(rows)


def own_keys(stage: str) -> list[Key]:
    """The keys of a stage's section beyond those that every stage has."""
    from minigpt.sections import StageConfig

    return [key for key in keys_of(stage) if key.name not in StageConfig.model_fields]


def _about(key: Key) -> str:
    return f"{key.meaning}  [{key.allowed}]" if key.meaning else f"[{key.allowed}]"


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _command_of(stage: str) -> Command:
    from minigpt.stages.table import STAGES

    about = STAGES[stage].summary
    function = trainer(stage)
    one = typer.Typer(rich_markup_mode=None, add_completion=False)
    texts = {"short_help": about.partition(". ")[0], "help": f"{about} {AGAIN}", "epilog": "\n".join(function.examples)}
    one.command(stage, cls=StageCommand, **texts)(function)
    return typer.main.get_command(one)


AGAIN = (
    "It starts from the model and the settings that the run already has. The same command again goes on where it "
    "stopped."
)
app = typer.Typer(
    name="train", cls=Stages, help="One stage of a run.", rich_markup_mode=None, add_completion=False,
    no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]},
    subcommand_metavar="STAGE [OPTIONS]",
)  # fmt: skip
app.callback()(lambda: None)
