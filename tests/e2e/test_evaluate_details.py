"""`minigpt evaluate` with intervals, and beside another run."""

import json
import shutil
from pathlib import Path

import pytest
from command import call, tiny


@pytest.fixture(scope="module")
def other(sources, tmp_path_factory):
    """A second run with the same data and another seed."""
    directory = tmp_path_factory.mktemp("runs") / "other"
    flags = [*tiny(), *sources.flags[:4], "--seed", 9]
    result = call("run", *flags, "--run", directory, "--backend", "torch")
    assert result.code == 0, result.err
    return directory


def test_details_agree_with_the_plain_figures(minigpt, trained):
    flags = ["--stage", "pretrain", "--json", "--backend", "torch"]
    plain = json.loads(minigpt("evaluate", trained, *flags).out)
    found = json.loads(minigpt("evaluate", trained, *flags, "--details").out)
    for name in ("loss", "perplexity", "bits_per_byte"):
        figure = found["figures"][name]
        assert figure["value"] == pytest.approx(plain[name], rel=1e-5)
        assert figure["low"] < figure["value"] < figure["high"] and figure["rows"] >= 2
    assert sum(group["tokens"] for group in found["by"]["position"]) == plain["tokens"]


def test_a_sliding_window(minigpt, trained):
    """After the first window every token is seen by at least 64 - 8 + 1 before it; the tokens are the same ones."""
    flags = ["--stage", "pretrain", "--json", "--backend", "torch"]
    whole, slid = (json.loads(minigpt("evaluate", trained, *flags, "--stride", n).out) for n in (64, 8))
    tokens = [{group["label"]: group["tokens"] for group in found["by"]["position"]} for found in (whole, slid)]
    assert sum(tokens[0].values()) == sum(tokens[1].values()) and tokens[1]["1"] == 1 < tokens[0]["1"]


def test_answers_of_a_file(minigpt, trained, tmp_path):
    asked = [(f"What is {n} plus 1?", f"It is {n + 1}.", "odd" if n % 2 else "even") for n in range(8)]
    rows = [dict(zip(("instruction", "output", "task"), values, strict=True)) for values in asked]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--stage", "sft", "--data", tmp_path / "rows.jsonl", "--details", "--backend", "torch"]
    found = json.loads(minigpt("evaluate", trained, *flags, "--json").out)
    names = {"exact_match", "f1", "rouge_l", "bleu", "chrf", "distinct_2", "self_bleu", "loss"}
    assert names <= found["figures"].keys()
    assert {group["label"]: group["tokens"] for group in found["by"]["task"]} == {"even": 4, "odd": 4}
    assert "by task" in minigpt("evaluate", trained, *flags).out


def test_against_another_run(minigpt, trained, other, sources):
    flags = ["--stage", "sft", "--data", sources.conversations, "--rows", 12, "--backend", "torch"]
    found = json.loads(minigpt("evaluate", trained, "--against", other, *flags, "--json").out)
    names = [one["name"] for one in found["differences"]]
    assert {"bits_per_byte", "exact_match", "chrf"} <= set(names) and "perplexity" not in names
    for one in found["differences"]:
        assert one["difference"] == pytest.approx(one["second"] - one["first"])
        assert 0 <= one["p"] <= one["p_adjusted"] <= 1
        assert one["sentence"].startswith(one["name"])
    shown = minigpt("evaluate", trained, "--against", other, *flags)
    assert "chrf: the " in shown.out and shown.code == 0


def test_a_run_beside_itself_is_equal(minigpt, trained):
    flags = ["--stage", "pretrain", "--against", trained / "pretrain", "--backend", "torch"]
    assert "loss: the two are equal" in minigpt("evaluate", trained, *flags).out


def test_the_worlds_questions_are_the_same_for_both(minigpt, copy, tmp_path):
    """Also where the other run draws from another seed."""
    other = Path(shutil.copytree(copy, tmp_path / "other"))
    config = (other / "config.toml").read_text("utf-8")
    assert config.startswith("seed = ")
    (other / "config.toml").write_text("seed = 7\n" + config.partition("\n")[2], "utf-8")
    flags = ["--stage", "sft", "--data", "world", "--rows", 5, "--backend", "torch", "--json"]
    found = json.loads(minigpt("evaluate", copy, "--against", other / "sft", *flags).out)
    assert found["first"]["figures"]["exact_match"]["rows"] == 5
    assert next(one["difference"] for one in found["differences"] if one["name"] == "loss") == 0
    kept = [(run / "sft" / "evaluation" / "rows.jsonl").read_text("utf-8").splitlines() for run in (copy, other)]
    rows = [[json.loads(line) for line in lines] for lines in kept]
    questions = [[row["question"] for row in some if row["test"] == "world: exact match"] for some in rows]
    assert questions[0] == questions[1] and len(questions[0]) == 5


