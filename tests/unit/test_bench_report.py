"""The speed tables of the pages are what bench.py's JSON files say."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from comparisons import growth, report
from comparisons.duel import Contestant, Duel, fight

MACHINE = {"cpu": "a slow one", "cores": "2", "torch": "2.13", "mlx": "not installed"}
DUEL = {"work": "reading", "figure": "pages/s", "peer": "a friend", "ours": 12345.6, "theirs": 0.0123456,
        "ratios": [1.5, 0.5, 2.5]}  # fmt: skip
ALONE = {"work": "reading", "figure": "pauses", "peer": "", "ours": 3.0, "theirs": 0.0, "ratios": []}
CURVE = {
    "what": "Reading", "axis": "pages", "figures": {"seconds": {"exponents": [1.0, 2.0], "fit": 1.5}},
    "points": [{"x": 1, "seconds": 0.5}, {"x": 2, "seconds": 1.0}, {"x": 4000, "seconds": 4.0}],
}  # fmt: skip

PROFILE = {"what": "Reading", "rows": [["reading", 1.5, 0.75], ["the rest", 0.5, 0.25]], "ms": 2.0, "limit ms": 0.5,
           "distance": 4.0}  # fmt: skip


def files(directory, *contents):
    directory.mkdir()
    for i, (results, curves) in enumerate(contents):
        content = {"machine": MACHINE, "commit": f"c{i}", "results": results, "growth": curves}
        (directory / f"{i}.json").write_text(json.dumps(content), "utf-8")
    return directory


def test_tables_from_json(tmp_path):
    """Two files of one machine become one table; the median ratio and its spread are computed from the rounds."""
    made = report.section(["results", "growth"], files(tmp_path / "results", ([DUEL], []), ([ALONE], [CURVE])))
    assert made.splitlines()[1:] == [
        "cpu a slow one, cores 2, torch 2.13; measured at c0, c1.",
        "",
        "| work | figure | MiniGPT | peer | peer's | ratio | of the rounds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| reading | pages/s | 12,346 | a friend | 0.01235 | 1.50× | 0.50 – 2.50 (3) |",
        "| reading | pauses | 3 | – |  |  |  |",
        "",
        "**Reading**",
        "",
        "| pages | seconds | exponent |",
        "| --- | --- | --- |",
        "| 1 | 0.5 |  |",
        "| 2 | 1 | 1.00 |",
        "| 4,000 | 4 | 2.00 |",
        "| upper half |  | **1.50** |",
        report.END,
    ]


def test_other_machines_and_versions_have_tables_of_their_own_and_missing_packages_do_not():
    others = [{"mlx": "0.3"}, {"torch": "2.14"}, {"cpu": "a fast one"}]
    machines = [MACHINE, *(MACHINE | other for other in others), MACHINE]
    found = report.by_machine([{"machine": one, "commit": f"c{i}"} for i, one in enumerate(machines)])
    assert {name: here["commit"] for name, here in found.items()} == {
        "cpu a slow one, cores 2, torch 2.13, mlx 0.3": ["c0", "c1", "c4"],
        "cpu a slow one, cores 2, torch 2.14": ["c2"],
        "cpu a fast one, cores 2, torch 2.13": ["c3"],
    }


def test_a_profile_has_its_limit(tmp_path):
    made = report.markdown(["profiles"], [{"machine": MACHINE, "commit": "c", "profiles": [PROFILE]}])
    assert made.splitlines()[-4:] == [
        "| reading | 1.50 | 75% |",
        "| the rest | 0.50 | 25% |",
        "| the whole step | 2.00 | 100% |",
        "| the limit of this machine (the step takes 4.0 times as long) | 0.50 |  |",
    ]


def test_only_what_is_between_the_comments_is_written(tmp_path):
    pages = {name: tmp_path / name for name in report.PAGES}
    for page in pages.values():
        page.parent.mkdir(parents=True)
        page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n", "utf-8")
    results = files(tmp_path / "results", ([DUEL], [CURVE]))
    for _ in range(2):
        report.write_pages(tmp_path, results)
        for name, page in pages.items():
            made = report.section(report.PAGES[name], results)
            assert page.read_text("utf-8") == f"before\n{made}\nafter\n" and "c0" in made


def test_the_pages_have_the_committed_figures():
    """Nobody edits them by hand: `python scripts/bench.py --readme` writes them."""
    for page, kinds in report.PAGES.items():
        assert report.section(kinds) in (report.ROOT / page).read_text("utf-8"), page


@pytest.mark.parametrize("power", [0, 1, 2])
def test_a_power_is_its_exponent(power):
    found = growth.exponents([(x, 3.0 * x**power) for x in (1, 2, 8, 16, 64)])
    assert found["exponents"] == pytest.approx([power] * 4) and found["fit"] == pytest.approx(power)


def test_a_quadratic_end_is_seen_in_the_fit_of_the_upper_half():
    """A cost that begins as a constant and becomes quadratic."""
    assert growth.exponents([(x, 1.0 if x < 8 else x * x / 64) for x in (1, 2, 4, 8, 16, 32)])["fit"] == pytest.approx(
        2
    )


def test_points_that_do_not_fit_are_left_out_with_a_note(monkeypatch):
    monkeypatch.setattr(growth, "memory_total", lambda: 600_000_000)
    monkeypatch.setattr(growth, "measured", lambda kind, asked: {"seconds a step": 1.0, "peak MB": 1.0})
    curve = growth.steps("torch", "parameters", [128, 768], "batch 1")
    assert [point["x"] for point in curve["points"]] == [886_144] and "98,525,376 left out" in curve["what"]


def test_a_duel_runs_everybody_in_turn(tmp_path):
    """What is prepared is there for all; ratios are turned so that more of them is better."""
    seen = []

    def contestant(name, seconds):
        def measure(directory):
            assert (directory.parent / "given" / "rows").read_text() == "3" and not list(directory.iterdir())
            seen.append(name)
            return {"seconds": seconds, "idle": 0.5}

        return Contestant(name, measure)

    prepare = lambda directory: (directory / "rows").write_text("3")  # noqa: E731
    work = Duel("work", [contestant("a", 2.0), contestant("b", 3.0)], {"seconds": False}, prepare)
    against, alone = fight(work, 2)
    assert seen == ["a", "b", "a", "b"]
    assert (against.peer, against.ours, against.theirs) == ("b", 2.0, 3.0)
    assert against.ratios == pytest.approx([1.5, 1.5])
    assert (alone.figure, alone.ours, alone.ratios) == ("idle", 0.5, [])
