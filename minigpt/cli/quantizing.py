"""The command that makes weights smaller: quantize."""

from minigpt.cli import common, flags


def quantize(
    run: flags.RunArgument = None,
    run_option: flags.RunOption = None,
    bits: flags.IntoBits = 8,
    group_size: flags.GroupSize = 0,
    method: flags.Method = "plain",
    stage: flags.StageOption = None,
    rows: flags.Rows = None,
    backend: flags.BackendName = "auto",
    device: flags.Device = "auto",
    json: flags.AsJson = False,
) -> None:
    """Store a trained model's weights in 4 or 8 bits.

    Shows the error of each layer and the held-out measures before and after. generate, chat and evaluate take the
    result with --bits.
    """
    from minigpt.cli import console, tables
    from minigpt.evaluate.report import before_and_after
    from minigpt.runs.quantized import quantize_stage
    from minigpt.stages.table import answers
    from minigpt.store.lock import locked

    opened, stage = common.open_at(common.either(run, run_option), stage)
    stage = opened.weights(stage)[1]  # complains before a framework is imported
    framework = common.backend_of(backend, device)
    with locked(opened.directory), console.Reporter() as report:
        made = quantize_stage(opened, stage, framework, bits, group_size, method, report)
    measured = before_and_after(opened, stage, framework, bits, rows)
    if json:
        console.print_json(made.as_dict() | {"measured": measured})
    else:
        tables.show_quantized(made, measured)
    if not measured:
        console.note(f"Measure it on data of yours:  minigpt evaluate {opened.directory} --bits {bits} --data FILE")
    use = "chat" if answers(stage) else "generate"
    console.note(f"Use it:  minigpt {use} {opened.directory} --stage {stage} --bits {bits}")
