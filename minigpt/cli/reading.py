"""What the user types: lines that can be edited, with a history, on a terminal; plain lines from a pipe."""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.text import Text

from minigpt.cli import console


class Lines:
    """Messages, one after the other. A line that ends with a backslash, or with Alt+Enter, goes on in the next one.

    On a terminal Tab completes the `commands`, and the arrow keys and Ctrl-R find what was typed before, also in
    earlier conversations.
    """

    def __init__(self, prompt: str, commands: Sequence[str] = ()):
        self.prompt = prompt
        self.terminal = sys.stdin.isatty()
        self._session = _session(**_comforts(commands)) if self.terminal else None

    def next(self) -> str | None:
        """The next message; None at the end of the input. Ctrl-C drops what was typed."""
        parts: list[str] = []
        while True:
            try:
                line = self._line("...> " if parts else self.prompt)
            except KeyboardInterrupt:
                if not self.terminal:
                    raise
                console.note("(Ctrl-D or /exit ends the conversation.)")
                parts = []
                continue
            except EOFError:
                if self.terminal and self._session is None:
                    console.note("")  # the cursor stands after the prompt
                return "\n".join(parts) if parts else None
            if not line.endswith("\\"):
                return "\n".join([*parts, line])
            parts.append(line[:-1])

    def _line(self, prompt: str) -> str:
        if self._session is not None:
            return self._session.prompt(prompt)
        if self.terminal and not sys.stdout.isatty():  # stdout is for the answers
            console.err.print(Text(prompt), end="")
            prompt = ""
        return input(prompt if self.terminal else "")


def ask(question: str, paths: bool = False) -> str | None:
    """What is typed after a question on a terminal; None at the end of the input. With `paths` Tab completes names."""
    session, more = _session(), {}
    if session is not None and paths:
        from prompt_toolkit.completion import PathCompleter

        more = {"completer": PathCompleter(expanduser=True), "complete_while_typing": False}
    try:
        if session is not None:
            return session.prompt(question, **more)
        console.err.print(Text(question), end="")
        return input()
    except EOFError:
        console.note("")  # the cursor stands after the question
        return None


def _comforts(commands: Sequence[str]) -> dict[str, Any]:
    """Of the line editor: completion, a history that stays, and a key for a new line."""
    try:
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.history import FileHistory
        from prompt_toolkit.key_binding import KeyBindings
    except ImportError:
        return {}
    keys = KeyBindings()
    keys.add("escape", "enter")(lambda event: event.current_buffer.insert_text("\n"))
    found = {
        "completer": WordCompleter(list(commands), sentence=True), "complete_while_typing": False, "key_bindings": keys
    }  # fmt: skip
    place = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "minigpt" / "chat_history"
    with suppress(OSError):  # without a history where none can be kept
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch(0o600)  # for its owner's eyes
        found["history"] = FileHistory(str(place))
    return found


def _session(**more: Any) -> Any:
    """prompt_toolkit's line editor; None where it is not installed or the terminal is too plain for it.

    Then Python's own readline edits the line, where there is one.
    """
    if os.environ.get("TERM", "") in ("", "dumb"):
        return None
    try:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.output.defaults import create_output
    except ImportError:
        with suppress(ImportError):
            import readline  # noqa: F401 (input() uses it from then on)
        return None
    os.environ.setdefault("PROMPT_TOOLKIT_NO_CPR", "1")  # not every terminal answers where its cursor is
    return PromptSession(output=create_output(sys.stdout if sys.stdout.isatty() else sys.stderr), **more)
