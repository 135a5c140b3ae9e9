"""The commands that hand a model to other tools, and take one from them: export and import."""

from minigpt import flags
from minigpt.commands import common
from minigpt.errors import check_name


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
    """Write a trained model for other tools: Hugging Face transformers, mlx-lm, llama.cpp; or a stage's adapter alone.

    What is written is loaded again by the tools that are installed and compared with the run; a difference is an
    error, and nothing is kept then.
    """
    from minigpt import console, tables
    from minigpt.exchange import adapter_files, exporting
    from minigpt.exchange.adapters import export_adapter

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
    verify: flags.Verify = True,
    backend: flags.BackendName = "auto",
    device: flags.Device = "auto",
    json: flags.AsJson = False,
) -> None:
    """Make a run from a Hugging Face model: llama, mistral, qwen2, qwen3 or gpt2.

    Its pretraining counts as finished: train sft, train dpo, evaluate, generate and chat go on from there. Where
    transformers is installed, it must compute the same.
    """
    from minigpt import console, tables
    from minigpt.exchange.importing import import_directory

    out = run or common.RUNS / source.resolve().name
    framework = common.backend_of(backend, device, quiet=True) if verify else None
    imported = import_directory(source, out, context, framework)
    if not imported.chat_template:
        console.note("The model brings no chat template: a plain one is used (User: and Assistant: lines).")
    if json:
        console.print_json(imported.as_dict())
    else:
        tables.show_import(imported)
