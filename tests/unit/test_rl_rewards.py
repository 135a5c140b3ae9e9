"""Reward functions: what they pay for, what they never pay for, and sentences for a person's mistakes."""

import os

import numpy as np
import pytest

from minigpt.errors import DataError, MiniGPTError, UsageError
from minigpt.train.builtin_rewards import REWARDS
from minigpt.train.rewards import make_rewards, run_of, score


def paid(name, answers, prompt="?", row=None):
    """The reward of each answer to one prompt."""
    rows = [row or {}] * len(answers)
    return score(make_rewards([name]), [prompt] * len(answers), answers, rows)[0].tolist()


def own(tmp_path, body, name="good"):
    file = tmp_path / "mine.py"
    file.write_text(body, "utf-8")
    return f"{file}:{name}"


def test_exact_ignores_spaces_only():
    answers = ["red  kite", " red kite\n", "Red kite", "red kite."]
    assert paid("exact", answers, row={"answer": "red kite"}) == [1, 1, 0, 0]


def test_contains_looks_for_whole_words():
    assert paid("contains", ["it is 12.", "312", "12th", "so 12 it is"], row={"answer": "12"}) == [1, 0, 0, 1]


def test_regex():
    assert paid("regex:^[0-9]+$", ["17", "a17", "17\n18"]) == [1, 0, 0]


def test_length_is_best_at_its_target():
    assert paid("length:4", ["", "ab", "abcd", "abcdef", "abcdefgh", "a" * 99]) == [0, 0.5, 1, 0.5, 0, 0]


@pytest.mark.parametrize(("name", "text"), [
    ("de", "Das ist nicht der Hund und die Katze"), ("en", "This is not the dog and the cat"), ("ru", "Это не собака"),
])  # fmt: skip
def test_language(name, text):
    assert paid(f"language:{name}", [text])[0] > 0.8
    assert paid(f"language:{'fr' if name != 'fr' else 'en'}", [text])[0] < 0.5


@pytest.mark.parametrize(("prompt", "value"), [("What is 17 + 4?", 21), ("(2 + 3) * 4 = ?", 20), ("12 - 30", -18),
                                               ("7 × 6 =", 42), ("9 / 2", 4.5), ("3 − 5", -2)])  # fmt: skip
def test_arithmetic_computes_the_prompt(prompt, value):
    answers = [f"{prompt} That makes {value}.", f"{value + 1}", f"{value}, no, {value + 2}", "many"]
    assert paid("arithmetic", answers, prompt) == [1, 0, 0, 0]


def test_arithmetic_falls_back_on_the_rows_answer():
    assert paid("arithmetic", ["so 8", "so 9"], "Tom has five and gets three.", {"answer": "5 + 3 = 8"}) == [1, 0]
    with pytest.raises(DataError, match="no calculation"):
        paid("arithmetic", ["8"], "Who are you?")


def test_no_built_in_pays_for_an_empty_answer():
    """Reward hacking's first find: an empty answer that matches."""
    arguments = {"regex": "[0-9]*[a-z]", "length": "5", "language": "en"}
    for name, row in REWARDS.items():
        called = f"{name}:{arguments[name]}" if row.argument else name
        for empty in ("", "  \n"):
            assert paid(called, [empty], "1 + 1 = ", {"answer": "2"}) == [0], name


@pytest.mark.parametrize("answer", ["", "  ", None])
def test_rows_without_an_answer_are_refused(answer):
    with pytest.raises(DataError, match="no answer to compare with"):
        paid("exact", [""], row={"answer": answer})


@pytest.mark.parametrize(("name", "words"), [
    ("exakt", "Did you mean exact"), ("regex", "needs a regular expression"), ("regex:[", "not valid"),
    ("regex:a*", "empty answer"), ("length:many", "number of characters"), ("length:0", "number of characters"),
    ("language:xx", "does not know"), ("exact:1", "takes no argument"), ("nowhere.py:f", "no reward file"),
])  # fmt: skip
def test_names_that_mean_nothing(name, words):
    with pytest.raises(UsageError) as error:
        make_rewards([name])
    assert words in str(error.value)


