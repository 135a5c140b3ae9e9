"""The trials of the small model that reads: what the binding score asks, and a slice of the command."""

import zlib

import numpy as np
import pytest

from minigpt.config import build_config, preset_values
from minigpt.data.world.tasks import held_out
from scripts import reading
from tests.unit.test_world import READERS, combinations_in


def test_one_of_a_probes_answers_follows_from_its_text():
    """The right one by a reader of its own; the others are about the same question, and wrong."""
    for probe in reading.probes(200):
        language = "en" if probe.prompt.isascii() else "zh"
        assert READERS[language](probe.prompt) == probe.answers[0], probe
        assert len(set(probe.answers)) == reading.FACTS
        assert any(held_out(combination) for _, combination in combinations_in(probe.prompt))


@pytest.mark.parametrize(("favoured", "score"), [(0, 1.0), (1, -0.5), (None, 0.0)])
def test_the_score_of_a_reader_of_the_opposite_and_of_a_guesser(monkeypatch, favoured, score):
    """1 where the right answer always wins, (0 - 1/3) / (2/3) where it never does, about 0 where chance decides."""
    asked = list(reading.probes(300))

    class Tokens:
        prompt = encode = staticmethod(lambda text: list(text.encode()))

    class Tell:
        tokenizer = Tokens()
        model = type("M", (), {"config": type("C", (), {"context": 256})})

    def likelihoods(engine, pairs):
        assert all(len(end) == 1 for _, end in pairs)  # the first token that differs, nothing after it
        values = np.array([zlib.crc32(bytes([*ids, *end])) for ids, end in pairs], float)
        if favoured is not None:
            values[favoured::2] = 2**32  # of the right answer and another one in turn
        return [type("L", (), {"logprob": value}) for value in values]

    monkeypatch.setattr(reading, "likelihoods", likelihoods)
    assert reading.binding(Tell(), asked, chat=False) == pytest.approx(score, abs=0.15 if favoured is None else 1e-9)


def test_every_row_is_a_configuration_of_the_preset():
    for settings in reading.ROWS.values():
        values = preset_values("tiny")
        for section, own in settings.items():
            values[section] = values.get(section, {}) | own
        assert build_config(values)


def test_a_slice_of_the_trials(tmp_path, monkeypatch, capsys):
    """Two small trainings of two steps: a row with each score; the same call again trains nothing."""
    small = ["model.n_layer=1", "model.d_model=16", "model.n_head=2", "model.n_kv_head=2", "model.head_dim=8",
             "data.world_texts=60", "data.world_lessons=20", "data.world_instructions=60",
             "tokenizer.vocab_size=400"]  # fmt: skip
    command = ["reading.py", "--only", "a quick SFT", "--seeds", "1", "--steps", "2", "--every", "1", "--probes", "4",
               "--questions", "30", "--set", *small, "--directory", str(tmp_path / "runs"), "--out",
               str(tmp_path / "table.md")]  # fmt: skip
    monkeypatch.setattr("sys.argv", command)
    reading.main()
    shown, table = capsys.readouterr().out, (tmp_path / "table.md").read_text()
    assert table.splitlines()[2].startswith("| a quick SFT | ") and table.splitlines()[2] in shown
    assert "a quick SFT, seed 1: sft step 2: binding" in shown
    monkeypatch.setattr(reading, "train_stage", lambda *call, **settings: pytest.fail("trained again"))
    reading.main()
    assert (tmp_path / "table.md").read_text() == table
