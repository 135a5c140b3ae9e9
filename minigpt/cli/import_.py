"""`minigpt import`: a run made from a model, or a stage from an adapter, of other tools."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from minigpt.cli import flags, opening
from minigpt.cli.command import command
from minigpt.errors import UsageError
from minigpt.runs.finding import RUNS

if TYPE_CHECKING:
    from backends.base import Backend

Source = Annotated[Path, Argument(metavar="DIR", help="A Hugging Face directory: config.json, safetensors, …")]
Run = Annotated[
    Path | None, Option("--run", metavar="DIR", help="The run to make. Default: runs/ and the directory's name.")
]
Stage = Annotated[
    str | None, Option("--stage", metavar="STAGE", help="The stage that an adapter becomes. Default: sft.")
]
Context = Annotated[
    int | None,
    Option("--context", metavar="N", min=2, help="Tokens per training row. Default: the model's, at most 2048."),
]


@command("minigpt import SmolLM2-135M-Instruct --run runs/smol")
def import_(
    where: flags.Where,
    source: Source,
    run: Run = None,
    context: Context = None,
    stage: Stage = None,
    verify: flags.Verify = True,
    json: flags.AsJson = False,
) -> None:
    """Make a run from a model of other tools.

    A Hugging Face directory with a llama, mistral, qwen2, qwen3 or gpt2; or an adapter, which becomes a stage.
    Its pretraining counts as finished: train sft, train dpo, evaluate, generate and chat go on from there. Where
    transformers is installed, it must compute the same. An adapter (of peft or mlx-lm) needs --run, the run whose
    model it belongs to, and becomes its stage sft, or --stage dpo.
    """
    from minigpt.cli import console, tables, waiting
    from minigpt.exchange.adapters.files import CONFIG
    from minigpt.exchange.importing import import_directory

    if (source / CONFIG).is_file():
        framework = opening.backend_of(where.backend, where.device, quiet=True) if verify else None
        _import_adapter(source, run, stage, framework, json)
        return
    out = run or RUNS / source.resolve().name
    framework = opening.backend_of(where.backend, where.device, quiet=True) if verify else None
    with waiting.working("Reading it, and comparing it with the original" if verify else "Reading it"):
        imported = import_directory(source, out, context, framework)
    if not imported.chat_template:
        console.note("The model brings no chat template: a plain one is used (User: and Assistant: lines).")
    if json:
        console.print_json(imported.as_dict())
    else:
        tables.show_import(imported)


def _import_adapter(
    source: Path, directory: Path | None, stage: str | None, framework: "Backend | None", json: bool
) -> None:
    from minigpt.cli import console, tables, waiting
    from minigpt.exchange.adapters.adapters import import_adapter
    from minigpt.stages.table import ADAPTING
    from minigpt.store.lock import locked

    if directory is None:
        message = f"{source} is an adapter, which needs the model that it was trained on."
        raise UsageError(message, "Name its run with --run RUN.")
    opened, _ = opening.open_at(directory, None)
    with locked(opened.directory), waiting.working("Reading the adapter"):
        imported = import_adapter(opened, source, stage or ADAPTING[0], framework)
    if json:
        console.print_json(imported.as_dict())
    else:
        tables.show_adapter(imported)
