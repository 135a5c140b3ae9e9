"""A conversation: messages, answers, and the commands that begin with a slash."""

import difflib
import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

from minigpt.cli import console
from minigpt.cli.answering import Answering, streamed
from minigpt.cli.opening import valid
from minigpt.cli.reading import Lines
from minigpt.errors import DataError, UsageError
from minigpt.generate.engine import chat_prompt

COMMANDS = {
    "/help": "this list",
    "/system TEXT": "a system message; alone it shows the one that is set",
    "/set NAME VALUE": "temperature, top_k, top_p, min_p, a penalty, seed or max_tokens; alone it shows them all",
    "/retry": "another answer to the last message",
    "/save FILE": "add the conversation to a .jsonl file, in the form that training reads",
    "/reset": "forget the conversation",
    "/exit": "end it, as Ctrl-D does",
}
RESERVE = 64  # tokens that stay free for the answer when old messages are dropped


class Conversation:
    """What was said so far with the model that `answering` has, and who goes on with it."""

    def __init__(self, answering: Answering, system: str | None):
        self.answering, self.system = answering, system
        self.messages: list[dict[str, str]] = []
        self.over = False

    def hold(self) -> None:
        """Take messages and answer them until the input or the user ends it."""
        lines = Lines("you> ", [command.split()[0] for command in COMMANDS])
        while not self.over and (text := lines.next()) is not None:
            if re.match(r"/[a-z]+(\s|$)", text):
                self._command(text)
            elif text.strip():
                try:
                    self._say(valid(text, "your message"))
                except DataError as error:
                    console.note(str(error))

    def _say(self, text: str) -> None:
        self.messages.append({"role": "user", "content": text})
        self._answer(self.answering)

    def _answer(self, answering: Answering) -> None:
        """Answer the last message; one that does not fit the context is taken back."""
        engine, context = answering.engine, answering.engine.model.config.context
        opening = [{"role": "system", "content": self.system}] if self.system else []
        reserve = min(answering.max_tokens, RESERVE)
        ids, dropped = chat_prompt(engine.tokenizer, opening + self.messages, context, reserve)
        if len(ids) >= context:
            console.note(f"That message has {len(ids)} tokens; the model sees {context}. Shorten it.")
            self.messages.pop()
            return
        if dropped:
            console.note(f"(The context is full: the oldest {dropped} messages are forgotten.)")
        said: list[str] = []
        try:
            content = streamed(answering, answering.request(ids), heard=said.append).text
        except KeyboardInterrupt:
            if not sys.stdin.isatty():  # nobody is there to go on
                raise
            console.note("(Stopped. Ctrl-D or /exit ends the conversation.)")
            content = "".join(said)
        self.messages.append({"role": "assistant", "content": content})

    # ---- commands

    def _command(self, text: str) -> None:
        name, _, rest = text.partition(" ")
        name = {"/quit": "/exit", "/bye": "/exit", "/clear": "/reset", "/regenerate": "/retry"}.get(name, name)
        known = [command.split()[0] for command in COMMANDS]
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"Did you mean {near[0]}?" if near else "/help lists what there is."
            console.note(f"There is no {name}. {hint}")
            return
        try:
            getattr(self, f"_{name[1:]}")(rest.strip())
        except UsageError as error:
            console.note(str(error))
        except OSError as error:
            console.note(f"{rest} cannot be written: {error.strerror}.")

    def _help(self, rest: str) -> None:
        for command, meaning in COMMANDS.items():
            console.note(f"  {command:<16} {meaning}")
        console.note("A line that ends with \\ or Alt+Enter goes on in the next one. Ctrl-C stops an answer.")

    def _system(self, rest: str) -> None:
        if rest:
            self.system = valid(rest, "/system")
        console.note(f"System message: {self.system or '(none)'}")

    def _set(self, rest: str) -> None:
        if rest:
            name, _, value = rest.replace("=", " ").partition(" ")
            self._change(name.strip().replace("-", "_"), value.strip())
        console.note(", ".join(f"{key} {value}" for key, value in self._settings.items()))

    def _change(self, name: str, value: str) -> None:
        name = {"temp": "temperature", "max_new_tokens": "max_tokens"}.get(name, name)
        known = self._settings
        if name not in known:
            raise UsageError(f"There is no setting {name!r}.", f"Choose one of {', '.join(known)}.")
        try:
            number = type(known[name])(value)
        except ValueError:
            raise UsageError(f"{name} cannot be {value!r}.", f"Write it as /set {name} {known[name]}.") from None
        if name == "max_tokens":
            if number < 1:
                raise UsageError(f"max_tokens cannot be {number}.", "It must be 1 or more.")
            self.answering = replace(self.answering, max_tokens=number)
        else:
            self.answering = replace(self.answering, sampling=replace(self.answering.sampling, **{name: number}))

    @property
    def _settings(self) -> dict[str, float]:
        """Those that are one number."""
        settings = {**vars(self.answering.sampling), "max_tokens": self.answering.max_tokens}
        return {name: value for name, value in settings.items() if isinstance(value, int | float)}

    def _retry(self, rest: str) -> None:
        if not self.messages:
            console.note("There is no message to answer again.")
            return
        sampling = self.answering.sampling
        if sampling.temperature == 0:
            console.note("At temperature 0 the answer is always the same; /set temperature 0.8 lets it differ.")
        self.answering = replace(self.answering, sampling=replace(sampling, seed=sampling.seed + 1))
        if self.messages[-1]["role"] == "assistant":
            self.messages.pop()
        self._answer(self.answering)

    def _save(self, rest: str) -> None:
        if not rest or not self.messages:
            raise UsageError(*(("Nothing was said yet.", "") if rest else ("/save needs a file.", "/save chats.jsonl")))
        path = Path(os.path.expanduser(rest))
        opening = [{"role": "system", "content": self.system}] if self.system else []
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"messages": opening + self.messages}, ensure_ascii=False) + "\n")
        console.note(f"Saved in {path}.")

    def _reset(self, rest: str) -> None:
        self.messages = []

    def _exit(self, rest: str) -> None:
        self.over = True
