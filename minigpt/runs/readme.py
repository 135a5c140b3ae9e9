"""README.txt of a run directory: what each file there is, in words."""

from minigpt.stages.table import STAGES

HEAD = """\
This directory is a run of MiniGPT: a language model and all that it was made from.

  config.toml     every setting that it was made with (minigpt config explains them)
  env.json        the versions and the machine that made it
  log.txt         what was said while it was trained; usage.jsonl is what that took of the machine
  tokenizer/      how a text becomes numbers; a model can only be used with its own
  data/           the training data as such numbers, a part of it held out (validation)
  conversations.json  some held-out questions of these data, answered by the model of each stage
"""
STAGE = """
What is in the directory of a stage:

  final/          the weights that are used: those with the lowest loss on held-out data
  checkpoints/    weights and optimizer state, from which training goes on. Once a stage is finished they are
                  only needed to train it further: minigpt tidy deletes them
  metrics.jsonl   the loss of each step and each measurement (minigpt report draws them)
  samples.jsonl   how the model continued the same prompts while it learned
  evaluation/     what minigpt evaluate found on single rows
  plan.json       memory and time: planned and actual
"""
FOOT = """
Only what was made so far is there. The command that began the run goes on where it was, also after a power cut.

  minigpt show RUN        how far it is            minigpt chat RUN      talk to it
  minigpt report RUN      its curves               minigpt export RUN    for other programs
  minigpt evaluate RUN    how good it is           minigpt rm RUN        delete it
"""


def readme() -> str:
    """The text, with a line for each stage that MiniGPT knows."""
    stages = "".join(f"  {f'{name}/':<15} {stage.summary}\n" for name, stage in STAGES.items())
    return HEAD + stages + STAGE + FOOT
