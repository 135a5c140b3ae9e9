"""What is read from a run's files, and what is drawn of it."""

import gzip
import json
import math
import os
import platform
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from base64 import b64encode
from hashlib import sha256
from itertools import product
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from minigpt.data.shards import MemoryShard
from minigpt.errors import MiniGPTError, UsageError
from minigpt.pages import texts
from minigpt.pages.html import page, policy, tag
from minigpt.pages.svg import Line, chart, thinned, ticks, write_curve
from minigpt.runs.conversations import questions
from minigpt.runs.finding import find_run, find_stage
from minigpt.stages.table import STAGES
from minigpt.store.lock import holder, locked
from minigpt.store.requests import ask_sample, ask_stop, pending, take_sample
from minigpt.watch.compare import compare_page, compare_runs, curve_of, sign_test
from minigpt.watch.curves import curve, drawn, metrics_of
from minigpt.watch.journal import Journal
from minigpt.watch.read import read_run, read_samples
from minigpt.watch.report import report_page, write_report
from minigpt.watch.server import live_page, serve


def write_lines(path, rows, end=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + end, "utf-8")


def a_run(directory, losses, finished=True, **pretrain):
    """A run's files as training leaves them, with one loss a step and a measurement after every second one."""
    directory.mkdir(parents=True)
    settings = {"steps": len(losses), "learning_rate": 0.001} | pretrain
    shown = "".join(f"{name} = {value}\n" for name, value in settings.items())
    (directory / "config.toml").write_text(f'seed = 1\n[data]\npretrain = ["story.txt"]\n[pretrain]\n{shown}', "utf-8")
    rows = []
    for step, loss in enumerate(losses, 1):
        rows.append({"step": step, "loss": loss, "tokens": 512, "seconds": 0.25})
        rows += [{"step": step, "validation_loss": loss + 0.5}] if step % 2 == 0 else []
    write_lines(directory / "pretrain" / "metrics.jsonl", rows)
    if finished:
        final = directory / "pretrain" / "final"
        final.mkdir()
        (final / "manifest.json").write_text("{}")
        (final / "state.json").write_text(json.dumps({"step": len(losses), "metrics": {"loss": losses[-1] + 0.5}}))
    return directory


# ---- the journal -------------------------------------------------------------------------------------------


def test_a_damaged_journal_is_read_as_far_as_it_goes(tmp_path):
    path = tmp_path / "metrics.jsonl"
    good = '{"step": 1, "loss": 2.5}\n'
    bad = ['{"step": 2, "lo\n', "\x00\x00\x00\n", '{"loss": 1}\n', "[1, 2]\n", '{"step": "two"}\n', "[" * 5000 + "\n"]
    path.write_text(good + "".join(bad) + '{"step": 3, "loss": null}\n{"step": 4, "loss": 1.5}\n{"step": 5, "loss": 1')
    journal = Journal(path)
    assert journal.update() and journal.damaged == len(bad)
    steps, values = journal.series("loss")
    assert steps.tolist() == [1, 3, 4] and values.tolist()[::2] == [2.5, 1.5] and math.isnan(values[1])
    with path.open("a") as file:  # the half-written line is finished, and another one comes
        file.write('.25}\n{"step": 6, "loss": 1}\n')
    assert journal.update() and journal.damaged == len(bad)
    assert journal.series("loss")[1].tolist()[-2:] == [1.25, 1.0]
    assert not journal.update()


def test_a_journal_is_read_while_it_is_written(tmp_path):
    """Each line comes in two parts, and whoever reads may look between them: nothing is lost, nothing is damage."""
    path, count = tmp_path / "metrics.jsonl", 3000

    def write():
        with path.open("ab", buffering=0) as file:
            for step in range(1, count + 1):
                line = (json.dumps({"step": step, "loss": step * 0.5}) + "\n").encode()
                file.write(line[: step % len(line)])
                file.write(line[step % len(line) :])

    journal, writer = Journal(path), threading.Thread(target=write)
    writer.start()
    while writer.is_alive():
        journal.update()
    writer.join()
    journal.update()
    steps, values = journal.series("loss")
    assert steps.tolist() == list(range(1, count + 1)) and (values == 0.5 * steps).all() and journal.damaged == 0


