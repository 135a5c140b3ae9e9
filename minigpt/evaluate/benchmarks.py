"""Tests by name: the bundled ones, which need nothing, and those of EleutherAI's harness, which `lm_eval` runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from minigpt.errors import UsageError
from minigpt.evaluate.bundled import minimal_pairs, python_choice, python_cloze
from minigpt.evaluate.choices import Choice, Tested, run_choices
from minigpt.evaluate.intervals import Figure
from minigpt.evaluate.world import shares, world_rows
from minigpt.events import Report, silent
from minigpt.generate.engine import Engine

WORLD_QUESTIONS = 300


@dataclass(frozen=True)
class Benchmark:
    """What a test asks, what guessing reaches (0 … 1; None: there is nothing to guess), and a trap in reading it."""

    name: str
    asks: str
    chance: float | None
    note: str = ""


# Chance: one over the number of options, the mean over the rows where they differ. Sources: the papers named.
KNOWN = (
    Benchmark("mmlu", "57 subjects from school to law and medicine, four options each (Hendrycks et al. 2021)", 0.25,
              "14,042 rows; small models stay at chance"),
    Benchmark("gsm8k", "grade-school word problems; the number at the end counts (Cobbe et al. 2021)", 0.0,
              "1,319 rows; written by the model, strict and flexible match differ"),
    Benchmark("humaneval", "164 Python functions from their docstrings, run against tests (Chen et al. 2021)", 0.0,
              "runs the code that the model wrote: only in a sandbox; report pass@k with k and the temperature"),
    Benchmark("truthfulqa_mc1", "817 questions that people often answer wrongly, one right option (Lin et al. 2022)",
              0.226, "four to five options on average; larger models were not always better"),
    Benchmark("truthfulqa_mc2", "the same, several right options: their share of the probability", None,
              "guessing reaches about a half, the share of right options"),
    Benchmark("toxigen", "is a statement about a group of people toxic? (Hartvigsen et al. 2022)", 0.5,
              "the classes are unequal: compare with always saying \"no\""),
    Benchmark("bbq", "questions about people with and without the facts, three options (Parrish et al. 2022)", 1 / 3,
              "look at the bias scores as well: without facts \"unknown\" is right"),
    Benchmark("ceval-valid", "52 Chinese subjects, four options each (Huang et al. 2023)", 0.25,
              "the answers of its test part are not public: the validation rows are used"),
    Benchmark("cmmlu", "67 subjects of Chinese schools and life, four options (Li et al. 2023)", 0.25),
    Benchmark("hellaswag", "which sentence goes on with a scene, four options (Zellers et al. 2019)", 0.25,
              "read acc_norm"),
    Benchmark("arc_easy", "grade-school science, mostly four options (Clark et al. 2018)", 0.25),
    Benchmark("arc_challenge", "the science questions that simple methods fail", 0.25, "read acc_norm"),
    Benchmark("piqa", "which of two ways reaches a physical goal (Bisk et al. 2020)", 0.5),
    Benchmark("winogrande", "whom a pronoun means, two options (Sakaguchi et al. 2020)", 0.5),
    Benchmark("lambada_openai", "the last word of a passage (Paperno et al. 2016)", 0.0),
    Benchmark("blimp", "67 kinds of minimal pairs of English grammar (Warstadt et al. 2020)", 0.5),
)  # fmt: skip

BUNDLED: dict[str, tuple[Benchmark, Callable[[int], list[Choice]] | None]] = {
    "world": (Benchmark("world", "the built-in world's tasks in unseen combinations, and manner", 0.0,
                        "only for models that were trained on it"), None),
    "python-choice": (Benchmark("python-choice", "which sentence says what a function of Python's library does", 0.25,
                                "not held out where a model was trained on python-docs"), python_choice),
    "python-cloze": (Benchmark("python-cloze", "the last word of a sentence of Python's documentation", 0.0,
                               "not held out where a model was trained on python-docs"), python_cloze),
    "minimal-pairs": (
        Benchmark("minimal-pairs", "a right sentence, and one with a fault of grammar; English and Chinese", 0.5),
        lambda seed: minimal_pairs(),
    ),
}  # fmt: skip


def run_tests(
    engine: Engine, names: Sequence[str], seed: int = 0, limit: int | None = None, shots: int | None = None,
    task_files: Path | None = None, report: Report = silent,
) -> list[Tested]:  # fmt: skip
    """The named tests: bundled ones, and all others by the harness, at most `limit` rows of each.

    "NAME=FILE" takes the rows of a file on this machine for a test of the harness, `task_files` a directory of tests in
    the harness's own form. Raises UsageError for a name that nobody knows.
    """
    found = [_bundled(engine, name, seed, limit) for name in names if name in BUNDLED]
    others = [name for name in names if name not in BUNDLED]
    if others:
        from minigpt.evaluate.harness import run_harness

        found += run_harness(engine, others, limit, shots, task_files, report)
    if not found:
        raise UsageError("No test is named.", f"Such as {', '.join(BUNDLED)}.")
    return found


def _bundled(engine: Engine, name: str, seed: int, limit: int | None) -> Tested:
    benchmark, make = BUNDLED[name]
    if make is None:
        rows = world_rows(engine, seed + 1, limit or WORLD_QUESTIONS)
        figures: dict[str, Figure] = shares(rows)
        groups = {key.removeprefix("exact_match_"): one for key, one in figures.items() if key.count("_") > 1}
        return Tested(name, {key: figures[key] for key in ("exact_match", "manner")}, groups, benchmark.chance, rows)
    items = make(seed)
    if limit is not None and limit < len(items):
        items = [items[i * len(items) // limit] for i in range(limit)]
    return run_choices(engine, name, items)
