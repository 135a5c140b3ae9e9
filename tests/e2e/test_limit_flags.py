"""The limits on the command line: what is refused, what is said, and memory that the kernel holds."""

import pytest
from command import call, finished, process, weights
from test_trust import pretraining


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--max-cpu", "0"], 2, "--max-cpu '0' is not a share of the machine. Give percent, such as --max-cpu 60."),
        (["--max-memory", "lots"], 2, "--max-memory 'lots' is not a size."),
        (["--max-memory", "4"], 2, "Write --max-memory 4GB or --max-memory 4%."),
        (["--power", "loud"], 2, "There is no power level 'loud'."),
        (["--max-memory", "900TB"], 2, "is not a part of this machine's memory of"),
        (["--max-memory", "150MB"], 4, "--max-memory allows 150 MB, and Python and mlx alone need"),
    ],
)
def test_what_cannot_be_is_refused(minigpt, sources, tmp_path, flags, code, words):
    minigpt(*pretraining(sources, tmp_path / "run"), *flags).refused(code, words)
    assert not list(tmp_path.glob("run/**/config.toml"))


def test_a_limited_run_says_so_and_gives_the_same_weights(sources, tmp_path):
    """In a process of its own: this one has what other tests left in it."""
    runs = tmp_path / "whole", tmp_path / "slow"
    assert call(*pretraining(sources, runs[0]), "--power", "full").code == 0
    result = finished(process(*pretraining(sources, runs[1]), "--max-cpu", "40", "--max-memory", "3GB"))
    assert result.code == 0 and "Limits: at most 40% of the CPU and at most 3.0 GB of memory.\n" in result.err
    assert weights(runs[0], "pretrain") == weights(runs[1], "pretrain")


def test_the_plan_of_a_limited_run_divides_its_steps(sources, tmp_path):
    """The memory that 1,024 rows at once would take is known before, so nothing has to die of it."""
    flags = pretraining(sources, tmp_path / "run", batch_size=1024, steps=1, eval_every=9)
    result = finished(process(*flags, "--max-memory", "900MB"))
    assert result.code == 0 and "restart" not in result.err, result.err
    assert "to fit the memory; the result stays the same." in result.err, result.err
