"""`minigpt harness`: the command of EleutherAI's harness, which then knows our runs as models."""

import sys

import typer

from minigpt.cli.command import command


@command("minigpt harness run --model minigpt --model_args run=runs/demo,stage=sft --tasks hellaswag --limit 100")
def harness(context: typer.Context) -> None:
    """Run lm_eval with our runs as models.

    All words after it are those of lm_eval's own command; --model minigpt takes --model_args run=RUN, and perhaps
    stage=STAGE, bits=8 and framework=torch.
    """
    from minigpt.evaluate.harness import register

    register()
    from lm_eval.__main__ import cli_evaluate

    sys.argv = ["lm_eval", *context.args]
    cli_evaluate()
