"""Each deliberately wrong backend and loss must be caught, and the right ones must not be."""

import pytest

from minigpt.parity.controls import WRONG_LOSSES, broken, check_controls
from minigpt.parity.wrong_models import WRONG_MODELS, WRONG_TRAINING, check_models


def test_every_mistake_is_caught(backend):
    rows = check_controls(backend)
    assert len(rows) == len(broken(backend)) + len(WRONG_LOSSES) + len(WRONG_MODELS) + len(WRONG_TRAINING)
    assert [r for r in rows if not r.ok] == []
    assert all(r.difference > r.bound for r in rows)


def test_a_harmless_change_is_not_called_a_mistake(backend, monkeypatch):
    """check_controls can say no: a replacement that computes the right thing counts as not caught."""
    right = broken(backend)["rope offset dropped"]
    type(right).rope = staticmethod(backend.rope)
    monkeypatch.setattr("minigpt.parity.controls.broken", lambda _: {"nothing wrong": right})
    monkeypatch.setattr("minigpt.parity.controls.WRONG_LOSSES", {})
    row, *_ = check_controls(backend)
    assert not row.ok


def test_a_right_model_is_not_called_a_mistake(backend, monkeypatch):
    monkeypatch.setattr("minigpt.parity.wrong_models.WRONG_MODELS", {"nothing": ("YaRN", lambda model: None)})
    harmless = {"nothing": ("experts, top 1", lambda model: None)}
    monkeypatch.setattr("minigpt.parity.wrong_models.WRONG_TRAINING", harmless)
    assert [row.ok for row in check_models(backend)] == [False, False]


def test_the_backend_itself_stays_as_it_is(backend):
    before = vars(type(backend)).copy()
    wrong = broken(backend)
    assert vars(type(backend)) == before
    assert all(isinstance(w, type(backend)) and type(w) is not type(backend) for w in wrong.values())


@pytest.mark.parametrize("name", ["causal mask aligned upper left", "rope offset dropped", "loss mask shifted by one",
                                  "AdamW without bias correction", "causal mask inverted"])  # fmt: skip
def test_the_mistakes_that_everyone_makes_are_among_them(backend, name):
    assert name in {**broken(backend), **WRONG_LOSSES}
