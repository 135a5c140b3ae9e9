"""`minigpt chat`: a conversation with a model."""

from dataclasses import dataclass
from typing import Annotated

from typer import Option

from minigpt.cli import flags, opening
from minigpt.cli.answering import Answering, fresh_seed
from minigpt.cli.command import command
from minigpt.cli.speculating import check_speculation, speculation_of, tell_speculation

System = Annotated[str | None, Option("--system", metavar="TEXT", help="A system message.")]


@dataclass(frozen=True)
class Sampling(flags.Sampling):
    """As generate has them, but by default a conversation takes the likeliest token."""

    temperature: Annotated[
        float, Option("--temperature", metavar="T", help="0 always takes the likeliest token.")
    ] = 0.0


@command("minigpt chat runs/demo", "minigpt chat runs/demo --temperature 0.7 --system 'Answer in one word.'")
def chat(
    chosen: flags.Chosen,
    sampling: Sampling,
    faster: flags.Faster,
    where: flags.Where,
    system: System = None,
) -> None:
    """Talk to a model.

    /help lists what else can be said: /system, /set, /retry, /save, /reset, /exit. Ctrl-C stops an answer, the end
    of the input (Ctrl-D) ends the conversation.
    """
    from minigpt.cli import console
    from minigpt.cli.conversation import Conversation

    settings, seeded = fresh_seed(sampling)
    check_speculation(faster)
    system = opening.valid(system, "--system") if system else None
    engine, stage = opening.engine_at(chosen.path, chosen.stage, where, faster)
    speculation = speculation_of(engine, faster)
    opening.tell_if_untaught(engine, stage)
    if seeded:
        console.note(f"Seed {settings.seed}: --seed {settings.seed} gives the same again.")
    console.note("/help lists the commands, /reset forgets the conversation, /exit ends it.")
    Conversation(Answering(engine, settings, sampling.max_tokens, speculation), system).hold()
    tell_speculation(speculation)
