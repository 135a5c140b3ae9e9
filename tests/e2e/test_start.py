"""Before anything is computed: help, version, what is imported for them, and what goes to which stream."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from command import environment, finished, process

from minigpt import __version__
from minigpt.cli import app as cli


def commands(command, *path):
    """The path of every command and group of the app."""
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, *path, name)


COMMANDS = list(commands(typer.main.get_command(cli.app)))


def test_the_commands_are_those_of_the_design():
    assert {path[0] for path in COMMANDS if path} == {
        "demo", "run", "train", "generate", "chat", "evaluate", "tokenizer", "data", "parity", "doctor", "plan",
        "export", "import", "quantize", "config", "check", "sweep", "scaling", "watch", "report", "compare", "list",
        "show", "rm", "tidy", "inspect", "feedback", "serve", "errors", "diagnose", "judge", "probe", "harness",
    }  # fmt: skip
    assert {path for path in COMMANDS if len(path) == 2} == {
        ("tokenizer", "train"), ("tokenizer", "inspect"), ("data", "check"),
    }  # fmt: skip


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help(minigpt, path, flag):
    result = minigpt(*path, flag)
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(f"Usage: {' '.join(('minigpt', *path))}")
    assert max(map(len, result.out.splitlines())) <= 80
    assert "..." not in result.out.partition("Commands:")[2], "a command's first sentence is too long for the list"


def test_without_a_command_there_is_help(minigpt):
    result = minigpt()
    assert result.code == 2 and "Commands:" in result.out + result.err


def test_version(minigpt):
    result = minigpt("--version")
    assert (result.code, result.out, result.err) == (0, f"{__version__}\n", "")


def test_help_imports_nothing_heavy():
    code = "import sys; from minigpt.cli.app import main\ntry: main()\nfinally: print(*sys.modules, file=sys.stderr)"
    heavy = {"numpy", "torch", "mlx", "rich", "sentencepiece", "safetensors", "backends"}
    for arguments in (["--help"], ["run", "--help"], ["--version"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        loaded = {name.partition(".")[0] for name in done.stderr.split()}
        assert "typer" in loaded  # the list is the real one
        assert not loaded & heavy, loaded & heavy
        assert "pydantic" not in loaded or arguments != ["--help"]  # typer itself loads it to convert options


def test_the_module_is_the_same_command():
    command = [sys.executable, "-m", "minigpt", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{__version__}\n"


def test_a_run_tells_on_stderr_what_it_does_and_prints_nothing(trained):
    """The fixture asserts that stdout stayed empty."""
    told = (trained / "stderr").read_text("utf-8")
    for words in (
        "Settings (all of them, with the defaults, are saved in", "n_layer 1, n_head 2", "tokenizer: bpe, ",
        "pretrain: 1 document (", "sft: 57 conversations", " pairs (", "4 steps, torch on cpu",
        "sft: starts from the weights of pretrain", "dpo: starts from the weights of sft",
        "pretrain step 4  validation loss", "bits per byte", "dpo step 4/4  loss", "ETA 0 s",
        "Talk to it:  minigpt chat",
    ):  # fmt: skip
        assert words in told, words
    assert "\x1b" not in told and max(map(len, told.splitlines())) < 200


def test_no_escape_codes_in_a_pipe(trained, sources):
    result = finished(process("data", "check", sources.conversations, "--run", trained))
    assert result.code == 0 and "⟦It is 1.<|im_end|>⟧" in result.out
    assert "\x1b" not in result.out + result.err


def test_colours_on_a_terminal_and_none_under_no_color(trained, sources):
    arguments = ("data", "check", sources.conversations, "--run", trained)
    assert "\x1b[1;32m" in on_terminal(*arguments)
    plain = on_terminal(*arguments, NO_COLOR="1")
    assert "⟦It is 1.<|im_end|>⟧" in plain
    codes = {part for found in re.findall(r"\x1b\[([0-9;]*)m", plain) for part in found.split(";")}
    assert codes <= {"", "0", "1", "2"}  # bold and dim are no colours


def on_terminal(*arguments, **variables):
    """What the command shows on a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    variables = environment(TERM="xterm-256color", **variables)
    with process(*arguments, stdout=theirs, stderr=theirs, env=variables) as child:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 1 << 16):
                shown += part
        except OSError:  # Linux says so when the other side is closed
            pass
        assert child.wait(timeout=60) == 0, shown.decode()
    os.close(ours)
    return shown.decode()


def test_a_character_that_the_terminal_lacks_is_no_error(trained):
    result = finished(
        process("tokenizer", "inspect", "中", "--run", trained, env=environment(PYTHONIOENCODING="ascii"))
    )
    assert result.code == 0 and "1 characters" in result.out


@pytest.mark.parametrize("arguments", [("--help",), ("tokenizer", "inspect", "cat", "--json")])
def test_a_reader_that_goes_away_is_no_error(trained, arguments):
    """`minigpt … | head`: the pipe is closed before the first write."""
    reading, writing = os.pipe()
    os.close(reading)
    run = ["--run", trained] if len(arguments) > 1 else []
    result = finished(process(*arguments, *run, stdout=writing))
    os.close(writing)
    assert (result.code, result.err) == (0, "")


def test_a_reader_that_goes_away_from_a_table(trained, sources):
    reading, writing = os.pipe()
    os.close(reading)
    result = finished(process("data", "check", sources.text, "--run", trained, stdout=writing))
    os.close(writing)
    assert result.code == 0 and "Error" not in result.err and "Traceback" not in result.err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_behind_stdout(trained):
    with open("/dev/full", "wb") as full:
        result = finished(process("tokenizer", "inspect", "cat", "--run", trained, stdout=full))
    result.refused(4, "No space left")


@pytest.mark.parametrize(("stream", "name"), [(0, "stdin"), (1, "stdout"), (2, "stderr")])
def test_a_stream_that_the_caller_has_closed(trained, stream, name):
    """`minigpt … <&-` and its like, by a shell that closes the descriptor."""
    script = f'exec "$0" tokenizer inspect - --run "$1" {stream}{"<" if stream == 0 else ">"}&-'
    command = ["sh", "-c", script, str(Path(sys.executable).with_name("minigpt")), str(trained)]
    done = subprocess.run(command, input="cat", capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("characters" in done.stdout) == (name != "stdout")


def test_debug_shows_the_traceback(minigpt):
    from minigpt.errors import UsageError

    with pytest.raises(UsageError):
        minigpt("generate", "nowhere", "--debug")
    minigpt("generate", "nowhere").refused(2, "nowhere")


JSON = {
    "generate": lambda run, sources: ("generate", run, "-p", "A", "--max-tokens", 3),
    "evaluate": lambda run, sources: ("evaluate", run),
    "inspect": lambda run, sources: ("tokenizer", "inspect", "a 😀", "--run", run),
    "check": lambda run, sources: ("data", "check", sources.pairs, "--run", run),
}


@pytest.mark.parametrize("name", JSON)
def test_json_is_all_there_is_on_stdout(minigpt, trained, sources, name):
    result = minigpt(*JSON[name](trained, sources), "--json")
    assert result.code == 0 and json.loads(result.out)
