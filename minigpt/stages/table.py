"""The table of stages, in the order of a run. A new kind of training is a file beside this one and a row here."""

from minigpt.data.examples import Example
from minigpt.errors import check_name
from minigpt.stages.distill import DISTILL
from minigpt.stages.dpo import DPO
from minigpt.stages.grpo import GRPO
from minigpt.stages.kto import KTO
from minigpt.stages.online_dpo import ONLINE_DPO
from minigpt.stages.ppo import PPO
from minigpt.stages.pretrain import PRETRAIN
from minigpt.stages.process_reward import PROCESS_REWARD
from minigpt.stages.reward import REWARD
from minigpt.stages.sft import SFT
from minigpt.stages.stage import Stage

STAGES: dict[str, Stage] = {
    stage.name: stage for stage in (PRETRAIN, SFT, DPO, KTO, DISTILL, REWARD, PROCESS_REWARD, ONLINE_DPO, GRPO, PPO)
}
USUAL = tuple(name for name, stage in STAGES.items() if not stage.optional)
FIRST = next(name for name, stage in STAGES.items() if not stage.starts_from)  # its weights may come from elsewhere
ADAPTING = tuple(name for name, stage in STAGES.items() if stage.adapts)


def stage_of(name: str) -> Stage:
    """The stage called `name`. Raises UsageError when there is none."""
    check_name("stage", name, tuple(STAGES))
    return STAGES[name]


def made_for(example: Example) -> str | None:
    """The first stage whose data is examples of this kind."""
    return next((name for name, stage in STAGES.items() if stage.form.kind is type(example)), None)


def answers(name: str) -> bool:
    """Whether a model after this stage knows how to answer a message; one that is no stage of ours may."""
    return name not in STAGES or STAGES[name].answers
