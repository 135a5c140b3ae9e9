"""The commands that hand a model to other tools, and take one from them: export and import."""

from pathlib import Path
from typing import TYPE_CHECKING

from minigpt.cli import common, flags
from minigpt.errors import UsageError, check_name

if TYPE_CHECKING:
    from backends.base import Backend


def export(
    run: flags.RunArgument = None,
    run_option: flags.RunOption = None,
    to: flags.ExportTo = "hf",
    stage: flags.StageOption = None,
    dtype: flags.ExportDtype = "float32",
    out: flags.ExportOut = None,
    verify: flags.Verify = True,
    backend: flags.BackendName = "auto",
    device: flags.Device = "auto",
    json: flags.AsJson = False,
) -> None:
    """Write a trained model for other tools.

    For Hugging Face transformers, mlx-lm and llama.cpp; or a stage's adapter alone for peft and mlx-lm.
    What is written is loaded again by the tools that are installed and compared with the run; a difference is an
    error, and nothing is kept then.
    """
    from minigpt.cli import console, tables
    from minigpt.exchange import exporting
    from minigpt.exchange.adapters import files as adapter_files
    from minigpt.exchange.adapters.adapters import export_adapter

    check_name("export target", to, (*exporting.TARGETS, *adapter_files.FORMATS))
    opened, stage = common.open_at(common.either(run, run_option), stage)
    write = export_adapter if to in adapter_files.FORMATS else exporting.export_run
    framework = common.backend_of(backend, device, quiet=True) if verify else None
    exported = write(opened, stage, to, out, dtype, framework)
    if json:
        console.print_json(exported.as_dict())
    else:
        tables.show_export(exported)


def import_(
    source: flags.Source,
    run: flags.NewRun = None,
    context: flags.Context = None,
    stage: flags.AdapterStage = None,
    verify: flags.Verify = True,
    backend: flags.BackendName = "auto",
    device: flags.Device = "auto",
    json: flags.AsJson = False,
) -> None:
    """Make a run from a model of other tools.

    A Hugging Face directory with a llama, mistral, qwen2, qwen3 or gpt2; or an adapter, which becomes a stage.
    Its pretraining counts as finished: train sft, train dpo, evaluate, generate and chat go on from there. Where
    transformers is installed, it must compute the same. An adapter (of peft or mlx-lm) needs --run, the run whose
    model it belongs to, and becomes its stage sft, or --stage dpo.
    """
    from minigpt.cli import console, tables
    from minigpt.exchange.adapters.files import CONFIG
    from minigpt.exchange.importing import import_directory

    if (source / CONFIG).is_file():
        _import_adapter(source, run, stage, common.backend_of(backend, device, quiet=True) if verify else None, json)
        return
    out = run or common.RUNS / source.resolve().name
    framework = common.backend_of(backend, device, quiet=True) if verify else None
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
    from minigpt.cli import console, tables
    from minigpt.exchange.adapters.adapters import import_adapter
    from minigpt.stages.table import ADAPTING
    from minigpt.store.lock import locked

    if directory is None:
        message = f"{source} is an adapter, which needs the model that it was trained on."
        raise UsageError(message, "Name its run with --run RUN.")
    opened, _ = common.open_at(directory, None)
    with locked(opened.directory):
        imported = import_adapter(opened, source, stage or ADAPTING[0], framework)
    if json:
        console.print_json(imported.as_dict())
    else:
        tables.show_adapter(imported)
