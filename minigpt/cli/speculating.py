"""The flags --draft, --lookup and --draft-tokens: what they ask for, and what came of it."""

from dataclasses import replace
from typing import TYPE_CHECKING

from minigpt.cli import opening
from minigpt.cli.flags import Faster, Where
from minigpt.errors import UsageError

if TYPE_CHECKING:
    from minigpt.generate.engine import Engine
    from minigpt.generate.speculate import Speculation


def check_speculation(faster: Faster, answers: int = 1) -> None:
    """Raises UsageError when both sources of draft tokens are asked for, or one of them for several answers."""
    if faster.draft is not None and faster.lookup:
        raise UsageError("--draft and --lookup exclude each other.", "Give one of them.")
    if answers > 1 and (faster.draft is not None or faster.lookup):
        message = f"--draft and --lookup make one answer quicker; these are {answers}."
        raise UsageError(message, "Omit them: several answers are computed together.")


def speculation_of(engine: "Engine", faster: Faster) -> "Speculation | None":
    """What proposes draft tokens for `engine`; None when nothing is to."""
    from minigpt.cli import console
    from minigpt.generate import proposers

    if faster.draft is None and not faster.lookup:
        return None
    rounded = engine.model.dtype if engine.model.dtype != "float32" else "--kv-bits" if engine.kv_bits else None
    if rounded:
        console.note(f"With {rounded} a close call may end otherwise than it would without draft tokens.")
    return proposers.lookup(faster.draft_tokens) if faster.draft is None else _with_draft(engine, faster)


def _with_draft(engine: "Engine", faster: Faster) -> "Speculation":
    from minigpt.cli import console
    from minigpt.generate import proposers

    model = engine.model
    where = Where(model.backend.name, model.backend.device)
    draft, _ = opening.engine_at(faster.draft, None, where, replace(faster, bits=0, kv_bits=0), "Draft")
    found = proposers.drafting(engine, draft, faster.draft_tokens)
    seen, sees = model.config.context, draft.model.config.context
    if sees < seen:
        console.note(f"The draft sees {sees:,} tokens, the model {seen:,}: none are drafted after them.")
    return found


def tell_speculation(speculation: "Speculation | None") -> None:
    """Say how many draft tokens were accepted, and how quick that was."""
    from minigpt.cli import console

    if speculation is None or not speculation.passes:
        return
    s, share = speculation, speculation.accepted / max(speculation.drafted, 1)
    console.note(
        f"{s.accepted:,} of {s.drafted:,} draft tokens were accepted ({share:.0%}): "
        f"{s.tokens / s.passes:.1f} tokens per forward pass, {s.tokens / s.seconds:,.0f} tokens/s."
    )
