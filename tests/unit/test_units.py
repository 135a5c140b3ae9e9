"""Shares, sizes and times as people write them, and numbers as people say them."""

import pytest

from minigpt.errors import UsageError
from minigpt.units import duration, gigabytes, parse_memory, parse_share, parse_time, shortened

TOTAL = 16 * 10**9


@pytest.mark.parametrize(("text", "share"), [("60", 0.6), ("60%", 0.6), (" 12.5 % ", 0.125), ("100", 1.0), ("1", 0.01)])
def test_shares(text, share):
    assert parse_share(text, "--max-cpu") == pytest.approx(share)


@pytest.mark.parametrize("text", ["0", "101", "-5", "", "half", "60 GB", "nan", "1e2", "6O"])
def test_what_is_no_share_is_refused(text):
    with pytest.raises(UsageError, match="--max-cpu .* is not a share of the machine"):
        parse_share(text, "--max-cpu")


@pytest.mark.parametrize(
    ("text", "size"),
    [("70", 11_200_000_000), ("50%", 8_000_000_000), ("4GB", 4_000_000_000), ("4g", 4_000_000_000),
     ("1.5 GB", 1_500_000_000), ("512MB", 512_000_000), ("2GiB", 2 << 30), ("100%", TOTAL), ("900000KB", 900_000_000),
     ("4%", 640_000_000), ("33", 5_280_000_000)],
)  # fmt: skip
def test_sizes(text, size):
    assert parse_memory(text, TOTAL) == size


@pytest.mark.parametrize("text", ["0", "120%", "17GB", "0GB", "-1GB", "4 apples", "GB", "4PB", ""])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UsageError, match="--max-memory"):
        parse_memory(text, TOTAL)


@pytest.mark.parametrize("text", ["4", "0.5", "32", " 8 "])
def test_a_small_number_without_a_unit_is_asked_about(text):
    number = text.strip()
    with pytest.raises(UsageError) as caught:
        parse_memory(text, TOTAL)
    for spelling in (f"--max-memory {number}GB", f"--max-memory {number}%"):
        assert spelling in str(caught.value)
        parse_memory(spelling.split()[1], 100 * 10**9)  # what is proposed is understood


@pytest.mark.parametrize(
    ("text", "seconds"), [("20m", 1200), ("20", 1200), ("1h", 3600), ("1h30m", 5400), ("90s", 90), ("1.5 h", 5400)]
)
def test_times(text, seconds):
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "soon", "-5m", "5 days", "h", "1m1h"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(UsageError, match="--time .* is not a time"):
        parse_time(text)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")],
)
def test_durations(seconds, said):
    assert duration(seconds) == said


@pytest.mark.parametrize(("size", "said"), [(412e6, "412 MB"), (999_999_999, "1000 MB"), (3.24e9, "3.2 GB")])
def test_gigabytes(size, said):
    assert gigabytes(size) == said


@pytest.mark.parametrize(("most", "shown"), [(7, "seven …"), (9, "seven ei…"), (11, "seven eight")])
def test_a_text_is_shortened_to_so_many_characters(most, shown):
    assert shortened("seven eight", most) == shown and len(shown) <= most
