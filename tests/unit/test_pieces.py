"""Text while it is made, and beginnings that are known: against brute force on short random texts."""

import random

import numpy as np
import pytest

from backends.numpy.backend import create
from minigpt.generate.pieces import Pieces
from minigpt.generate.prefix import LEAST, Prefixes


def first_end(text, stops):
    """(place, stop) of the stop text that is complete first; of those that end together the longest."""
    for end in range(1, len(text) + 1):
        fitting = [stop for stop in stops if text[:end].endswith(stop)]
        if fitting:
            stop = max(fitting, key=len)
            return end - len(stop), stop
    return len(text), None


@pytest.mark.parametrize("seed", range(300))
def test_the_text_ends_at_the_first_stop_however_its_bytes_come(seed):
    draw = random.Random(seed)
    text = "".join(draw.choices("abé中", k=draw.randint(0, 12)))
    stops = ["".join(draw.choices("abé中", k=draw.randint(1, 4))) for _ in range(draw.randint(0, 3))]
    place, expected = first_end(text, stops)
    pieces, left, streamed, found = Pieces(stops), text.encode(), "", None
    while left and found is None:
        size = draw.randint(1, 4)
        piece, found = pieces.add(left[:size])
        streamed, left = streamed + piece, left[size:]
        assert text[:place].startswith(streamed)  # nothing of the stop text was given away
    if found is None:
        streamed += pieces.end()
    assert (streamed, found) == (text[:place], expected)


def test_what_cannot_become_a_stop_text_is_given_at_once():
    pieces = Pieces(["stop"])
    given = [pieces.add(part)[0] for part in (b"a st", b"art", b" sto", b"op", b"!")]
    assert given == ["a ", "start", " ", "stoop", "!"]


def keys_of(tokens):
    """What stands for the keys and values of tokens: numbers that depend on all tokens before."""
    return np.cumsum(np.array(tokens, np.float64) * np.arange(1, len(tokens) + 1)).reshape(1, 1, -1, 1)


@pytest.mark.parametrize("limit", [10**9, 2000, 400])
def test_the_longest_known_beginning_is_found_with_its_own_keys(limit):
    """Texts of two kinds of tokens, so that they part everywhere; in little memory only some of them stay."""
    draw, known, texts = random.Random(limit), Prefixes(create(), limit), []
    for _ in range(120):
        text = [draw.randint(1, 2) for _ in range(draw.randint(LEAST, 30))]
        if texts and draw.random() < 0.5:
            text = draw.choice(texts)[: draw.randint(1, 20)] + text
        pieces = known.use(known.find(text))
        length = sum(count for _, count in pieces)
        held = [piece[0][:, :, :count] for piece, count in pieces]
        assert (np.concatenate([np.zeros((1, 1, 0, 1)), *held], axis=2) == keys_of(text)[:, :, :length]).all()
        common = max((same_beginning(text, other) for other in texts), default=0)
        assert length <= common and (limit < 10**9 or length > common - LEAST)
        keys = keys_of(text)
        known.keep(text, lambda start, stop: [keys[:, :, start:stop]], 8)  # noqa: B023 - called at once
        texts.append(text)
        assert known.bytes <= limit
        assert known.bytes == 8 * sum(len(one.tokens) for one in known._all())
    assert 0 < known.hits < known.queries


def test_what_was_used_least_recently_is_forgotten_first():
    """Room for two texts of ten tokens; the first was asked for again before the third came."""
    known = Prefixes(create(), 160)
    texts = [[start + i for i in range(10)] for start in (100, 200, 300)]
    for text in texts:
        known.use(known.find(texts[0]))
        for other in texts[1:]:  # asking alone is no use
            known.find(other)
        known.keep(text, lambda start, stop: [np.zeros((1, 1, stop - start, 1))], 8)
    assert [known.find(text).length for text in texts] == [10, 0, 10]
    assert known.queries == 30 and known.hits == 20


def same_beginning(a, b):
    return next((n for n in range(min(len(a), len(b)), 0, -1) if a[:n] == b[:n]), 0)
