"""The menu: `minigpt` alone on a terminal. Each choice is a command, which is shown before it runs."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.cells import set_cell_size
from rich.text import Text

from minigpt import __version__
from minigpt.cli import console
from minigpt.cli.reading import ask
from minigpt.errors import DATA, INTERRUPTED, MiniGPTError
from minigpt.pages.texts import LANGUAGES, words
from minigpt.runs.finding import RUNS

TIME = "30m"  # what a training of own data may take, unless another time is given
LABEL = 50  # columns of a choice; its command stands after it
END = "q"
CHOICES = {  # key -> (word in the table of texts and name of the method, command)
    "1": ("doctor", "minigpt doctor"), "2": ("demo", "minigpt demo"), "3": ("own", "minigpt run FILE"),
    "4": ("chat", "minigpt chat"), "5": ("watch", "minigpt watch"), "6": ("report", "minigpt report --open"),
    "7": ("language", "minigpt --lang LANG"),
}  # fmt: skip
Run = Callable[[Sequence[str]], int]  # runs a minigpt command, returns its exit code


def run_command(arguments: Sequence[str]) -> int:
    """Run a command of minigpt in a process of its own. Ctrl-C ends that one, not the menu."""
    with subprocess.Popen([sys.executable, "-m", "minigpt", *arguments]) as child:
        while True:
            try:
                return child.wait()
            except KeyboardInterrupt:
                continue  # the child has got it, too, and saves what it has


class Menu:
    """What can be done, chosen by a number, until the user ends it.

    `given` is added to commands that speak: `--lang zh` where that is not the system's language.
    """

    def __init__(self, language: str, system: str, run: Run = run_command):
        self.system, self.run = system, run
        self._speak(language)

    def _speak(self, language: str) -> None:
        self.language, self.say = language, words(language, "menu")
        self.given = [] if language == self.system else ["--lang", language]

    def hold(self) -> None:
        """Show the choices and do them until the input or the user ends it."""
        while True:
            self._show()
            try:
                answer = ask(self.say["choice"])
            except KeyboardInterrupt:
                answer = None
            answer = END if answer is None else answer.strip().lower()
            if answer == END:
                return
            if answer in CHOICES:
                self._chosen(CHOICES[answer][0])
            elif answer:
                console.note(self.say["unknown"].format(keys=", ".join([*CHOICES, END])))

    def _chosen(self, word: str) -> None:
        try:
            getattr(self, f"_{word}")()
        except KeyboardInterrupt:  # while it asked something: back to the choices
            console.note("")
        except MiniGPTError as error:
            console.note(str(error))

    def _show(self) -> None:
        console.note("\n" + self.say["title"].format(version=__version__))
        console.note(_machine(self.say["machine"]) + "\n")
        for key, (word, command) in {**CHOICES, END: ("end", "")}.items():
            line = Text(f"  {key}  ", "bold").append(set_cell_size(self.say[word], LABEL), "not bold")
            console.err.print(line.append(command.replace("LANG", self._other()), "dim"))

    def _do(self, *arguments: str) -> int:
        """Show a command, and run it."""
        console.err.print(Text(f"\n{self.say['command']}  ").append(f"minigpt {shlex.join(arguments)}", "bold"))
        code = self.run(arguments)
        if code not in (0, INTERRUPTED):
            console.note(self.say["failed"].format(code=code))
        return code

    # ---- the choices

    def _doctor(self) -> None:
        self._do("doctor")

    def _chat(self) -> None:
        self._with_run("chat")

    def _watch(self) -> None:
        self._with_run("watch", *self.given)

    def _report(self) -> None:
        self._with_run("report", "--open", *self.given)

    def _language(self) -> None:
        self._speak(self._other())

    def _demo(self) -> None:
        self._do("demo", *self._live(), *self.given)

    def _live(self) -> list[str]:
        return ["--watch"] if self._agreed("live", True) else []

    def _with_run(self, command: str, *more: str) -> None:
        """A command about one of the runs: the only one, or the one that is named."""
        from minigpt.runs.finding import run_directories

        names = [path.name for path in run_directories(RUNS)]
        if not names:
            console.note(self.say["no_run"])
            return
        name = names[0]
        if len(names) > 1:
            name = self._answer("which", name, names=", ".join(names[:8]))
        self._do(command, str(RUNS / name), *more)

    def _own(self) -> None:
        """Files → data check → name and time → plan → training → how to talk to it."""
        files = self._files(self.say["files"])
        if not files:
            return
        code, bad = self._do("data", "check", *files), []
        if code == DATA and self._agreed("skip_bad", False):
            bad = ["--skip-bad"]
        elif code:
            return
        stages = _stages(files)
        if missing := _without_start(stages):
            console.note(self.say["needs_text"].format(stage=missing))
            files = [*(self._files(self.say["which_text"]) or ["world"]), *files]
            stages = _stages(files)
        run = self._name(Path(files[-1]).stem)
        time = self._answer("time", TIME)
        if self._do("plan", "--preset", "auto", "--time", time, "--stages", ",".join(stages)):
            return
        if not self._agreed("begin", True):
            console.note(self.say["not_begun"])
            return
        settings = ["--run", run, "--preset", "auto", "--time", time]
        if self._do("run", *files, *settings, *bad, *self._live(), *self.given) == 0:
            self._do("chat" if len(stages) > 1 else "generate", run)

    def _other(self) -> str:
        return next(language for language in LANGUAGES if language != self.language)

    # ---- questions

    def _answer(self, word: str, default: str, **values: str) -> str:
        """What is typed, or the default for Enter alone. The end of the input ends the choice."""
        typed = ask(self.say[word].format(**{word: default, "name": default} | values))
        if typed is None:
            raise KeyboardInterrupt
        return typed.strip() or default

    def _agreed(self, word: str, default: bool) -> bool:
        return self._answer(word, "y" if default else "n").lower() in ("y", "yes", "是")

    def _files(self, question: str) -> list[str]:
        """Files that are there; [] for Enter alone."""
        while True:
            typed = ask(question, paths=True)
            if typed is None:
                raise KeyboardInterrupt
            files = split_paths(typed)
            missing = [path for path in files if not Path(os.path.expanduser(path)).exists()]
            if not missing:
                return files
            console.note(self.say["missing"].format(path=", ".join(missing)))

    def _name(self, stem: str) -> str:
        """The directory of a new run."""
        number, free = 2, stem
        while (RUNS / free).exists():
            number, free = number + 1, f"{stem}-{number}"
        while True:
            path = RUNS / self._answer("name", free).removeprefix(f"{RUNS}/")
            if not path.exists():
                return str(path)
            console.note(self.say["taken"].format(path=path))


def split_paths(text: str) -> list[str]:
    """The paths of a line as shells split it; a path with blanks that exists, as a dragged file, is one."""
    whole = text.strip().strip("'\"")
    if not whole or Path(os.path.expanduser(whole)).exists():
        return [whole] if whole else []
    try:
        return shlex.split(text, posix=os.name != "nt")
    except ValueError:  # a quotation mark without its other half
        return text.split()


def _stages(files: Sequence[str]) -> list[str]:
    """The stages that the files would be trained in, in their order."""
    from minigpt.cli import waiting
    from minigpt.runs.placing import by_stage, placed
    from minigpt.stages.table import STAGES

    with waiting.working("Reading the data"):
        found = by_stage(placed([os.path.expanduser(file) for file in files], RUNS / "downloads"))
    return [stage for stage in STAGES if stage in found]


def _without_start(stages: Sequence[str]) -> str | None:
    """The first stage that starts from another one's weights, none of which are made before it."""
    from minigpt.stages.table import STAGES

    for number, stage in enumerate(stages):
        if STAGES[stage].starts_from and not set(STAGES[stage].starts_from) & set(stages[:number]):
            return stage
    return None


def _machine(text: str) -> str:
    from minigpt.machine.description import describe
    from minigpt.units import gigabytes

    found = describe()
    memory = gigabytes(found.usable_memory) if found.usable_memory else "?"
    return text.format(chip=found.chip or found.architecture, cores=found.cores or "?", memory=memory)
