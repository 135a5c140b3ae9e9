"""The commands that look at runs: list, show, rm, report, compare, inspect, errors."""

import json
import shutil

from command import journal


def test_list_and_show(minigpt, copy, tmp_path):
    shutil.copytree(copy, tmp_path / "runs" / "mine")
    (listed,) = json.loads(minigpt("list", "--json").out)
    assert (listed["name"], listed["state"]) == ("mine", "finished")
    assert "mine" in minigpt("list").out
    shown = json.loads(minigpt("show", "--json").out)  # the newest
    assert [stage["step"] for stage in shown["stages"]] == [4, 4, 4]
    assert shown["stages"][0]["loss"] == [row for row in journal(copy, "pretrain") if "loss" in row][-1]["loss"]
    minigpt("list", "nowhere").refused(2, "nowhere")
    minigpt("show", "nowhere").refused(2, "not a run directory")


def test_rm_asks(minigpt, copy):
    minigpt("rm", copy).refused(2, "nobody to ask", "--yes")
    assert copy.exists()
    minigpt("rm", copy / "pretrain", "--yes").refused(2, "not a run directory")
    assert minigpt("rm", copy, "--yes").code == 0 and not copy.exists()


def test_report_and_curves(minigpt, copy, tmp_path):
    assert minigpt("report", copy, "--out", "r.html", "--lang", "zh").out == "r.html\n"
    assert "留出数据上的结果" in (tmp_path / "r.html").read_text("utf-8")
    assert minigpt("report", copy, "--svg", "loss.svg", "--stage", "sft", "--log-y").code == 0
    assert (tmp_path / "loss.svg").read_text("utf-8").count("<polyline") == 2  # training and validation
    minigpt("report", copy, "--svg", "loss.svg", "--metric", "none").refused(2, "no curve of 'none'")
    minigpt("report", copy, "--lang", "fr").refused(2, "language")


def test_compare(minigpt, copy, tmp_path):
    other = shutil.copytree(copy, tmp_path / "other")
    config = (other / "config.toml").read_text("utf-8").replace("seed = 0", "seed = 7").replace("seed = 1", "seed = 7")
    (other / "config.toml").write_text(config, "utf-8")
    result = minigpt("compare", copy, other, "--json", "--html", "c.html")
    found = json.loads(result.out)
    assert found["runs"] == ["copy", "other"] and set(found["settings"]) == {"seed"}
    assert (tmp_path / "c.html").read_text("utf-8").count("<polyline") >= 4
    minigpt("compare", copy).refused(2, "nothing to compare")
    assert "none" in minigpt("compare", copy, shutil.copytree(copy, tmp_path / "same")).out  # no setting differs


def test_inspect(minigpt, copy, tmp_path):
    result = minigpt("inspect", copy, "--prompt", "The cat", "--backend", "torch", "--html", "i.html")
    assert result.code == 0 and "Logit lens" in result.out and "Attention in layer 1 of 1" in result.out
    found = json.loads(minigpt("inspect", copy, "-p", "The cat", "--backend", "torch", "--json").out)
    assert "".join(found["tokens"]) == "The cat" and len(found["attention"]) == 1
    assert "data:image/png" in (tmp_path / "i.html").read_text("utf-8")
    minigpt("inspect", copy, "-p", "cat " * 200, "--backend", "torch").refused(2, "1 to 64 tokens")
    minigpt("inspect", copy, "-p", "a", "--layer", "9", "--backend", "torch").refused(2, "no layer 9")


def test_errors(minigpt, trained, sources, tmp_path):
    flags = ["--stage", "sft", "--data", sources.conversations, "--rows", 8, "--backend", "torch"]
    result = minigpt("errors", trained, *flags, "--examples", 1, "--html", tmp_path / "e.html", "--lang", "zh")
    assert result.code == 0 and "Wrong answers" in result.out and "nearest training row" in result.out, result.err
    page = (tmp_path / "e.html").read_text("utf-8")
    assert "错误分析" in page and "<mark" in page
    found = json.loads(minigpt("errors", trained, *flags, "--json").out)
    assert found["rows"] == 8 and sum(found["kinds"].values()) + round(found["right"]["value"] * 8) == 8
    assert found["wrong"][0]["near"] and found["hard"][0]["loss"] >= found["hard"][-1]["loss"]
    for stage in ("pretrain", "dpo"):  # held-out texts, and rows of the stage before the pairs
        assert minigpt("errors", trained, "--stage", stage, "--rows", 4, "--backend", "torch").code == 0
    minigpt("errors", trained, "--data", sources.text, "--backend", "torch").refused(2, "no rows with answers")