def test_a_journal_that_went_back_is_read_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_lines(path, [{"step": step, "loss": 1.0} for step in range(1, 9)])
    journal = Journal(path)
    journal.update()
    write_lines(tmp_path / "new", [{"step": 1, "loss": 2.0}, {"step": 1, "went_back_from": 8, "reason": "it jumped"}])
    (tmp_path / "new").replace(path)
    journal.update()
    assert journal.series("loss")[1].tolist() == [2.0] and journal.step == 1
    assert [mark["reason"] for mark in journal.marks] == ["it jumped"]


def test_a_sketch_of_a_long_journal_has_true_lines_and_the_last_ones(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_lines(path, [{"step": step, "loss": step * 0.5, "norm": 1.25} for step in range(1, 20_001)])
    journal = Journal(path).sketch()
    steps, values = journal.series("loss")
    assert journal.sketched and journal.damaged == 0 and (values == 0.5 * steps).all()
    assert steps[0] == 1 and steps[-1] == 20_000 and 1000 < len(steps) < 10_000
    assert np.diff(steps).max() < 20_000 / 200  # no part of it is left out
    assert not Journal(path).sketched


def test_thinned_points_cover_the_same_pixels():
    """Each stretch keeps its lowest and highest value, found here by brute force."""
    random = np.random.default_rng(0)
    values = random.normal(size=100_000).cumsum()
    values[5000:5400] = np.nan
    steps = np.arange(100_000.0)
    kept, shown = thinned(steps, values, 1000)
    assert 500 < len(kept) <= 1004 and kept[0] == 0 and kept[-1] == 99_999
    assert (shown == values[kept.astype(int)])[~np.isnan(shown)].all()
    for first in range(0, 100_000, 200):
        stretch, own = values[first : first + 200], shown[(kept >= first) & (kept < first + 200)]
        if not np.isnan(stretch).all():
            assert np.nanmin(own) == np.nanmin(stretch) and np.nanmax(own) == np.nanmax(stretch)
    assert np.isnan(shown).any()  # the gap stays one


def test_drawn_keeps_a_neighbour_on_each_side_of_the_range(tmp_path):
    write_lines(tmp_path / "m", [{"step": step, "loss": 1.0, "tokens": 100, "seconds": 0.5} for step in range(10)])
    journal = Journal(tmp_path / "m")
    journal.update()
    found = drawn(journal, (3, 5))["metrics"]
    assert found["loss"][0] == [2, 3, 4, 5, 6] and found["tokens_per_second"][1] == [200] * 5
    assert metrics_of(journal) == ["loss", "tokens_per_second"]
    assert curve(journal, "nothing")[0].tolist() == []


# ---- a run -------------------------------------------------------------------------------------------------


def test_the_state_of_a_run(tmp_path):
    run = read_run(a_run(tmp_path / "done", [3.0, 2.0, 1.0, 0.5]))
    (stage,) = run.stages
    assert (run.state, stage.step, stage.steps, stage.best_step) == ("finished", 4, 4, 4)
    assert stage.metrics == {"loss": 1.0} and stage.validation_loss == 1.0 and stage.loss == 0.5
    half = a_run(tmp_path / "half", [3.0, 2.0], finished=False)
    assert read_run(half).state == "stopped"
    with locked(half):
        assert read_run(half).state == "running" and holder(half)["pid"] > 0
    assert read_run(half).state == "stopped" and holder(half) is None
    (half / ".lock").write_text(json.dumps({"pid": 2**22 + 1, "host": platform.node(), "since": "x"}))
    assert read_run(half).state == "stopped"  # its process is gone


@pytest.mark.parametrize("name", ["config.toml", "pretrain/metrics.jsonl", "pretrain/final/state.json"])
@pytest.mark.parametrize("damage", [b"", b"\xff\x00{[", b"null", b"[1]"])
def test_damaged_files_are_borne(tmp_path, name, damage):
    directory = a_run(tmp_path / "run", [3.0, 2.0])
    (directory / name).write_bytes(damage)
    assert read_run(directory).name == "run"
    assert "<h1>run</h1>" in report_page(directory)


def test_which_run_is_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="no run in runs/"):
        find_run(None)
    old, new = (a_run(tmp_path / "runs" / name, [1.0]) for name in ("old", "new"))
    for path, time in ((old, 1), (new, 2)):
        for file in ("config.toml", "pretrain/metrics.jsonl"):
            os.utime(path / file, (time, time))
    assert find_run(None) == find_run(Path("runs/latest")) == find_run(Path("latest")) == Path("runs/new")
    assert find_run(Path("old")) == Path("runs/old") and find_run(Path("runs/old/pretrain")) == Path("runs/old")
    for path in (Path("old/pretrain"), Path("runs/old/pretrain"), old / "pretrain"):
        found, stage = find_stage(path)
        assert found.resolve() == old and stage == "pretrain"
    assert find_stage(Path("latest/pretrain")) == (Path("runs/new"), "pretrain")
    with pytest.raises(UsageError, match="nothing is not a run.*new, old"):
        find_run(Path("nothing"))