def test_pairs_have_no_figures_of_their_own(minigpt, trained):
    minigpt("evaluate", trained, "--stage", "dpo", "--details", "--backend", "torch").refused(2, "pairs", "--data")


def test_rows_are_kept_for_compare(minigpt, copy, other, tmp_path):
    """Two runs that answered the same file are compared row by row; the sign test counts those that differ."""
    rows = [{"instruction": f"What is {n} plus 1?", "output": f"It is {n + 1}.", "task": "sum"} for n in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    second = Path(shutil.copytree(other, tmp_path / "second"))
    flags = ["--stage", "sft", "--data", tmp_path / "rows.jsonl", "--backend", "torch", "--json"]
    found = json.loads(minigpt("evaluate", copy, second, *flags).out)
    assert [Path(one["run"]).name for one in found] == ["copy", "second"]
    assert found[0]["figures"]["exact_match"]["rows"] == 6 and found[0]["by"]["task"][0]["label"] == "sum"
    kept = [json.loads(line) for line in (copy / "sft" / "evaluation" / "rows.jsonl").read_text().splitlines()]
    answers = [row for row in kept if row["test"] == "rows.jsonl: exact match"]
    assert [row["question"] for row in answers] == [row["instruction"] for row in rows]
    assert all(row["references"] == [rows[i]["output"]] for i, row in enumerate(answers))
    compared = json.loads(minigpt("compare", copy, second, "--json").out)["tests"]
    tests = {one["test"]: one["against_first"][0] for one in compared}
    assert tests["rows.jsonl: exact match"]["rows"] == 6
    differing = tests["rows.jsonl: log-probability per token"]
    assert differing["better"] + differing["worse"] > 0


def test_an_interval_of_one_token_is_a_dash(minigpt, trained):
    shown = minigpt("evaluate", trained, "--stage", "pretrain", "--details", "--backend", "torch").out
    assert "inf" not in shown and "nan" not in shown
    flags = ["--stage", "pretrain", "--details", "--rows", 1, "--backend", "torch", "--json"]
    figure = json.loads(minigpt("evaluate", trained, *flags).out)["figures"]["loss"]
    assert (figure["low"], figure["high"], figure["rows"]) == (None, None, 1)


def test_several_answers_and_files(minigpt, trained, sources, tmp_path):
    rows = [{"prompt": f"Is {n} odd?", "completion": "Yes.", "language": "en"} for n in range(3)]
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--data", sources.conversations, "--data", tmp_path / "more.jsonl", "--rows", 9, "--samples", 2]
    found = json.loads(minigpt("evaluate", trained, "--stage", "sft", *flags, "--backend", "torch", "--json").out)
    assert {one["label"] for one in found["by"]["file"]} == {"chat.jsonl", "more.jsonl"}
    assert [one["label"] for one in found["by"]["language"]] == ["en"]
    assert found["figures"]["pass@1"]["value"] <= found["figures"]["pass@2"]["value"]
    assert 0 <= found["figures"]["calibration_error"]["value"] <= 1


def test_judge(minigpt, trained, other, sources, tmp_path):
    """Answers of both are kept; votes of people come by the page (test_judging), here results of some written ones."""
    flags = [trained, other, "--data", sources.conversations, "--rows", 6, "--max-tokens", 8, "--out", tmp_path / "j"]
    minigpt("judge", *flags, "--backend", "torch").refused(2, "answer every question alike")  # they learned 4 steps
    pairs = [{"question": f"q{i}", "first": "a", "second": "b"} for i in range(5)]
    names = {"first": f"{trained.name}/dpo", "second": f"{other.name}/sft"}
    (tmp_path / "j").mkdir()
    (tmp_path / "j" / "pairs.json").write_text(json.dumps(names | {"pairs": pairs}))
    minigpt("judge", *flags, "--results", "--backend", "torch").refused(3, "no votes yet")
    rows = [{"item": i, "rater": r, "score": 1.0, "left": bool(i % 2)} for i in range(len(pairs)) for r in ("x", "y")]
    (tmp_path / "j" / "votes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shown = minigpt("judge", *flags, "--results")
    assert f"{names['first']} is preferred" in shown.out, shown.out
    found = json.loads(minigpt("judge", *flags, "--results", "--json").out)
    assert found["votes"] == len(rows) and found["wins"]["value"] == 1.0
    minigpt("judge", *flags, "--endpoint", "http://127.0.0.1:9/v1").refused(2, "--model")
    minigpt("judge", other, trained, "--out", tmp_path / "j").refused(2, "has answers of")
    minigpt("judge", trained, trained, "--out", tmp_path / "k").refused(2, "two different ones")
    minigpt("judge", trained).refused(2, "two runs")
    assert json.loads(minigpt("judge", "--need", 0.6, "--json").out) == {"votes": 194}
