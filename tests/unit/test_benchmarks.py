"""The bundled tests: what they ask is well formed and the same each time; what is kept of single rows."""

import json

from minigpt.evaluate.benchmarks import BUNDLED, KNOWN
from minigpt.evaluate.bundled import MOST, minimal_pairs, python_choice, python_cloze
from minigpt.evaluate.kept import ROWS, Kept, keep, read_scores


def test_what_python_functions_do():
    items = python_choice()
    assert len(items) == MOST and items == python_choice() != python_choice(seed=1)
    for item in items:
        assert len(set(item.options)) == 4 and item.context.endswith("Answer:")
        asked = item.context.split("What does ")[1].split(" do in")[0]
        assert asked.split(".")[-1].lower() not in item.options[item.right].lower()
    shares = [sum(item.right == i for item in items) / len(items) for i in range(4)]
    assert min(shares) > 0.18  # the right one has no usual place
    by_name = {item.context: item.options[item.right] for item in items}
    import math

    name, sentence = next((k, v) for k, v in by_name.items() if "does math." in k)
    function = getattr(math, name.split("math.")[1].split(" do")[0])
    assert sentence.strip() in " ".join(function.__doc__.split())


def test_the_last_word():
    for item in python_cloze():
        assert len(item.options) == 1 and item.options[0].strip().isalpha() and not item.context.endswith(" ")


def test_minimal_pairs():
    items = minimal_pairs()
    assert {item.group[:2] for item in items} == {"en", "zh"} and len(items) > 200
    for item in items:
        right, wrong = item.options
        assert item.right == 0 and right != wrong and abs(len(right) - len(wrong)) <= 4
    assert len({item.options[0] for item in items}) > 100


def test_named_tests():
    names = {one.name for one in KNOWN}
    wanted = {"mmlu", "gsm8k", "humaneval", "truthfulqa_mc1", "toxigen", "bbq", "ceval-valid", "cmmlu"}
    assert wanted <= names and len(names) == len(KNOWN)
    assert all(one.chance is None or 0 <= one.chance <= 0.5 for one in KNOWN)
    assert set(BUNDLED) == {"world", "python-choice", "python-cloze", "minimal-pairs"}


def test_rows_are_kept_test_by_test(tmp_path):
    keep(tmp_path, [Kept("a", "1+1?", 1.0, {"answer": "2"}), Kept("a", "1+2?", 0.0), Kept("b", "x", 0.5)])
    keep(tmp_path, [Kept("a", "1+1?", 0.0)])
    assert read_scores(tmp_path / ROWS) == {("b", "x"): 0.5, ("a", "1+1?"): 0.0}
    assert keep(tmp_path, []) is None
    with (tmp_path / ROWS).open("a") as file:
        file.write('null\n{"test": "c"}\n{"test": "d", "question": "q", "sco')
    assert len(read_scores(tmp_path / ROWS)) == 2
    keep(tmp_path, [Kept("e", "q", 1.0)])
    assert [json.loads(line)["test"] for line in (tmp_path / ROWS).read_text().splitlines()] == ["b", "a", "c", "e"]
