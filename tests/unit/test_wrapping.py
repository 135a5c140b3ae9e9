"""Lines that break at words while a text arrives in pieces."""

import random
import textwrap

import pytest
from rich.cells import cell_len

from minigpt.cli.wrapping import Wrapped


def wrapped(text, width, cuts=()):
    found = []
    write = Wrapped(found.append, width)
    edges = [0, *sorted(cuts), len(text)]
    for a, b in zip(edges, edges[1:], strict=False):
        write(text[a:b])
    write.end()
    return "".join(found)


@pytest.mark.parametrize("width", [10, 17, 40])
def test_words_with_single_spaces_break_as_textwrap_breaks_them(width):
    rng = random.Random(width)
    words = ["".join(rng.choices("abcdef", k=rng.randint(1, 9))) for _ in range(200)]
    assert wrapped(" ".join(words), width) == textwrap.fill(" ".join(words), width)


def test_pieces_make_no_difference():
    text = "Ann runs home,  fast.\n\n    indented\tline 小明回家了，很高兴。A very_long_word_that_does_not_fit!"
    whole = wrapped(text, 12)
    for seed in range(20):
        assert wrapped(text, 12, random.Random(seed).sample(range(len(text)), 9)) == whole


def test_wide_characters_take_two_columns_and_break_anywhere():
    text = "小明今天回家了很高兴" * 3
    lines = wrapped(text, 11).split("\n")
    assert "".join(lines) == text and [cell_len(line) for line in lines] == [10] * 6


def test_no_line_begins_with_a_closing_mark():
    assert wrapped("小明回家。小红来", 8) == "小明回\n家。小红\n来"


def test_lines_are_never_too_wide_and_nothing_is_lost():
    rng = random.Random(0)
    for _ in range(200):
        text = "".join(rng.choices("ab,。小明 \n", weights=[9, 9, 1, 1, 3, 3, 4, 1], k=80))
        for width in (4, 9, 30):
            found = wrapped(text, width)
            assert max(cell_len(line.rstrip()) for line in found.split("\n")) <= width
            assert found.replace("\n", "").replace(" ", "") == text.replace("\n", "").replace(" ", "")


def test_own_line_ends_and_short_texts_stay():
    text = "one\n\n  two three\n"
    assert wrapped(text, 80) == text
