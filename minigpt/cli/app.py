"""The command line: the app, its help, and what becomes of errors. Imports nothing heavy."""

import errno
import os
import shlex
import sys
from typing import Annotated, Any

import typer
import typer.core

from minigpt import __version__
from minigpt.cli import (
    command,
    config,
    data,
    export,
    generate,
    import_,
    plan,
    quantize,
    scaling,
    sweep,
    tokenizer,
    train,
)
from minigpt.cli.chat import chat
from minigpt.cli.check import check
from minigpt.cli.compare import compare
from minigpt.cli.demo import demo
from minigpt.cli.diagnose import diagnose
from minigpt.cli.doctor import doctor
from minigpt.cli.errors import errors
from minigpt.cli.evaluate import evaluate
from minigpt.cli.feedback import feedback
from minigpt.cli.harness import harness
from minigpt.cli.inspect import inspect
from minigpt.cli.judge import judge
from minigpt.cli.language import Language
from minigpt.cli.launching import OURS
from minigpt.cli.list import list_
from minigpt.cli.parity import parity
from minigpt.cli.probe import probe
from minigpt.cli.report import report
from minigpt.cli.rm import rm
from minigpt.cli.run import run
from minigpt.cli.serve import serve
from minigpt.cli.show import show
from minigpt.cli.tidy import tidy
from minigpt.cli.watch import watch
from minigpt.errors import INTERRUPTED, RESOURCES, RUNTIME, USAGE, Interrupted, MiniGPTError


def _group(name: str | None, text: str, completion: bool = False, **more: Any) -> typer.Typer:
    """A group of commands. Help is plain text: without rich it is there in a tenth of a second."""
    return typer.Typer(
        name=name,
        help=text,
        no_args_is_help=True,
        add_completion=completion,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        **more,
    )


class _InOrder(typer.core.TyperGroup):
    """Lists the commands as one meets them."""

    def list_commands(self, ctx: Any) -> list[str]:
        order = ("demo", "run", "train", "generate", "chat", "serve", "evaluate")
        return sorted(super().list_commands(ctx), key=lambda name: order.index(name) if name in order else len(order))


ABOUT = "Make a language model from nothing, on one laptop, and understand every step."
app = _group("minigpt", ABOUT, completion=True, cls=_InOrder)
command.add(app, demo)
command.add(app, run)
app.add_typer(train.app)
command.add(app, generate.generate)
command.add(app, chat)
command.add(app, serve)
command.add(app, evaluate)
command.add(app, feedback)
command.add(app, harness, others=True)
command.add(app, errors)
command.add(app, diagnose)
command.add(app, judge)
command.add(app, probe)
command.add(app, watch)
command.add(app, report)
command.add(app, compare)
command.add(app, inspect)
command.add(app, list_, "list")
command.add(app, show)
command.add(app, rm)
command.add(app, tidy)
command.add(app, parity)
command.add(app, doctor)
command.add(app, check)
command.add(app, plan.plan)
command.add(app, export.export)
command.add(app, import_.import_, "import")
command.add(app, quantize.quantize)
command.add(app, config.config)
command.add(app, sweep.sweep)
command.add(app, scaling.scaling)

tokenizer_app = _group("tokenizer", "Train a tokenizer, or look at what one does.")
command.add(tokenizer_app, tokenizer.tokenizer_train, "train")
command.add(tokenizer_app, tokenizer.tokenizer_inspect, "inspect")
app.add_typer(tokenizer_app)

data_app = _group("data", "Look at training data before using it.")
command.add(data_app, data.data_check, "check")
app.add_typer(data_app)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", "-V", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the full traceback of an error.")] = False,
    lang: Language = None,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit()
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(USAGE)


