"""The comparison of the model's options: its statistics, its table, and a slice of it."""

import argparse
import math

import pytest

from minigpt.config import load_config
from scripts import options


def test_an_interval_over_seeds_decides_what_a_difference_shows():
    """Three values with standard deviation 1: the half width is t(0.975, 2) / √3."""
    mean, half = options.interval([4.0, 5.0, 6.0])
    assert (mean, half) == (5.0, pytest.approx(4.303 / math.sqrt(3)))
    assert options.verdict([-0.02, -0.021, -0.019]) == "helps"
    assert options.verdict([0.02, 0.021, 0.019]) == "hurts"
    assert options.verdict([-0.05, 0.02, 0.01]) == options.verdict([-0.05]) == "noise"


def test_every_option_is_one_of_the_preset():
    for settings in options.OPTIONS.values():
        assert load_config("tiny", None, [], None, settings).model.n_layer


def test_an_option_is_set_last():
    sets = ["pretrain.dropout=0.3", "pretrain.weight_decay=0.2", "model.positions=none"]
    arguments = options.parser().parse_args(["--data", "a b.txt", "--set", *sets])
    found = [options.configured(arguments, options.OPTIONS[name], 7, 5) for name in ("dropout 0.1", "ALiBi")]
    assert [one.of("pretrain").dropout for one in found] == [0.1, 0.3]
    assert [one.model.positions for one in found] == ["none", "alibi"]
    assert found[0].of("pretrain").weight_decay == 0.2 and found[0].of("pretrain").steps == 5
    assert (found[0].seed, found[0].sources("pretrain").train) == (7, ["a b.txt"])


def test_a_slice_of_the_comparison(tmp_path, monkeypatch, capsys):
    """Trainings of two steps: the table has a row for each; the vocabulary is learned once for each seed, and the same
    call again trains nothing.
    """
    (tmp_path / "text.txt").write_text("The cat sat on the mat. " * 200)
    small = ["model.n_layer=1", "model.d_model=16", "model.n_head=2", "model.n_kv_head=2", "model.context=16",
             "tokenizer.kind=char", "pretrain.batch_size=2", "pretrain.eval_rows=2"]  # fmt: skip
    command = ["options.py", "--data", str(tmp_path / "text.txt"), "--steps", "2", "--seeds", "2", "--only", "ALiBi",
               "--set", *small, "--directory", str(tmp_path / "runs"), "--out", str(tmp_path / "table.md")]  # fmt: skip
    monkeypatch.setattr("sys.argv", command)
    options.main()
    for seed in (1, 2):
        metas = [run / "tokenizer" / "tokenizer_meta.json" for run in (tmp_path / "runs").glob(f"*/{seed}-*")]
        assert len({meta.stat().st_mtime_ns for meta in metas}) == 1 < len(metas)  # a copy keeps its original's time
    first = (tmp_path / "table.md").read_text()
    assert "| as it is |" in first and "| ALiBi |" in first and "2 steps, 2 seeds" in first
    monkeypatch.setattr(options, "run_pipeline", lambda *call: pytest.fail("trained again"))
    options.main()
    assert (tmp_path / "table.md").read_text() == first
    assert isinstance(options.parser(), argparse.ArgumentParser) and capsys.readouterr().out.count("ALiBi") == 2
