"""Pretraining: predict the next token of plain text."""

from minigpt.data.forms import TEXTS
from minigpt.sections import StageConfig
from minigpt.stages.language import measure_language, next_token
from minigpt.stages.stage import Stage

PRETRAIN = Stage(
    name="pretrain",
    summary="Learns a language by predicting the next token of plain text. Watch the loss fall.",
    taught="It continues texts; it was not taught to answer.",
    config=StageConfig,
    form=TEXTS,
    objective=next_token,
    measure=measure_language,
    answers=False,
    checked={"optimizer": "muon"},
    variations=("dropout",),
)
