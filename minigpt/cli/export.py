"""`minigpt export`: a trained model for other tools."""

from pathlib import Path
from typing import Annotated

from typer import Option

from minigpt.cli import flags, opening
from minigpt.cli.command import command

To = Annotated[
    str,
    Option(
        "--to",
        metavar="FORMAT",
        help="hf (Hugging Face), mlx (mlx-lm) or gguf (llama.cpp, ollama); peft or mlx-adapter: an adapter alone.",
    ),
]
Out = Annotated[
    Path | None,
    Option("--out", metavar="PATH", help="A directory, or with gguf a .gguf file. Default: RUN/export/FORMAT."),
]
Dtype = Annotated[
    str,
    Option("--dtype", metavar="NAME", help="float32, float16, bfloat16; mlx also int8 and int4, gguf q8_0 and q4_0."),
]


@command("minigpt export runs/demo --to gguf --dtype q8_0 --out demo.gguf")
def export(
    chosen: flags.Chosen,
    where: flags.Where,
    to: To = "hf",
    dtype: Dtype = "float32",
    out: Out = None,
    verify: flags.Verify = True,
    json: flags.AsJson = False,
) -> None:
    """Write a trained model for other tools.

    For Hugging Face transformers, mlx-lm and llama.cpp; or a stage's adapter alone for peft and mlx-lm.
    What is written is loaded again by the tools that are installed and compared with the run; a difference is an
    error, and nothing is kept then.
    """
    from minigpt import library
    from minigpt.cli import console, tables, waiting

    opened, stage = opening.open_at(chosen.path, chosen.stage)
    framework = opening.backend_of(where.backend, where.device, quiet=True) if verify else "auto"
    with waiting.working("Writing it, and letting other tools read it" if verify else "Writing it"):
        exported = library.export_run(opened, to, stage=stage, out=out, dtype=dtype, verify=verify, backend=framework)
    if json:
        console.print_json(exported.as_dict())
    else:
        tables.show_export(exported)
