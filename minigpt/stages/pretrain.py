"""Pretraining: predict the next token of plain text."""

from pydantic import Field

from minigpt.data.forms import TEXTS
from minigpt.sections import StageConfig
from minigpt.stages.language import measure_language, next_token
from minigpt.stages.stage import Stage


class PretrainConfig(StageConfig):
    """`start` goes on with another run's model: with a longer context, more options, or experts made of its layers."""

    start: str = Field("", description="RUN or RUN/STAGE whose weights and tokenizer it begins with; none: random ones")


PRETRAIN = Stage(
    name="pretrain",
    summary="Learns a language by predicting the next token of plain text. Watch the loss fall.",
    taught="It continues texts; it was not taught to answer.",
    config=PretrainConfig,
    form=TEXTS,
    objective=next_token,
    measure=measure_language,
    answers=False,
    checked={"optimizer": "muon"},
    variations=("dropout",),
)