def test_the_newest_trained_run_may_not_be_the_newest(tmp_path):
    for name, time in (("old", 1), ("new", 2)):
        run = a_run(tmp_path / name, [1.0])
        for file in run.rglob("*"):
            os.utime(file, (time, time))
    (tmp_path / "new" / "pretrain" / "final" / "state.json").unlink(missing_ok=True)
    final = tmp_path / "old" / "pretrain" / "final"
    final.mkdir(exist_ok=True)
    (final / "state.json").write_text("{}")
    os.utime(final / "state.json", (1, 1))
    assert find_run(None, tmp_path) == tmp_path / "new" and find_run(None, tmp_path, trained=True) == tmp_path / "old"


def test_a_word_is_no_run_because_of_where_one_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(a_run(tmp_path / "here", [1.0]))
    assert find_stage(Path("sft")) == (Path("."), "sft")
    with pytest.raises(UsageError, match="story is not a run"):
        find_run(Path("story"))


def test_samples_of_several_forms(tmp_path):
    path = tmp_path / "samples.jsonl"
    rows = [
        {"step": 1, "prompt": "A", "text": "b"},
        {"step": 2, "samples": [{"prompt": "A", "completion": "c", "reward": 0.5}, {"prompt": "D", "answer": "e"}]},
        {"step": 3, "prompt": [{"role": "user", "content": "Hi"}], "answer": ""},
        {"step": 4, "prompt": "nothing"},
    ]
    write_lines(path, rows, end='{"step": 5, "pro')
    found = [(s["step"], s["prompt"], s["text"]) for s in read_samples(path)]
    assert found == [(1, "A", "b"), (2, "A", "c"), (2, "D", "e"), (3, "Hi", "")]
    assert read_samples(path)[1]["values"] == {"reward": 0.5}


# ---- requests ----------------------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from minigpt.pages import texts
from minigpt.pages.html import page, policy, tag
from minigpt.pages.svg import Line, chart, thinned, ticks, write_curve
from minigpt.stages.table import STAGES
from minigpt.store.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_stop_reaches_the_process_that_holds_the_run(tmp_path):
    with pytest.raises(MiniGPTError, match="No process trains"):
        ask_stop(tmp_path)
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        ask_sample(tmp_path)
        assert pending(tmp_path) == ["sample"] and take_sample(tmp_path) and not take_sample(tmp_path)
        ask_stop(tmp_path)
        assert process.wait(30) == -15
    assert pending(tmp_path) == [] and not (tmp_path / "stop.request").exists()


# ---- pages -------------------------------------------------------------------------------------------------


def hashes(text, element):
    inner = re.search(rf"<{element}>(.*?)</{element}>", text, re.DOTALL)[1]
    return f"sha256-{b64encode(sha256(inner.encode()).digest()).decode()}"


