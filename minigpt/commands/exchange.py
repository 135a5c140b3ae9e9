"""The commands that hand a model to other tools, and take one from them: export."""

from minigpt import flags
from minigpt.commands import common


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
    """Write a trained model for other tools: Hugging Face transformers, mlx-lm, llama.cpp.

    What is written is loaded again by the tools that are installed and compared with the run; a difference is an
    error, and nothing is kept then.
    """
    from minigpt import console, tables
    from minigpt.exchange.exporting import export_run

    opened, stage = common.open_at(common.either(run, run_option), stage)
    framework = common.backend_of(backend, device, quiet=True) if verify else None
    exported = export_run(opened, stage, to, out, dtype, framework)
    if json:
        console.print_json(exported.as_dict())
    else:
        tables.show_export(exported)
