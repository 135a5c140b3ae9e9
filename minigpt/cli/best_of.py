"""Several answers to each prompt, of which a reward model chooses: `minigpt generate --best-of N --reward RUN`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from typer import Option

from minigpt.cli import opening
from minigpt.errors import UsageError

if TYPE_CHECKING:
    from minigpt.generate.engine import Answer, Engine
    from minigpt.generate.sampling import Sampling
    from minigpt.generate.scorer import Scored, Scorer


@dataclass(frozen=True)
class Choosing:
    """Whether several answers are judged, and by whom."""

    title: ClassVar[str] = "The best of several"

    best_of: Annotated[
        int | None, Option("--best-of", metavar="N", min=2, help="Sample N answers per prompt, print the best one.")
    ] = None
    reward: Annotated[
        Path | None, Option("--reward", metavar="RUN", help="The run, or its stage, whose reward model judges them.")
    ] = None

    def check(self, sampling: "Sampling", samples: int, faster: bool) -> None:
        """Raises UsageError for flags that contradict each other."""
        if (self.best_of is None) != (self.reward is None):
            missing = "--reward RUN, the reward model that judges" if self.reward is None else "--best-of N"
            raise UsageError(f"The best of several answers needs {missing}.", "Give both --best-of N and --reward RUN.")
        if self.best_of is None:
            return
        if samples > 1 or faster:
            raise UsageError("--best-of goes with neither --samples nor --draft or --lookup.", "Omit those.")
        if sampling.temperature == 0:
            raise UsageError("At temperature 0 all answers are the same: there is nothing to choose.",
                             "Give --temperature, such as 0.8.")  # fmt: skip


def scorer_at(path: Path, engine: "Engine") -> "Scorer":
    """The reward model of a run or of one of its stages. Raises UsageError when it reads other tokens."""
    from minigpt.cli import console
    from minigpt.runs.loading import load_scorer

    run, stage = opening.open_at(path, None)
    scorer = load_scorer(run, stage, engine.model.backend)
    scorer.check(engine.tokenizer)
    console.note(f"Judge: {scorer.name}.")
    return scorer


def ranked(scored: Sequence["Scored"], answers: Sequence["Answer"], prompt: str) -> dict:
    """A prompt's best answer with its score, and all of them in the order in which they were sampled."""
    rows = [
        {"answer": answer.text, "score": round(one.score, 4), "tokens": len(answer.ids), "reason": answer.reason}
        | ({"steps": [round(step, 4) for step in one.steps]} if one.steps else {})
        for one, answer in zip(scored, answers, strict=True)
    ]
    best = max(range(len(rows)), key=lambda i: scored[i].score)
    return {"prompt": prompt, **rows[best], "all": rows}
