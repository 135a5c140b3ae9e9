"""Where the modules, signals and calls of Unix are missing: a short training, stop and resume. No real Windows."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import QUICK, environment, finished, process, tiny, weights

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there it needs no pretending")

ROOT = Path(__file__).resolve().parents[2]
PATH = f"{Path(__file__).with_name('windows')}:{ROOT}"


def pretending(*arguments):
    return process(*arguments, env=environment(PYTHONPATH=PATH))


def wait_for(ready, started, seconds=90.0):
    until = time.monotonic() + seconds
    while not ready() and started.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    assert ready(), finished(started).err


def test_it_pretends(tmp_path):
    """What is hidden is hidden from our modules, and from nobody else."""
    code = (
        "import sys, types; sys.path.insert(0, {!r})\n"
        "import os, fcntl\n"
        "ours = {{'__name__': 'minigpt.store.any'}}\n"
        "exec('import os, signal', ours)\n"
        "assert hasattr(os, 'getuid') and not hasattr(ours['os'], 'getuid') and ours['os'].getpid() == os.getpid()\n"
        "assert not hasattr(ours['signal'], 'SIGHUP') and ours['signal'].SIGBREAK\n"
        "try: exec('import fcntl', ours)\n"
        "except ImportError: print('hidden')\n"
    )
    found = subprocess.run([sys.executable, "-c", code.format(str(ROOT))], env=environment(PYTHONPATH=PATH),
                           capture_output=True, text=True)  # fmt: skip
    assert found.stdout == "hidden\n", found.stderr


def test_the_holder_of_a_lock_is_named_beside_it(tmp_path):
    """A locked file cannot be read there: who holds it stands in another one."""
    hold = (
        "import sys; from minigpt.store.lock import locked; from pathlib import Path\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); input()"
    )
    command, options = [sys.executable, "-c", hold, tmp_path], {"env": environment(PYTHONPATH=PATH), "text": True}
    first = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options)
    assert first.stdout.readline() == "held\n"
    assert (tmp_path / ".lock").read_bytes() == b"" and sorted(os.listdir(tmp_path)) == [".lock", ".lock.json"]
    second = subprocess.run(command, capture_output=True, **options)
    assert f"is in use: process {first.pid} on " in second.stderr
    first.communicate("\n")
    assert os.listdir(tmp_path) == []


def test_a_training_a_stop_and_a_resume(sources, tmp_path):
    """As a user would: a supervised run, Ctrl-C, the same command again; the weights of an undisturbed run."""
    shape = tiny(pretrain__steps=150, pretrain__save_every=10, pretrain__eval_every=50)

    def flags(run):
        return ("train", "pretrain", *shape, "--data", sources.text, "--backend", QUICK, "--run", run,
                "--max-cpu", "95", "--max-memory", "90%", "--power", "balanced")  # fmt: skip

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    first = pretending(*flags(parts))
    wait_for(lambda: list(parts.glob("pretrain/checkpoints/step-*/manifest.json")), first)
    holder = json.loads((parts / ".lock.json").read_text("utf-8"))
    first.send_signal(signal.SIGINT)
    assert holder["pid"] != first.pid
    stopped = finished(first)
    assert stopped.code == 130 and "Stopped during pretrain after step" in stopped.err, stopped.err
    assert not (parts / ".lock").exists() and not (parts / ".lock.json").exists()
    again = finished(pretending(*flags(parts)))
    assert again.code == 0 and "going on from step" in again.err and "Traceback" not in again.err, again.err
    undisturbed = finished(process(*flags(whole), "--no-supervise"))
    assert undisturbed.code == 0 and weights(whole, "pretrain") == weights(parts, "pretrain")


@pytest.mark.parametrize("command", [("doctor", "--json"), ("plan", *tiny(), "--backend", QUICK, "--json")])
def test_the_machine_is_described(tmp_path, command):
    found = finished(pretending(*command))
    assert found.code == 0, found.err
    told = json.loads(found.out)
    if command[0] == "doctor":
        assert told["machine"]["memory"] > 1e8 and told["machine"]["disk_free"] > 0
