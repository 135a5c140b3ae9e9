"""What the user types: lines that can be edited, with a history, on a terminal; plain lines from a pipe."""

import os
import sys
from contextlib import suppress
from typing import Any

from rich.text import Text

from minigpt.cli import console


class Lines:
    """Messages, one after the other. A line that ends with a backslash goes on in the next one."""

    def __init__(self, prompt: str):
        self.prompt = prompt
        self.terminal = sys.stdin.isatty()
        self._session = _session() if self.terminal else None

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


def _session() -> Any:
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
    return PromptSession(output=create_output(sys.stdout if sys.stdout.isatty() else sys.stderr))
