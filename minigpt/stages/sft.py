"""Supervised fine-tuning: predict the assistant's turns of conversations; everything else is context only."""

from minigpt.data.forms import CONVERSATIONS
from minigpt.sections import TuneConfig
from minigpt.stages.language import measure_language, next_token
from minigpt.stages.stage import Stage

SFT = Stage(
    name="sft",
    summary="Learns to answer from examples: only the assistant's turns count. Watch the loss on held-out answers.",
    taught="It was taught to answer by examples only, not by preferences.",
    config=TuneConfig,
    form=CONVERSATIONS,
    objective=next_token,
    measure=measure_language,
    starts_from=("pretrain",),
    # Finished models are changed gently: a rate usual for full fine-tuning of 0.1 to 8 B parameters.
    imported={"learning_rate": 2e-5, "batch_size": 8, "weight_decay": 0.0},
    variations=("LoRA", "DoRA"),
)
