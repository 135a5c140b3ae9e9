"""Token shards: what is written comes back through a memory map; a shard is there whole or not at all."""

import json
import tracemalloc

import numpy as np
import pytest

from minigpt.data.shards import Shard, ShardWriter
from minigpt.errors import DataError


def write(directory, examples, vocab_size=300, masked=True):
    with ShardWriter(directory, vocab_size, masked) as writer:
        for ids, mask in examples:
            writer.add(ids, mask)
    return Shard(directory)


def test_sequences_come_back(tmp_path):
    shard = write(tmp_path / "s", [([5, 6, 7], [0, 1, 1]), ([299], [1]), ([0, 0], [0, 0])])
    assert [x.tolist() for x in (shard.ids, shard.mask, shard.ends)] == [
        [5, 6, 7, 299, 0, 0], [0, 1, 1, 1, 0, 0], [3, 4, 6],
    ]  # fmt: skip
    assert len(shard) == 3
    assert [part.tolist() for part in shard.sequence(0)] == [[5, 6, 7], [0, 1, 1]]
    assert [part.tolist() for part in shard.sequence(2)] == [[0, 0], [0, 0]]
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_it_is_known_whether_an_id_is_there(tmp_path):
    shard = write(tmp_path / "s", [([5] * 20_000 + [6], [1] * 20_001), ([299], [1])])  # several blocks
    assert shard.holds(5) and shard.holds(6) and shard.holds(299)
    assert not shard.holds(7) and not shard.holds(1285)  # 0x0505


def test_a_sequence_may_be_written_in_parts(tmp_path):
    with ShardWriter(tmp_path / "s", 300, masked=False) as writer:
        writer.add([1, 2], ends=False)
        writer.add([3])
        writer.add([4, 5])
    shard = Shard(tmp_path / "s")
    assert (shard.ends.tolist(), shard.mask) == ([3, 5], None)
    assert shard.sequence(0)[0].tolist() == [1, 2, 3] and shard.sequence(0)[1] is None


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65536, "uint16"), (65537, "uint32")])
def test_ids_take_two_bytes_while_they_fit(tmp_path, vocab_size, dtype):
    shard = write(tmp_path / "s", [([vocab_size - 1, 0], [0, 1])], vocab_size)
    assert (shard.ids.dtype, shard.meta["dtype"]) == (dtype, dtype)
    assert shard.ids.tolist() == [vocab_size - 1, 0]


def test_an_id_that_does_not_fit_is_an_error_and_not_another_id(tmp_path):
    with pytest.raises(OverflowError), ShardWriter(tmp_path / "s", 300, masked=False) as writer:
        writer.add([70000])


def test_after_an_error_nothing_new_is_there_and_nothing_old_is_lost(tmp_path):
    write(tmp_path / "s", [([1, 2], [0, 1])])
    with pytest.raises(RuntimeError, match="a bad row"), ShardWriter(tmp_path / "s", 300, masked=False) as writer:
        writer.add([3])
        raise RuntimeError("a bad row")
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    assert Shard(tmp_path / "s").ids.tolist() == [1, 2]


def test_an_empty_shard_can_be_read(tmp_path):
    shard = write(tmp_path / "s", [])
    assert (len(shard), len(shard.ids), len(shard.mask)) == (0, 0, 0)


def test_nothing_is_read_before_it_is_used(tmp_path):
    """A shard of 200 MB (a file with a hole, so that the test is quick) opens in no memory."""
    count = 100_000_000
    write(tmp_path / "s", [([1, 2], None)], masked=False)
    with (tmp_path / "s" / "ids.bin").open("r+b") as file:
        file.truncate(2 * count)
    meta = json.loads((tmp_path / "s" / "meta.json").read_text("utf-8"))
    (tmp_path / "s" / "meta.json").write_text(json.dumps(meta | {"tokens": count, "sha256": {}}), "utf-8")
    tracemalloc.start()
    shard = Shard(tmp_path / "s")
    assert np.asarray(shard.ids[-5:], np.int32).tolist() == [0] * 5
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(shard.ids, np.memmap) and not shard.ids.flags.writeable
    assert peak < 100_000


@pytest.mark.parametrize("name", ["ids", "mask", "ends"])
def test_a_flipped_bit_is_named(tmp_path, name):
    """Also where it makes another id that exists."""
    write(tmp_path / "s", [([4, 8, 2], [0, 1, 1])])
    path = tmp_path / "s" / f"{name}.bin"
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    with pytest.raises(DataError, match=f"{name}.bin was changed after it was written"):
        Shard(tmp_path / "s")


def test_damaged_shards_are_named(tmp_path):
    for name, damage in {
        "ids.bin": lambda path: path.write_bytes(b"\0" * 3),
        "ends.bin": lambda path: path.unlink(),
        "mask.bin": lambda path: path.write_bytes(b""),
        "meta.json": lambda path: path.write_text("{"),
    }.items():
        directory = tmp_path / name
        write(directory, [([1, 2], [0, 1])])
        damage(directory / name)
        with pytest.raises(DataError, match=f"token shard .*{name} cannot be read.*run again"):
            Shard(directory)
    with pytest.raises(DataError, match="cannot be read"):
        Shard(tmp_path / "none")