def check_page(text, scripted):
    """One file, nothing from elsewhere, a policy that names the very style and script, small."""
    policy = re.search('Content-Security-Policy" content="([^"]*)"', text)[1]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy and hashes(text, "style") in policy
    assert (hashes(text, "script") in policy) if scripted else "<script" not in text
    markup = re.sub("<script.*", "", text, flags=re.DOTALL)
    assert re.findall(r"https?:|//[a-z]+\.|@import|url\(| style=| on[a-z]+=", markup) == []
    assert not re.search(r"https?://|innerHTML|insertAdjacentHTML|document\.write|eval\(", text)
    assert len(gzip.compress(text.encode())) < 100_000


@pytest.mark.parametrize(
    ("environment", "language"),
    [({}, "en"), ({"LANG": "C.UTF-8"}, "en"), ({"LANG": "zh_CN.UTF-8"}, "zh"), ({"LANG": "zh-Hant"}, "zh"),
     ({"LC_ALL": "en_US.UTF-8", "LANG": "zh_CN.UTF-8"}, "en"), ({"LC_ALL": "", "LC_MESSAGES": "zh_TW"}, "zh"),
     ({"LANG": "en_US.UTF-8", "LANGUAGE": "zh_CN:en"}, "zh"), ({"LANG": "C", "LANGUAGE": "zh_CN"}, "en"),
     ({"LANG": "de_DE.UTF-8"}, "en")],
)  # fmt: skip
def test_the_language_of_a_locale(environment, language):
    assert texts.system_language(environment) == language


def test_the_table_of_texts_is_whole():
    """Each text stands in both languages, the Chinese ones without a sign that only Latin sentences end with."""
    for part in texts.parts():
        for word, both in texts.both(part).items():
            assert len(both) == 2 and all(both), (part, word)
            assert set(re.findall(r"{(\w*)}", both[0])) == set(re.findall(r"{(\w*)}", both[1])), (part, word)
            assert not re.search(r"[\u4e00-\u9fff][,.;:!?]", both[1]), (part, word)
    with pytest.raises(UsageError, match="language 'fr'"):
        texts.words("fr")
    for stage, both in texts.both("stages").items():
        assert both[0] == STAGES[stage].summary, "the table of texts has another summary than the stage"
    assert texts.measure("demo: exact_match_story", "zh") == "demo: 答对的比例（完全一致）: 故事"
    assert texts.measure("some_new_measure", "zh") == "some new measure"


def test_every_page_is_one_strict_file(tmp_path):
    one, two = a_run(tmp_path / "one", [3.0, 2.0]), a_run(tmp_path / "two", [3.0, 2.5], learning_rate=0.01)
    check_page(live_page(), True)
    for language in ("en", "zh"):
        check_page(report_page(one, language), False)
        check_page(compare_page(compare_runs([one, two]), language), False)


def test_what_a_run_says_is_never_html(tmp_path):
    bad = "<script>alert(1)</script><img src=x onerror=y>"
    directory = a_run(tmp_path / "run", [3.0, 2.0])
    (directory / "config.toml").write_text(f"[data]\npretrain = ['{bad}']\n[pretrain]\nsteps = 2\n")
    write_lines(directory / "pretrain" / "samples.jsonl", [{"step": 1, "prompt": bad, "text": bad}])
    (directory / "demo.json").write_text(json.dumps({"conversations": [{"question": bad, "pretrain": bad}]}))
    assert "<script>alert" not in report_page(directory) and "<img" not in report_page(directory)
    assert "&lt;script&gt;alert(1)" in report_page(directory)
    assert "</script><b>" not in page("t", tag("p", "x"), ["1"], {"a": "</script><b>"})
    assert tag("p", "<&", title='"') == '<p title="&quot;">&lt;&amp;</p>'
    assert "connect-src" not in policy("a", "")


def test_the_report_tells_the_run(tmp_path):
    directory = a_run(tmp_path / "run", [3.0, 2.0, 1.0, 0.5])
    plan = {"planned": {"memory": 2e6, "seconds": 60}, "actual": {"memory": 3e6, "seconds": 90}}
    (directory / "pretrain" / "plan.json").write_text(json.dumps(plan))
    (directory / "demo.json").write_text(
        json.dumps({"measured": {"pretrain": {"exact_match": 0.25}}, "conversations": [
            {"question": "What is 1 plus 1?", "pretrain": "3", "right": "2"}]})
    )  # fmt: skip
    path = write_report(directory)
    text = path.read_text("utf-8")
    assert path == directory / "report.html"
    for expected in ("story.txt", "1 min 00 s", "1 min 30 s", "3.0 MB", "0.2500", "What is 1 plus 1?", "<polyline"):
        assert expected in text, expected


