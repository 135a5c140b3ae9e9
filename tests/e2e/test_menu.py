"""The menu: `minigpt` alone on a terminal. What it asks, and which commands come of the answers."""

import os
import shutil

import pytest
from command import call
from rich.cells import cell_len

if not hasattr(os, "openpty"):
    pytest.skip("needs pseudo-terminals", allow_module_level=True)

from terminal import Terminal

from minigpt.cli import menu
from minigpt.cli.menu import Menu, split_paths
from minigpt.errors import DATA


def test_on_a_terminal(tmp_path, sources, monkeypatch):
    """Choices, both languages, a path that Tab completes and its data check; Ctrl-C leads back, q ends."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(sources.conversations, tmp_path / "talks.jsonl")
    with Terminal(columns=80, LANG="C.UTF-8", LC_ALL="") as terminal:
        place = terminal.until("Your choice:")
        assert max(cell_len(line.rstrip()) for line in terminal.shown.splitlines()) <= 80
        terminal.type("x\r")
        place = terminal.until("Your choice:", after=terminal.until("Type one of 1, 2,", after=place))
        terminal.type("4\r")
        place = terminal.until("Your choice:", after=terminal.until("begin with the demo", after=place))
        terminal.type("7\r")
        place = terminal.until("请选择：", after=place)
        terminal.type("3\r")
        place = terminal.until("用哪些文件", after=place)
        terminal.type("nowhere.txt\r")
        place = terminal.until("用哪些文件", after=terminal.until("找不到 nowhere.txt", after=place))
        terminal.type("tal\t")
        place = terminal.until("talks.jsonl", after=place)
        terminal.type("\r")
        place = terminal.until("minigpt data check talks.jsonl", after=place)
        place = terminal.until("Data for sft", after=place)
        place = terminal.until("回车则用内置文本：", after=place)  # conversations alone have no model to start from
        terminal.type("\x03")
        place = terminal.until("请选择：", after=place)
        terminal.type("q\r")
        assert terminal.ended() == 0


def test_rm_asks_on_a_terminal(copy):
    with Terminal("rm", copy) as terminal:
        terminal.until("[y/N]")
        terminal.type("n\r")
        assert terminal.ended() == 0
    assert "stays" in terminal.shown and copy.exists()
    with Terminal("rm", copy) as terminal:
        terminal.until("[y/N]")
        terminal.type("y\r")
        assert terminal.ended() == 0
    assert not copy.exists()


@pytest.fixture
def held(tmp_path, monkeypatch):
    """held(*answers, codes={}): the commands that a menu runs when these answers are typed."""
    monkeypatch.chdir(tmp_path)

    def hold(*answers, codes=None, language="en", system="en"):
        typed, ran = iter([*answers, "q"]), []
        monkeypatch.setattr(menu, "ask", lambda question, paths=False: next(typed))

        def run(arguments):
            ran.append(" ".join(arguments))
            return (codes or {}).get(arguments[0], 0)

        Menu(language, system, run).hold()
        assert list(typed) == [], "not all was asked"
        return ran

    return hold


def test_the_commands_of_the_choices(held, copy, tmp_path):
    assert held("1", "2", "n") == ["doctor", "demo"]
    assert held("2", "", language="zh") == ["demo --watch --lang zh"]
    assert held("4", "5", "6") == []  # no run yet
    shutil.copytree(copy, tmp_path / "runs" / "mine")
    assert held("4", "5", "6") == ["chat runs/mine", "watch runs/mine", "report runs/mine --open"]
    shutil.copytree(copy, tmp_path / "runs" / "other")
    assert held("4", "mine") == ["chat runs/mine"]
    assert held("7", "5", "mine", system="en") == ["watch runs/mine --lang zh"]


def test_own_data(held, sources, tmp_path):
    """Each step shows itself before the next is asked for, and each may be the last."""
    for file in (sources.text, sources.conversations):
        shutil.copy(file, tmp_path)
    check = "data check story.txt chat.jsonl"
    plan = "plan --preset auto --time 30m --stages pretrain,sft"
    run = "run story.txt chat.jsonl --run runs/chat --preset auto --time 30m"
    assert held("3", "story.txt chat.jsonl", "", "", "", "n") == [check, plan, run, "chat runs/chat"]
    assert held("3", "story.txt chat.jsonl", "", "", "n") == [check, plan]
    assert held("3", "story.txt chat.jsonl", "", "", codes={"plan": 4}) == [check, plan]
    assert held("3", "story.txt chat.jsonl", "n", codes={"data": DATA}) == [check]
    assert held("3", "story.txt chat.jsonl", "y", "", "", "", "n", codes={"data": DATA})[2] == f"{run} --skip-bad"
    assert held("3", "") == []
    (tmp_path / "runs" / "chat").mkdir(parents=True)  # a name that is taken is not offered again, nor accepted
    found = held("3", "chat.jsonl", "", "chat", "", "2h", "", "n")
    assert found[1] == "plan --preset auto --time 2h --stages pretrain,sft"
    assert found[2:] == ["run world chat.jsonl --run runs/chat-2 --preset auto --time 2h", "chat runs/chat-2"]


def test_paths_as_people_give_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my text.txt").touch()
    assert split_paths("my text.txt") == split_paths("'my text.txt' ") == ["my text.txt"]
    assert split_paths("a.txt b.txt") == ["a.txt", "b.txt"] and split_paths("  ") == []
    assert split_paths("it's") == ["it's"]


def test_the_language_of_a_command(minigpt, copy, tmp_path, monkeypatch):
    """--lang before or after the command, else the system's; what is piped stays English."""
    page = tmp_path / "r.html"
    for words, expected in (((), "en"), (("--lang", "zh"), "zh-Hans")):
        assert minigpt(*words, "report", copy, "--out", page).code == 0
        assert f'<html lang="{expected}">' in page.read_text("utf-8")
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    minigpt("report", copy, "--out", page)
    assert '<html lang="zh-Hans">' in page.read_text("utf-8")
    assert "Talk to it" in call("run", copy, "--backend", "torch").err
    assert "和它对话" in call("run", copy, "--backend", "torch", "--lang", "zh").err
