"""The commands that hand a model to other tools, and take one from them: export."""

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
