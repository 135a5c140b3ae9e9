"""Event files that TensorBoard reads, without TensorBoard: TFRecords of protobuf messages, both written here.

Sources: tensorflow/core/util/event.proto, framework/summary.proto, lib/io/record_writer.cc (masked CRC-32C).
"""

import os
import socket
import struct
import time
from functools import cache
from pathlib import Path
from typing import BinaryIO

from minigpt.events import Eval, Event, StageFinished, Step, Usage

DIRECTORY = "tensorboard"


class TensorBoard:
    """A report that writes each step and each measurement to `RUN/tensorboard/STAGE/events.out.tfevents…`.

    A stage is a run of its own in TensorBoard. Tags are `train/loss`, `validation/loss`, `machine/memory`, …
    """

    def __init__(self, directory: Path):
        self.directory = directory / DIRECTORY
        self._files: dict[str, BinaryIO] = {}
        self._at = ("", 0)

    def __call__(self, event: Event) -> None:
        if isinstance(event, Step):
            self._at = event.stage, event.step
            values = {"loss": event.loss, "learning_rate": event.learning_rate, "norm": event.norm, **event.metrics}
            if event.seconds > 0:
                values["tokens_per_second"] = event.tokens / event.seconds
            self._write(event.stage, event.step, {f"train/{name}": value for name, value in values.items()})
        elif isinstance(event, Eval):
            self._write(event.stage, event.step, {f"validation/{name}": x for name, x in event.metrics.items()}, True)
        elif isinstance(event, Usage) and self._at[0]:
            self._write(*self._at, {"machine/memory": float(event.memory), "machine/cpu": event.cpu})
        elif isinstance(event, StageFinished) and event.stage in self._files:
            self._files.pop(event.stage).close()

    def _write(self, stage: str, step: int, values: dict[str, float], now: bool = False) -> None:
        file = self._files.get(stage) or self._open(stage)
        file.write(record(scalars(step, values)))
        if now:
            file.flush()

    def _open(self, stage: str) -> BinaryIO:
        place = self.directory / stage
        place.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        file = self._files[stage] = (place / name).open("ab")
        file.write(record(_double(1, time.time()) + _bytes(3, b"brain.Event:2")))
        return file


def scalars(step: int, values: dict[str, float]) -> bytes:
    """An Event message {wall_time = 1, step = 2, summary = 5 {value = 1 {tag = 1, simple_value = 2}}}."""
    summary = b"".join(_bytes(1, _bytes(1, tag.encode()) + b"\x15" + _float(value)) for tag, value in values.items())
    return _double(1, time.time()) + b"\x10" + _varint(step) + _bytes(5, summary)


def record(data: bytes) -> bytes:
    """A TFRecord: length (uint64), its masked CRC, the data, theirs."""
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc(length)) + data + struct.pack("<I", masked_crc(data))


def masked_crc(data: bytes) -> int:
    """CRC-32C (Castagnoli), rotated by 15 bits, plus a constant, as TFRecords have it."""
    crc, table = 0xFFFFFFFF, _table()
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@cache
def _table() -> tuple[int, ...]:
    found = []
    for number in range(256):
        for _ in range(8):
            number = number >> 1 ^ (0x82F63B78 if number & 1 else 0)
        found.append(number)
    return tuple(found)


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def _bytes(field: int, data: bytes) -> bytes:
    return bytes([field << 3 | 2]) + _varint(len(data)) + data


def _double(field: int, value: float) -> bytes:
    return bytes([field << 3 | 1]) + struct.pack("<d", value)


def _float(value: float) -> bytes:
    """A number beyond float32's range becomes infinite."""
    try:
        return struct.pack("<f", value)
    except OverflowError:
        return struct.pack("<f", float("inf") if value > 0 else float("-inf"))