def test_a_reward_is_no_run_where_one_works_in_a_runs_directory(tmp_path, monkeypatch):
    (tmp_path / "reward").mkdir()
    (tmp_path / "config.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    assert paid("exact", ["17"], row={"answer": "17"}) == [1.0]
    names = ("run", ".", "reward", "run:reward", "exact")
    assert [run_of(name) for name in names] == ["", ".", "reward", "reward", None]


def test_weights_and_single_rewards():
    rewards = make_rewards(["exact", "length:2"], [2.0, 0.5])
    total, single = score(rewards, ["?"] * 2, ["17", "1"], [{"answer": "17"}] * 2)
    assert single.tolist() == [[1, 1], [0, 0.5]] and total.tolist() == [2.5, 0.25]
    with pytest.raises(UsageError, match="2 rewards and 1 weights"):
        make_rewards(["exact", "contains"], [1.0])
    with pytest.raises(UsageError, match="no reward"):
        make_rewards([])


# ---- a person's own function


def test_own_function_sees_prompts_answers_and_rows(tmp_path):
    body = """
def good(prompts, answers, rows):
    return [len(p) + 10 * len(a) + 100 * r["k"] for p, a, r in zip(prompts, answers, rows)]
"""
    name = own(tmp_path, body)
    total, _ = score(make_rewards([name]), ["a", "bb"], ["", "x"], [{"k": 1}, {"k": 2}])
    assert total.tolist() == [101, 212]


@pytest.mark.parametrize(("body", "words"), [
    ("import nothing_of_this_name", "does not import: ModuleNotFoundError"),
    ("def good(:", "does not import: SyntaxError"),
    ("def other(): pass", "no function 'good'"),
    ("good = 3", "no function 'good'"),
])  # fmt: skip
def test_files_that_cannot_be_used(tmp_path, body, words):
    with pytest.raises(UsageError) as error:
        make_rewards([own(tmp_path, body)])
    assert words in str(error.value)


@pytest.mark.parametrize(("result", "words"), [
    ("[1.0]", "returned 1 numbers for 3 answers"),
    ("[1.0, 2.0, 3.0, 4.0]", "returned 4 numbers for 3 answers"),
    ("'good'", "must return a list"), ("None", "must return a list"), ("1.0", "must return a list"),
    ("[1.0, float('nan'), 2.0]", "returned nan for row 2"), ("[float('inf')] * 3", "returned inf for row 1"),
    ("[1, 2, '3']", "returned '3' for row 3"), ("[1, None, 2]", "returned None for row 2"),
])  # fmt: skip
def test_returns_that_are_not_rewards(tmp_path, result, words):
    rewards = make_rewards([own(tmp_path, f"def good(prompts, answers, rows):\n    return {result}\n")])
    with pytest.raises(MiniGPTError) as error:
        score(rewards, ["p"] * 3, ["a", "b", "c"], [{}] * 3)
    assert words in str(error.value)


def test_an_exception_names_the_row(tmp_path):
    body = "def good(prompts, answers, rows):\n    return [1 / int(a) for a in answers]\n"
    with pytest.raises(DataError) as error:
        score(make_rewards([own(tmp_path, body)]), ["p", "q", "r"], ["1", "2", "0"], [{}] * 3)
    assert "failed for row 3 (prompt 'r', answer '0'): ZeroDivisionError" in str(error.value)
    body = "def good(prompts, answers, rows):\n    assert len(answers) < 2, 'one only'\n    return [1.0]\n"
    with pytest.raises(DataError, match="3 answers together: AssertionError: one only"):
        score(make_rewards([own(tmp_path, body)]), ["p"] * 3, ["a"] * 3, [{}] * 3)


def test_a_file_that_was_changed_is_read_again(tmp_path, monkeypatch):
    """Also where its time and size are the same, which is what Python takes for an unchanged file."""
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    file, found = tmp_path / "mine.py", []
    for number in (1, 2):
        file.write_text(f"def one(prompts, answers, rows):\n    return [{number}.0] * len(answers)\n", "utf-8")
        os.utime(file, (10**9, 10**9))
        found += score(make_rewards([f"{file}:one"], []), ["?"], ["!"], [{}])[0].tolist()
    assert found == [1.0, 2.0]


def test_numbers_of_numpy_and_bools_are_rewards(tmp_path):
    body = "import numpy as np\ndef good(prompts, answers, rows):\n    return np.array([True, False, True])\n"
    total, single = score(make_rewards([own(tmp_path, body)]), ["p"] * 3, ["a"] * 3, [{}] * 3)
    assert total.tolist() == [1, 0, 1] and single.dtype == np.float64
