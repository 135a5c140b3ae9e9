"""The command line under test, and one whole run that it has trained."""

import shutil
from pathlib import Path

import pytest
from command import Sources, call, conversation, pair, tiny, write_rows


@pytest.fixture
def minigpt(tmp_path, monkeypatch):
    """minigpt(*arguments, stdin=b""): the command in this process, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return call


@pytest.fixture(scope="session")
def sources(tmp_path_factory) -> Sources:
    directory = tmp_path_factory.mktemp("data")
    sentences = ["The cat sat on the warm mat.", "A dog ran to the river.", "她在花园里看见一只猫。", "We had 3 plums."]
    text = "".join(f"{sentences[day % 4]} This was day {day}.\n" for day in range(300))
    (directory / "story.txt").write_text(text, "utf-8")
    write_rows(directory / "chat.jsonl", [conversation(f"What is {n} plus 1?", f"It is {n + 1}.") for n in range(60)])
    write_rows(directory / "pairs.jsonl", [pair(f"Say hello {n}.", f"Hello {n}!", f"No, {n}.") for n in range(40)])
    return Sources(directory / "story.txt", directory / "chat.jsonl", directory / "pairs.jsonl")


@pytest.fixture(scope="session")
def trained(sources, tmp_path_factory) -> Path:
    """A whole run, made by one `minigpt run`; tests that change it take a copy."""
    directory = tmp_path_factory.mktemp("runs") / "whole"
    result = call("run", *tiny(), *sources.flags, "--run", directory, "--backend", "torch")
    assert result.code == 0, result.err
    (directory / "stderr").write_text(result.err, "utf-8")
    assert result.out == ""
    return directory


@pytest.fixture
def copy(trained, tmp_path) -> Path:
    """A copy of the trained run."""
    return Path(shutil.copytree(trained, tmp_path / "copy"))
