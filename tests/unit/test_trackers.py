"""Event files for TensorBoard, read back by a reader written from the format's description; the hook for trackers."""

import struct

import pytest

from minigpt.errors import UsageError
from minigpt.events import Continued, Eval, Paused, StageFinished, StageStarted, Step, Usage
from minigpt.watch.tensorboard import TensorBoard, masked_crc
from minigpt.watch.trackers import Tracker, all_of, tracker
from minigpt.watch.usage import UsageJournal


def step(number, stage="pretrain", **changes):
    values = {"loss": 1 / number, "learning_rate": 0.5, "norm": 2.0, "tokens": 512, "seconds": 0.25} | changes
    return Step(stage, number, 10, **values)


def crc32c(data):
    """Bit by bit, as the polynomial says."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) & 0xFFFFFFFF


def fields(data):
    """(number, value) of each field of a protobuf message."""
    place = 0

    def varint():
        nonlocal place
        value = shift = 0
        while True:
            byte = data[place]
            place += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while place < len(data):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
            continue
        size = varint() if key & 7 == 2 else {1: 8, 5: 4}[key & 7]
        yield key >> 3, data[place : place + size]
        place += size


def events_in(path):
    """(step, {tag: value}) of each record, whose sums are checked."""
    data, place, found = path.read_bytes(), 0, []
    while place < len(data):
        (size,) = struct.unpack_from("<Q", data, place)
        assert struct.unpack_from("<I", data, place + 8)[0] == masked(data[place : place + 8])
        body = data[place + 12 : place + 12 + size]
        assert struct.unpack_from("<I", data, place + 12 + size)[0] == masked(body)
        event = dict(fields(body))
        values = [dict(fields(value)) for _, value in fields(event.get(5, b""))]
        found.append((event.get(2, 0), {v[1].decode(): struct.unpack("<f", v[2])[0] for v in values}))
        place += 16 + size
    return found


def test_the_checksum_is_that_of_the_standard():
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720's check value
    assert masked_crc(b"123456789") == masked(b"123456789") and masked_crc(b"") == masked(b"")


def test_event_files_hold_what_was_reported(tmp_path):
    report = TensorBoard(tmp_path)
    for number in (1, 2, 300):
        report(step(number, metrics={"accuracy": 0.75}))
    report(Eval("pretrain", 300, {"loss": 0.125}))
    report(Usage(0.5, None, 10**9, None, "full"))
    report(step(1, "sft", norm=1e300))
    report(StageFinished("pretrain", tmp_path, 1.0))
    report(StageFinished("sft", tmp_path, 1.0))
    (path,) = (tmp_path / "tensorboard" / "pretrain").iterdir()
    assert path.name.startswith("events.out.tfevents.")
    first, *found = events_in(path)
    assert first == (0, {})  # the version
    assert [number for number, _ in found] == [1, 2, 300, 300, 300]
    expected = {"loss": 0.5, "learning_rate": 0.5, "norm": 2.0, "accuracy": 0.75, "tokens_per_second": 2048.0}
    assert found[1][1] == {f"train/{name}": value for name, value in expected.items()}
    assert found[3][1] == {"validation/loss": 0.125}
    assert found[4][1] == {"machine/memory": 1e9, "machine/cpu": 0.5}
    (other,) = (tmp_path / "tensorboard" / "sft").iterdir()
    assert events_in(other)[1][1]["train/norm"] == float("inf")


class Fake:
    """A module that keeps what it is told, as wandb and trackio are called."""

    def __init__(self):
        self.logged, self.ended = [], False

    def init(self, **options):
        self.options = options
        return self

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self):
        self.ended = True


def test_a_tracker_gets_steps_that_only_grow(tmp_path):
    fake = Fake()
    report = Tracker(fake, tmp_path / "mine", {"seed": 1}, mode="offline")
    for event in (step(1), step(10), Eval("pretrain", 10, {"loss": 0.5}), step(1, "sft"), step(2, "sft")):
        all_of([report])(event)
    report.finish()
    assert fake.options == {"project": "minigpt", "name": "mine", "config": {"seed": 1}, "mode": "offline"}
    assert [number for number, _ in fake.logged] == [1, 10, 10, 11, 12] and fake.ended
    assert fake.logged[2][1] == {"pretrain/validation_loss": 0.5, "pretrain/step": 10}
    assert fake.logged[4][1]["sft/loss"] == 0.5 and fake.logged[4][1]["sft/step"] == 2


def test_a_tracker_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match="no tracker 'wandbb'.*wandb"):
        tracker("wandbb", tmp_path, {})


def test_usage_is_kept_with_pauses(tmp_path):
    from minigpt.watch.server import usage

    report = UsageJournal(tmp_path)
    report(StageStarted("pretrain", 10, 5, "torch", "cpu", "float32"))
    report(step(3))
    report(Usage(0.5, 0.6, 4000, None, "quiet"))
    report(Usage(0.9, 0.6, 9000, None, "quiet"))  # too soon
    report(Paused("pretrain", 3, "this machine is too hot", True))
    assert usage(tmp_path)["paused"] == "this machine is too hot"
    report(Continued("pretrain", 3, 12.0))
    found = usage(tmp_path)
    assert "paused" not in found and (found["memory"], found["step"], found["stage"]) == (4000, 3, "pretrain")
