"""The parent of a training process: what it says of a death, and when it gives the next one less to do."""

import os
import signal
import sys

import pytest

from minigpt.errors import RUNTIME
from minigpt.runs import supervise as module
from minigpt.runs.supervise import LESS_MEMORY, SUPERVISED, may_be_memory, supervise

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals")


@pytest.mark.parametrize(("name", "counted", "maybe"), [
    ("SIGSEGV", 7, True), ("SIGKILL", 7, False), ("SIGKILL", None, True), ("SIGABRT", 7, False), ("SIGTERM", 7, False),
])  # fmt: skip
def test_who_dies_again_and_again_is_given_less_only_where_it_may_be_the_memory(
    tmp_path, monkeypatch, name, counted, maybe
):
    """`counted`: the kernel's own kills for want of memory, which stay as many; None where it does not count."""
    told, number = [], getattr(signal, name)
    monkeypatch.setattr(module, "system_memory_kills", lambda: counted)
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    note = f"open({str(tmp_path / 'why')!r}, 'a').write(os.environ[{SUPERVISED!r}] + '\\n')"
    child = f"import os; {note}; os.kill(os.getpid(), {int(number)})"
    code = supervise([sys.executable, "-c", child], tmp_path / "log.txt", 2, told.append)
    assert code == RUNTIME
    assert (tmp_path / "why").read_text().splitlines() == ["yes", "yes", LESS_MEMORY if maybe else "yes"]
    deaths = [text for text in told if name in text]
    assert len(deaths) == 3 and "in a row" not in deaths[0] and "That was number 3 in a row" in deaths[2]
    assert any("in case the memory ran out" in text for text in told) is maybe
    assert "last of 2 restarts" in told[-1]


def test_other_codes_are_no_sign_of_memory():
    assert not may_be_memory(4, False) and not may_be_memory(-signal.SIGTERM, False)
