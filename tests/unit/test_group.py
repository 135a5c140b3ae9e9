"""Several processes: what their launchers say, what they send, who counts as lost, and what a group ended with."""

import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from backends.group import ALONE, Group, Launched, Several, buckets, launched
from minigpt.data.batches import normalized, split
from minigpt.errors import LOST, UsageError
from minigpt.runs import heartbeat
from minigpt.runs.group import check_launcher, check_same
from minigpt.runs.heartbeat import SILENT, STOPPED, UNSEEN, Beat, Heartbeat, Look, all_wait, judge, state_of
from minigpt.runs.supervise import ended_as
from minigpt.train.together import Together, check_rows


class Two(Several):
    """One of two processes, whose partner sends what the test says."""

    def __init__(self, rank, partner):
        self.rank, self.size, self.partner = rank, 2, partner

    def _gather(self, flat):
        other = self.partner.pop(0) if len(flat) != 8 else np.array([self.partner[0].size]).view(np.uint8)
        other = np.pad(other, (0, max(0, len(flat) - len(other))))
        return [flat, other] if self.rank == 0 else [other, flat]


def sent(value):
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


def test_what_launchers_say(tmp_path):
    torchrun = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "10.0.0.1"}
    assert launched(torchrun) == Launched(1, 4, "torch", "torchrun")
    hosts = tmp_path / "hosts.json"
    hosts.write_text('[["10.0.0.1:5000"], ["10.0.0.2:5000"], ["10.0.0.3:5000"]]', "utf-8")
    assert launched({"MLX_RANK": "2", "MLX_HOSTFILE": str(hosts)}) == Launched(2, 3, "mlx", "mlx.launch")
    hosts.write_text("", "utf-8")
    assert launched({"MLX_RANK": "0", "MLX_HOSTFILE": str(hosts)}).size == 1
    assert launched({"HOME": "/"}) is None


def test_the_wrong_launcher_is_named():
    with pytest.raises(UsageError, match="torchrun started this process, and the backend is mlx"):
        check_launcher(Launched(0, 2, "torch", "torchrun"), "mlx")


def test_buckets_keep_the_order_and_hold_no_more_than_allowed():
    arrays = [np.zeros(n) for n in (3, 4, 9, 1, 1)]
    assert [[len(x) for x in found] for found in buckets(arrays, 7)] == [[3, 4], [9], [1, 1]]
    assert buckets([], 7) == []
    mixed = [np.zeros(1, np.float32), np.zeros(1, np.float16), np.zeros(1, np.float16)]
    assert [len(found) for found in buckets(mixed, 7)] == [1, 2]


def test_alone_everything_is_as_it_is():
    x = np.arange(3.0)
    assert ALONE.sum([x])[0] is x and ALONE.share({"a": x})["a"] is x
    assert (ALONE.gather(5), ALONE.first(lambda: 6), ALONE.map(lambda i: i + 1, [1, 2])) == ([5], 6, [2, 3])


def test_values_travel_with_all_their_bits():
    array = np.array([[0.1, np.inf], [-0.0, 1e-300]])
    group = Two(0, [sent({"x": [1, None, "ü"]})])
    own, other = group.gather({"array": array, "number": 0.1})
    assert own["array"].tobytes() == array.tobytes() and own["array"].shape == (2, 2) and own["number"] == 0.1
    assert other == {"x": [1, None, "ü"]} and group.exchanges == 1 and not group.waiting


@pytest.mark.parametrize(("rank", "partner"), [(0, [1, 9]), (1, [0, 4, 16])])
def test_work_is_shared_out_and_comes_back_in_order(rank, partner):
    done = []
    found = Two(rank, [sent(partner)]).map(lambda i: done.append(i) or i * i, [0, 1, 2, 3, 4])
    assert found == [0, 1, 4, 9, 16] and done == [i for i in range(5) if i % 2 == rank]


def test_what_differs_is_named_with_its_rank():
    values = {"settings": {"pretrain": {"steps": 3, "batch_size": 4}}}
    theirs = {"host": "far", "values": {"settings.pretrain.steps": 5, "settings.pretrain.batch_size": 4}}
    with pytest.raises(UsageError, match=r"Rank 1 on far differs .*settings\.pretrain\.steps is 5, not 3"):
        check_same(Two(0, [sent(theirs)]), values)
    check_same(Two(0, [sent({"host": "far", "values": {"a": 1}})]), {"a": 1})
    with pytest.raises(UsageError, match="new is 1, not missing"):
        check_same(Two(0, [sent({"host": "far", "values": {"a": 1, "new": 1}})]), {"a": 1})