def test_questions_that_a_report_shows_come_evenly_from_all_examples():
    """Of pairs the chosen answer; a prompt without one; nothing that leaves no room for an answer, or that is there."""
    pairs = [([n, 90, 50 + n, 51 + n, 91], [0, 0, 1, 1, 0]) for n in range(8) for _ in range(2)]
    assert questions(shard_of(pairs), 2, 40) == [([n, 90], [50 + n, 51 + n]) for n in (0, 2, 4, 6)]
    assert questions(shard_of([([7, 8], [0, 0])] * 3), 1, 40) == [([7, 8], [])]
    assert questions(shard_of([([1] * 25 + [2], [0] * 25 + [1])]), 1, 40) == []
    assert questions(shard_of([([1] * 24 + [2, 3], [0] * 24 + [1, 1])]), 1, 40) == [([1] * 24, [2, 3])]


def shard_of(sequences):
    ids, masks = ([x for sequence in sequences for x in sequence[part]] for part in range(2))
    ends = np.cumsum([len(one) for one, _ in sequences])
    return MemoryShard(np.array(ids), ends, np.array(masks, np.uint8))


# ---- curves as pictures ------------------------------------------------------------------------------------


def test_a_chart_puts_points_where_they_belong():
    steps, values = np.array([0.0, 50, 100]), np.array([0.0, 10.0, 5.0])
    root = ElementTree.fromstring(chart([Line("a<b", steps, values)], "t", alone=True))
    (line,) = root.iter("{http://www.w3.org/2000/svg}polyline")
    points = [tuple(map(float, pair.split(","))) for pair in line.get("points").split()]
    assert points == [(60, 270), (343, 12), (626, 141)]  # 640 × 300 with margins of 60, 14, 12 and 30
    assert "a<b" in [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]


def test_log_axes_leave_out_what_they_cannot_show():
    values = np.array([5.0, 100.0, 10.0, 0.0, 1.0])
    root = ElementTree.fromstring(chart([Line("a", np.arange(5.0), values)], "t", True, True, alone=True))
    lines = list(root.iter("{http://www.w3.org/2000/svg}polyline"))
    drawn_points = [pair for line in lines for pair in line.get("points").split()]
    assert drawn_points[0] == "60.0,12.0" and drawn_points[-1] == "626.0,270.0" and len(drawn_points) == 3
    assert ticks(1, 1000, 5, True) == [1, 10, 100, 1000] and ticks(0, 1, 5) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])


@pytest.mark.parametrize("values", [[], [1.0], [2.0, 2.0], [math.nan, math.nan], [0.0, -1.0]])
def test_any_curve_can_be_drawn(values):
    line = Line("a", np.arange(float(len(values))), np.array(values))
    for log in (False, True):
        ElementTree.fromstring(chart([line], "t", log, log))


def test_a_curve_as_a_file(tmp_path):
    directory = a_run(tmp_path / "run", [3.0, 2.0])
    write_curve(curve_of([directory], None, "loss"), tmp_path / "loss.svg")
    assert ElementTree.parse(tmp_path / "loss.svg").getroot().get("aria-label") == "run, pretrain: loss"
    with pytest.raises(UsageError, match="no curve of 'lsos'.*loss, validation_loss"):
        curve_of([directory], None, "lsos")


# ---- side by side ------------------------------------------------------------------------------------------


