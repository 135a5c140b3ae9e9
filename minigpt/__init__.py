"""MiniGPT: make a language model from nothing, on one laptop, and understand every step.

    import minigpt

    for event in minigpt.training_events("pretrain", "runs/mine", data=["story.txt"], steps=200):
        print(event)
    print(minigpt.load_model("runs/mine").generate("Once upon a time"))

The names are those of `minigpt.library`; they are loaded when they are first used.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "STAGES", "Interrupted", "Model", "Run", "Sampling", "evaluate_run", "export_run", "load_model", "open_run",
    "train_stage", "training_events",
]  # fmt: skip

if TYPE_CHECKING:
    from minigpt.library import (
        STAGES,
        Interrupted,
        Model,
        Run,
        Sampling,
        evaluate_run,
        export_run,
        load_model,
        open_run,
        train_stage,
        training_events,
    )


def __getattr__(name: str) -> Any:
    if name in __all__:
        from minigpt import library

        return getattr(library, name)
    raise AttributeError(f"module 'minigpt' has no attribute {name!r}")