def test_rows_are_cut_so_that_their_weights_sum_to_one():
    class Backend:
        group = ALONE

    batch = normalized({"ids": np.arange(10).reshape(5, 2), "weights": np.arange(10.0).reshape(5, 2)})
    parts = []
    for rank in range(3):
        Backend.group = Group()
        Backend.group.rank, Backend.group.size = rank, 3
        parts.append(Together(Backend()).rows(batch))
    assert [len(part["ids"]) for part in parts] == [2, 2, 1]
    assert [float(Together(Backend()).rows(split(batch, 5)[i])["weights"].sum()) for i in (0, 4)] == [0.0, 0.0]
    assert np.concatenate([part["ids"] for part in parts]).tolist() == batch["ids"].tolist()
    assert sum(part["weights"].sum() for part in parts) == pytest.approx(1.0)
    with pytest.raises(UsageError, match="batch_size = 2 rows cannot be shared out between 3"):
        check_rows(2, "sft", 3)


def beat(number=1, **more):
    return Beat(pid=77, host="far", number=number, **more)


def looks(count, states, beats):
    """What is judged in the last of several looks; None where nothing is."""
    look = Look()
    return [judge(1, look, beats(i), states(i)) for i in range(count)][-1]


def test_who_counts_as_lost():
    silent, busy = (lambda i: beat()), (lambda i: beat(i + 1))
    far, here = (lambda i: None), (lambda i: "there")
    assert looks(SILENT, far, silent) is None and "no sign of life" in looks(SILENT + 1, far, silent).text
    assert looks(5 * SILENT, here, silent) is None, "a long computation is no death"
    assert looks(5 * SILENT, far, busy) is None
    assert "was killed" in looks(1, lambda i: "gone", silent).text
    stopped = looks(STOPPED, lambda i: "stopped", silent)
    assert looks(STOPPED - 1, lambda i: "stopped", silent) is None and stopped.pid == 77
    assert looks(60, lambda i: "there" if i % 5 == 0 else "stopped", silent) is None, "it went on again and again"
    assert looks(UNSEEN - 1, far, lambda i: None) is None
    assert "a disk that all machines share" in looks(UNSEEN, far, lambda i: None).text
    assert looks(1, far, lambda i: beat(ended=3, said="no rows")).code == 3
    assert looks(9, far, lambda i: beat(ended=0)) is None


def test_who_waits():
    waiting = beat(exchanges=4, waiting=True)
    assert all_wait([waiting, waiting]) == [4, 4]
    assert all_wait([waiting, beat(exchanges=3, waiting=True)]) == [4, 3]
    assert all_wait([waiting, beat(exchanges=4)]) == [] == all_wait([waiting, None])


class Exchanging:
    """A group that waits, `further` by an exchange each time that somebody looks."""

    waiting, sending = True, 0

    def __init__(self, exchanges, further=0):
        self.seen, self.further = exchanges, further

    @property
    def exchanges(self):
        self.seen += self.further
        return self.seen


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        (Exchanging(5), Exchanging(5), r"in exchange 5\.$"),
        (Exchanging(5), Exchanging(6), r"in exchange 5 and 6\. They have parted"),
        (Exchanging(5, further=1), Exchanging(5, further=1), None),
    ],
)
def test_all_that_wait_without_getting_further_are_stuck(first, second, told, tmp_path, monkeypatch):
    monkeypatch.setattr(heartbeat, "EVERY", 0.02)
    monkeypatch.setattr(heartbeat, "STUCK", 0.1)
    monkeypatch.setattr(Heartbeat, "_leave", lambda self, loss: None)
    hearts = [Heartbeat(tmp_path, Launched(rank, 2, "torch", "torchrun"), print) for rank in (0, 1)]
    for heart, group in zip(hearts, (first, second), strict=True):
        heart.group = group
    with hearts[0], hearts[1]:
        losses = [heart.reason(20 if told else 0.5) for heart in hearts]
    assert all(re.search(told, loss.text) if told else loss is None for loss in losses), losses


def becomes(pid, state):
    until = time.monotonic() + 20
    while state_of(pid) != state:
        assert time.monotonic() < until, state_of(pid)
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGSTOP")
def test_what_the_system_says_of_a_process():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        assert state_of(child.pid) == "there"
        child.send_signal(signal.SIGSTOP)
        becomes(child.pid, "stopped")
    finally:
        child.kill()
    becomes(child.pid, "gone")  # also one that nobody has waited for yet
    child.wait()
    assert state_of(child.pid) == "gone"


def test_what_a_group_ended_with():
    ended = {0: beat(ended=0), 1: beat(ended=0)}
    assert ended_as(ended, 2, 0) == 0
    assert ended_as({0: beat(ended=LOST), 1: beat(ended=3)}, 2, 1) == 3, "the one that had a reason"
    assert ended_as({}, 2, 2) == 2, "before they met"
    assert ended_as({0: beat(ended=143), 1: beat(ended=143)}, 2, 1) == 143, "asked to stop, all of them"
    assert ended_as({0: beat(ended=LOST), 1: beat()}, 2, -9) < 0
    assert ended_as({0: beat(ended=143), 1: beat()}, 2, 137) < 0
