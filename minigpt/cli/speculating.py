"""The flags --draft, --lookup and --guesses: what they ask for, and what came of it."""

from pathlib import Path
from typing import TYPE_CHECKING

from minigpt.cli import common
from minigpt.errors import UsageError

if TYPE_CHECKING:
    from minigpt.generate.engine import Engine
    from minigpt.generate.speculate import Speculation


def check_speculation(draft: Path | None, lookup: bool, answers: int = 1) -> None:
    """Raises UsageError when both ways of guessing are asked for, or one of them for several answers."""
    if draft is not None and lookup:
        raise UsageError("--draft and --lookup exclude each other.", "Give one of them.")
    if answers > 1 and (draft is not None or lookup):
        message = f"--draft and --lookup make one answer quicker; these are {answers}."
        raise UsageError(message, "Leave them out: several answers are computed together.")


def speculation_of(engine: "Engine", draft: Path | None, lookup: bool, guesses: int) -> "Speculation | None":
    """What guesses ahead for `engine`; None when nothing is to."""
    from minigpt.cli import console
    from minigpt.generate import proposers

    if draft is None and not lookup:
        return None
    rounded = engine.model.dtype if engine.model.dtype != "float32" else "--kv-bits" if engine.kv_bits else None
    if rounded:
        console.note(f"With {rounded} a close call may end otherwise than it would without guesses.")
    return proposers.lookup(guesses) if draft is None else _with_draft(engine, draft, guesses)


def _with_draft(engine: "Engine", path: Path, guesses: int) -> "Speculation":
    from minigpt.cli import console
    from minigpt.generate import proposers

    model = engine.model
    draft, _ = common.engine_at(path, None, model.backend.name, model.backend.device, role="Draft")
    found = proposers.drafting(engine, draft, guesses)
    seen, sees = model.config.context, draft.model.config.context
    if sees < seen:
        console.note(f"The draft sees {sees:,} tokens, the model {seen:,}: nothing is guessed beyond them.")
    return found


def tell_speculation(speculation: "Speculation | None") -> None:
    """Say how good the guesses were, and how quick that was."""
    from minigpt.cli import console

    if speculation is None or not speculation.passes:
        return
    s, share = speculation, speculation.accepted / max(speculation.guessed, 1)
    console.note(
        f"{s.accepted:,} of {s.guessed:,} guesses were right ({share:.0%}): "
        f"{s.tokens / s.passes:.1f} tokens per forward pass, {s.tokens / s.seconds:,.0f} tokens/s."
    )
