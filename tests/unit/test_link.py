"""What a ring of processes costs, against the formula by hand."""

import pytest

from minigpt.errors import UsageError
from minigpt.plan.link import PAYLOAD, Link, advice, parse_link, sent, shared, together


def test_the_ring_by_counting_turns():
    """Each of 2 (N-1) turns sends one of N parts."""
    for processes in (2, 3, 8):
        turns, part = 2 * (processes - 1), 600 / processes
        assert sent(600, processes) == pytest.approx(turns * part)
        assert Link(100.0, 0.5).ring(600, processes) == pytest.approx(turns * (part / 100 + 0.5))
    assert sent(600, 1) == 0 and Link(100.0).ring(600, 1) == 0


def test_the_speed_of_a_link():
    assert parse_link("1Gbit").rate == 125e6 * PAYLOAD
    assert parse_link("100 Mbit/s").rate == parse_link("0.1gbps").rate == 12.5e6 * PAYLOAD
    for wrong in ("fast", "0Gbit", "1", "-1Gbit"):
        with pytest.raises(UsageError, match="is not the speed of a link"):
            parse_link(wrong)


def test_a_step_of_several():
    link = Link(1e6, 0.0)
    both = shared(100, 1.0, 0.25, 5e5, link, 2)
    assert (both.computing, both.exchanging, both.traffic) == (0.75, 0.5, 5e5)
    assert both.efficiency == pytest.approx(1.25 / (2 * 1.25))
    grown = together(100, 1.0, 0.25, 5e5, link, 2)
    assert grown.tokens == 200 and grown.seconds == 1.75 and grown.efficiency == pytest.approx(1.25 / 1.75)
    rare = [make(100, 1.0, 0.25, 5e5, Link(1e6, 0.1), 2, 10) for make in (shared, together)]
    assert all(row.exchanging == pytest.approx((0.5 + 0.2) / 10) and row.traffic == 5e4 for row in rare)
    rows = [together(100, 1.0, 0.0, 1e6, Link(1e6, 0.1), count) for count in (1, 2, 4, 8)]
    assert [row.efficiency >= 0.5 for row in rows] == [True, False, False, False]
    assert "stops paying after 1 processes" in advice(rows) and "pays up to 1 processes" in advice(rows[:1])