def main() -> None:
    """The `minigpt` command: runs the app and turns every error into one sentence and an exit code."""
    _in_utf8()
    _lenient_streams()
    if "_MINIGPT_COMPLETE" in os.environ:  # a shell asks how a line may go on
        app(prog_name="minigpt")
    debug = "--debug" in sys.argv
    arguments = _spelled([argument for argument in sys.argv[1:] if argument != "--debug"])
    usage_error = typer.BadParameter.__mro__[1]  # typer's own class for wrong flags, wherever this version keeps it
    try:
        if _alone(arguments):
            _menu(arguments)
            return
        # Not app(…): that would turn Ctrl-C and a closed pipe into exit codes without a word.
        with typer.main.get_command(app).make_context("minigpt", list(arguments), obj=arguments) as context:
            context.command.invoke(context)
        sys.stdout.flush()
    except typer.Exit as done:
        sys.exit(done.exit_code)
    except MiniGPTError as error:
        if debug:
            raise
        _complain(f"{error}{_again(arguments) if isinstance(error, Interrupted) else ''}")
        sys.exit(error.exit_code)
    except usage_error as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
        else:
            _complain(_usage(error))
        sys.exit(USAGE)
    except (KeyboardInterrupt, typer.Abort) as error:
        resumable = arguments[:1] in (["demo"], ["run"], ["train"])
        _complain(f"Interrupted.{f' What is finished is kept.{_again(arguments)}' if resumable else ''}")
        sys.exit(128 + getattr(error, "number", INTERRUPTED - 128))
    except BrokenPipeError:  # the reader of stdout has gone: `minigpt … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if debug:
            raise
        where = f" {error.filename}" if error.filename else ""
        _complain(f"Cannot read or write{where}: {error.strerror or error}. Check the path, its permissions, the disk.")
        sys.exit(RESOURCES if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM) else RUNTIME)
    except Exception as error:
        if debug:
            raise
        _complain(f"Unexpected {type(error).__name__}: {error}. Run again with --debug for the details.")
        sys.exit(RUNTIME)


def _alone(arguments: list[str]) -> bool:
    """Whether somebody sits at a terminal and named no command."""
    terminal = all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr))
    return terminal and (not arguments or (arguments[0] == "--lang" and len(arguments) == 2))


def _menu(arguments: list[str]) -> None:
    from minigpt.cli.language import language
    from minigpt.cli.menu import Menu

    Menu(language(arguments[-1] if arguments else None), language(None)).hold()


def _spelled(arguments: list[str]) -> list[str]:
    """`minigpt help train sft` is `minigpt train sft --help`, and `minigpt version` is `minigpt --version`.

    `--lang` may stand before the command, too.
    """
    if arguments[:1] == ["--lang"] and len(arguments) > 2:
        return [*_spelled(arguments[2:]), *arguments[:2]]
    if arguments[:1] == ["help"]:
        return [*arguments[1:], "--help"]
    return ["--version"] if arguments == ["version"] else arguments


def _in_utf8() -> None:
    """Start again in Python's UTF-8 mode where the locale has no characters beyond ASCII and that mode was turned off.

    Otherwise each argument, file name and line of output in another script would be mistaken for broken text.
    """
    if sys.getfilesystemencoding() in ("ascii", "us-ascii"):
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def _lenient_streams() -> None:
    """Bytes on stdin that are not UTF-8 become surrogates, which `opening.valid` finds; no character fails on output.

    A stream that the caller has closed reads nothing and writes nowhere.
    """
    for name, mode, settings in (
        ("stdin", "r", {"encoding": "utf-8", "errors": "surrogateescape"}),
        ("stdout", "w", {"errors": "backslashreplace"}),
        ("stderr", "w", {"errors": "backslashreplace"}),
    ):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (open as long as the process)
        elif hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(**settings)


def _usage(error: Any) -> str:
    """The sentence of a wrong flag or argument, and where the help for it is."""
    words = error.format_message().replace("Input should be", "it must be").rstrip(".")
    context = getattr(error, "ctx", None)
    where = context.command_path if context else "minigpt"
    if option := getattr(error, "option_name", ""):  # one that the command does not have
        from minigpt.cli.keys import known_as

        if settings := known_as(option):
            words = f"No such option: {option}. Did you mean {' or '.join(f'--set {key}=…' for key in settings)}"
            return f"{words}? See {where} --help."
    return f"{words}. See {where} --help."


def _again(arguments: list[str]) -> str:
    return f" Go on with: {shlex.join(['minigpt', *arguments])}"


def _complain(text: str) -> None:
    """The error's sentence; of several processes that fail alike before they met, the first on a machine says it."""
    rank = os.environ.get("RANK") or os.environ.get("MLX_RANK") or "0"
    if rank != "0" and not text.startswith("Rank "):
        if OURS in os.environ or os.environ.get("LOCAL_RANK", "0") != "0":
            return
        text = f"Rank {rank}: {text}"
    print(f"minigpt: {' '.join(text.split())}", file=sys.stderr)


if __name__ == "__main__":
    main()