def test_runs_side_by_side(tmp_path):
    one, two = a_run(tmp_path / "one", [3.0, 2.0]), a_run(tmp_path / "two", [3.0, 2.5], learning_rate=0.01)
    for path, scores in ((one, [1, 0, 0, 0]), (two, [1, 1, 1, 0])):
        rows = [{"test": "sums", "question": str(n), "score": score} for n, score in enumerate(scores)]
        (path / "pretrain" / "evaluation").mkdir()
        write_lines(path / "pretrain" / "evaluation" / "rows.jsonl", rows, end='{"test": "su')
    found = compare_runs([one, two])
    assert found.settings == {"pretrain.learning_rate": [0.001, 0.01]}
    assert found.results == {("pretrain", "loss"): [2.5, 3.0]}
    assert found.tests["pretrain", "sums"] == [{"rows": 4, "difference": 0.5, "better": 2, "worse": 0, "p": 0.5}]
    with pytest.raises(UsageError):
        compare_runs([one, one])


@pytest.mark.parametrize("differences", [[1], [1, 1, 1], [1, 1, -1, 0], [1, 1, 1, 1, 1, -1], [0, 0]])
def test_the_sign_test_counts_all_ways_to_swap(differences):
    """Brute force: of all signs of the rows that differ, the share with a sum at least as far from 0."""
    found = sign_test([(0.0, float(d)) for d in differences])
    own = [d for d in differences if d]
    sums = [abs(sum(signs)) for signs in product((1, -1), repeat=len(own))]
    assert found["p"] == pytest.approx(sum(s >= abs(sum(own)) for s in sums) / len(sums))


# ---- the server --------------------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path):
    directory = a_run(tmp_path / "runs" / "one", [3.0, 2.0])
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "config.toml").write_text("")
    server = serve(tmp_path / "runs", directory, 0)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def answer(url, method="GET", **headers):
    request = urllib.request.Request(url, method=method, headers={k.replace("_", "-"): v for k, v in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=10) as found:
            return found.status, found.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_the_live_page_serves_its_run(served):
    assert answer(served)[1] == live_page()
    runs = json.loads(answer(f"{served}/api/runs")[1])
    assert runs == {"chosen": "one", "runs": [{"name": "one", "state": "finished"}]}
    run = json.loads(answer(f"{served}/api/run?run=one")[1])
    assert run["stage"] == "pretrain" and run["config"]["seed"] == 1 and run["pending"] == []
    curves = json.loads(answer(f"{served}/api/curves?run=one&stage=pretrain")[1])
    assert curves["one"]["metrics"]["loss"] == [[1, 2], [3, 2]]
    assert curves["one"]["metrics"]["tokens_per_second"][1] == [2048, 2048]


def test_a_running_stage_is_held_against_its_plan(served, tmp_path):
    """What it will have taken is expected from its pace: here 0.25 s a step; and its highest memory is known."""
    half = a_run(tmp_path / "runs" / "half", [3.0, 2.0], finished=False, steps=100)
    (half / "pretrain" / "plan.json").write_text(json.dumps({"planned": {"memory": 5e6, "seconds": 20.0}}))
    write_lines(half / "usage.jsonl", [{"memory": 4e6, "cpu": 0.5}, {"memory": 3e6, "cpu": 0.5}])
    with locked(half):
        (stage,) = json.loads(answer(f"{served}/api/run?run=half")[1])["stages"]
    assert stage["planned"] == {"memory": 5e6, "seconds": 20.0} and stage["actual"] == {}
    assert stage["expected"] == {"seconds": 25.0, "memory": 4e6}


def test_the_server_answers_nobody_else(served):
    assert answer(served, Host="example.com")[0] == 403 and answer(f"{served}/api/runs", Host="a.b:80")[0] == 403
    assert answer(f"{served}/api/runs", Origin="http://example.com")[0] == 403
    assert answer(f"{served}/api/stop?run=one", "POST")[0] == 403  # a form of another site
    assert answer(f"{served}/api/stop?run=one", "POST", X_MiniGPT="page")[0] == 409  # nothing trains
    for name in ("..%2Fsecret", "../secret", "secret", "%00", ""):
        assert answer(f"{served}/api/run?run={name}")[0] in (400, 404), name
    assert answer(f"{served}/api/curves?run=one&stage=..")[0] == 404
    assert answer(f"{served}/api/curves?run=one&stage=pretrain&from=x&to=1")[0] == 400
    assert answer(f"{served}/nothing")[0] == 404
