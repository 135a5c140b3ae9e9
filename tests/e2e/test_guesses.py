"""What people try first: names of other programs, a run without a flag, help and version as words, completion."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from command import QUICK, finished, journal, process, tiny, weights

from minigpt import __version__
from minigpt.cli.flags import Where
from minigpt.cli.keys import keys_of, known_as, sections
from minigpt.config import PRESETS, Config, load_config
from minigpt.stages.table import STAGES

GREEDY = ("--temperature", 0, "--max-tokens", 4, "--backend", "torch")


# ---- words without a flag


def test_a_run_without_a_flag_goes_on(minigpt, copy, trained):
    """`minigpt run DIR` of a run that lacks its last stage ends in the same weights as the whole one."""
    shutil.rmtree(copy / "dpo")
    result = minigpt("run", copy, "--backend", "torch")
    assert result.code == 0 and f"minigpt chat {copy}" in result.err, result.err
    assert weights(copy, "dpo") == weights(trained, "dpo")
    minigpt("run", copy, "--run", "other").refused(2, "Two runs are given")
    minigpt("run", copy, trained).refused(2, "Two runs are given")


def test_data_without_a_flag_is_data(minigpt, sources, tmp_path):
    flags = ("--run", "r", "--backend", "torch")
    assert minigpt("run", sources.text, sources.conversations, *tiny(), *flags).code == 0
    assert sorted(path.parent.name for path in tmp_path.glob("r/*/final")) == ["pretrain", "sft"]
    minigpt("run", "surplus").refused(3, "surplus does not exist")


def test_a_prompt_without_a_flag(minigpt, trained):
    words = minigpt("generate", trained, "The cat", *GREEDY)
    assert words.code == 0 and words.out == minigpt("generate", trained, "-p", "The cat", *GREEDY).out
    minigpt("generate", trained, "The cat", "-p", "A dog").refused(2, "TEXT and --prompt exclude each other")


def test_the_most_usual_settings_of_a_stage_are_flags(minigpt, sources, tmp_path):
    shape = [word for word in tiny() if not str(word).startswith("pretrain.")]
    shape = [word for word, after in zip(shape, [*shape[1:], ""], strict=True) if (word, after) != ("--set", "--set")]
    given = ("--steps", 3, "--lr", 0.002, "--batch-size", 4, "--set", "pretrain.log_every=1")
    result = minigpt("train", "pretrain", sources.text, *shape, *given, "--run", "r", "--backend", "torch")
    assert result.code == 0, result.err
    steps = [line for line in journal(tmp_path / "r", "pretrain") if "loss" in line]
    assert len(steps) == 3 and max(line["learning_rate"] for line in steps) <= 0.002
    saved = (tmp_path / "r" / "config.toml").read_text("utf-8")
    assert "steps = 3" in saved and "learning_rate = 0.002" in saved and "batch_size = 4" in saved
    both = ("--steps", 3, "--set", "pretrain.steps=4")
    minigpt("train", "pretrain", "--run", "r", *both).refused(2, "--steps 3 and --set pretrain.steps=4", "one of them")


def test_a_stage_may_stand_after_the_flags(minigpt):
    minigpt("train", "--run", "r", "sft", "--data", "no.jsonl").refused(2, "sft needs a trained model in r")
    minigpt("train", "--run", "r").refused(2, "Missing argument 'STAGE'", "pretrain, sft, dpo")


# ---- names of other programs


@pytest.mark.parametrize(
    ("other", "ours"),
    [("--temp", "--temperature"), ("--max-new-tokens", "--max-tokens"), ("--guesses", "--draft-tokens")],
)
def test_other_spellings_of_flags_mean_the_same(minigpt, trained, other, ours):
    flags = ("generate", trained, "-p", "The cat", "--lookup", "--backend", "torch", "--seed", 4)
    values = {"--temperature": 0, "--max-tokens": 5, "--draft-tokens": 2}
    found = []
    for name in (other, ours):
        words = [word for flag, value in values.items() for word in (name if flag == ours else flag, value)]
        result = minigpt(*flags, *words)
        assert result.code == 0, result.err
        found.append((result.out, result.err.partition(" tokens per")[0]))
    assert found[0] == found[1]
    assert f"{other} " not in minigpt("generate", "--help").out  # one name is enough to read


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--steps", "9"], ["--set pretrain.steps=… or --set sft.steps=…", "minigpt run --help"]),
        (["demo", "--lr", "9"], ["No such option: --lr", "--set pretrain.learning_rate=…"]),
        (["train", "sft", "--num-layers", "2"], ["--set model.n_layer=…"]),
        (["train", "sft", "--lora-rank", "8"], ["--set sft.lora_rank=…"]),
        (["run", "--set", "sft.lr=1e-4"], ["unknown key sft.lr (did you mean sft.learning_rate?)"]),
        (["run", "--set", "model.hidden_size=64"], ["did you mean model.d_model?"]),
        (["help", "rnu"], ["No such command 'rnu'"]),
    ],
    ids=" ".join,
)
def test_names_of_other_programs_are_answered_with_ours(minigpt, arguments, words):
    minigpt(*arguments).refused(2, *words)


def test_names_of_devices():
    def meant(*names):
        where = Where(*names)
        return where.backend, where.device

    assert meant("auto", "cuda") == meant("cuda", "auto") == meant("cuda", "cuda") == ("torch", "gpu")
    assert meant("cuda", "cpu") == ("torch", "cpu") and meant("pytorch", "auto") == ("torch", "auto")
    assert meant("mlx", "gpu") == ("mlx", "gpu") and meant("auto", "auto") == ("auto", "auto")


@pytest.mark.parametrize("flags", [("--device", "mps"), ("--backend", "mps"), ("--backend", "metal")], ids=" ".join)
def test_mps_is_explained(minigpt, trained, flags):
    minigpt("generate", trained, *flags).refused(2, "MLX", "--backend mlx --device gpu")


def test_cuda_where_there_is_none(minigpt, trained):
    result = minigpt("generate", trained, "-p", "A", "--device", "cuda", "--max-tokens", 1)
    assert result.code == 0 or "torch" in result.err and "Traceback" not in result.err


# ---- help, version, completion


def test_help_and_version_are_words_too(minigpt):
    assert minigpt("help", "train", "sft").out == minigpt("train", "sft", "--help").out != ""
    assert minigpt("help").out == minigpt("--help").out != ""
    assert minigpt("version").out == minigpt("-V").out == f"{__version__}\n"


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_has_a_help_of_its_own(minigpt, stage):
    shown = " ".join(minigpt("train", stage, "--help").out.split())
    assert STAGES[stage].summary in shown and f"minigpt train {stage} runs/mine" in shown
    own = {"dpo": "--set dpo.beta=", "sft": "--set sft.lora_rank="}
    for other, words in own.items():
        assert (words in shown) == (other == stage)


def test_each_command_ends_with_an_example(minigpt):
    from test_start import COMMANDS

    for path in COMMANDS:
        shown = minigpt(*path, "--help").out
        if "Commands:" not in shown:
            last = shown.rstrip().split("\n\n")[-1]
            assert last.startswith("Example") and f"  minigpt {' '.join(path)}" in last, (path, last)


def test_a_shell_completes(minigpt):
    words = {"COMP_WORDS": "minigpt train ", "COMP_CWORD": "2", "_MINIGPT_COMPLETE": "complete_bash"}
    done = subprocess.run(
        [sys.executable, "-m", "minigpt"], env=os.environ | words, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == [*STAGES]
    assert "--install-completion" in minigpt("--help").out


# ---- config


def test_config_tells_a_script_every_key(minigpt):
    """Names, defaults and presets against the configuration itself."""
    rows = json.loads(minigpt("config", "--json").out)
    presets = {name: load_config(name).model_dump() for name in PRESETS}

    def flat(values, prefix=""):
        for name, value in values.items():
            yield from flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]

    found = {f"{row['section']}.{row['name']}".strip("."): row for row in rows}
    assert found.keys() == dict(flat(presets["tiny"])).keys()
    for preset, values in presets.items():
        assert {name: row["presets"][preset] for name, row in found.items()} == dict(flat(values))
    defaults = dict(flat(Config().model_dump())) | {"model.head_dim": 0}  # which follows from the others
    assert {name: row["default"] for name, row in found.items()} == defaults
    assert all(row["meaning"] and row["allowed"] for row in rows), [
        name for name, row in found.items() if not row["meaning"]
    ]
    assert found["dpo.beta"]["allowed"] == "number > 0"
    assert found["sft.dropout"]["allowed"] == "number ≥ 0, < 1"
    assert found["sft.optimizer"]["allowed"] == "adamw | muon"
    assert found["seed"]["allowed"] == f"whole number ≥ 0, < {2**63}"


def test_config_shows_one_section(minigpt):
    result = minigpt("config", "dpo", "--preset", "small")
    assert result.code == 0 and max(map(len, result.out.splitlines())) <= 80
    assert f"beta {load_config('small').dpo.beta}"[:6] in " ".join(result.out.split()) and "n_layer" not in result.out
    minigpt("config", "dp").refused(2, "no section 'dp'", "Did you mean dpo?")


def test_keys_by_other_names():
    assert known_as("--num-layers") == ["model.n_layer"] == known_as("n_layer")
    assert known_as("lr") == [f"{stage}.learning_rate" for stage in STAGES] and known_as("nonsense") == []
    assert {key.name for key in keys_of("model")} >= {"n_layer", "rope_scaling.factor"} and "model" in sections()


# ---- paths and locales


def test_every_path_begins_with_home_where_it_says_so(minigpt, copy, sources, tmp_path, monkeypatch):
    """As with --run=~/x and quotes, where no shell has replaced the ~."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    shutil.copytree(copy, home / "mine")
    shutil.copy(sources.text, home / "story.txt")
    (home / "prompts.txt").write_text("The cat\n", "utf-8")
    plain = minigpt("generate", copy, "-p", "The cat", *GREEDY).out
    assert minigpt("generate", "~/mine", "-p", "The cat", *GREEDY).out == plain
    assert minigpt("generate", "--run=~/mine", "--prompts=~/prompts.txt", *GREEDY).out == plain
    assert minigpt("export", "~/mine", "--no-verify", "--out=~/exported").code == 0
    assert (home / "exported" / "model.safetensors").exists()
    assert minigpt("data", "check", "~/story.txt").code == 0
    assert minigpt("tokenizer", "train", "~/story.txt", "--out", "~/tokens", "--kind", "char").code == 0
    result = minigpt("train", "pretrain", *tiny(), "--data=~/story.txt", "--run=~/new", "--backend", "torch")
    assert result.code == 0 and (home / "new" / "pretrain" / "final").is_dir(), result.err
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith("~")]


def test_a_locale_without_letters_takes_them_all_the_same(trained, tmp_path):
    """Arguments, names of files, stdin and output in another script under LC_ALL=C with UTF-8 mode turned off."""
    plain = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    (tmp_path / "小明.txt").write_text("看见\n", "utf-8")
    env = {key: value for key, value in os.environ.items() if key != "PYTHONIOENCODING"} | plain
    flags = ("generate", trained, "--temperature", 0, "--max-tokens", 4, "--backend", QUICK)
    for words in (("-p", "看见"), ("--prompts", tmp_path / "小明.txt")):
        result = finished(process(*flags, *words, "--json", env=env, stdin=subprocess.DEVNULL))
        assert result.code == 0 and json.loads(result.out)[0]["prompt"] == "看见", result.err
    shown = finished(process(*flags, "-p", "看见", env=env, stdin=subprocess.DEVNULL))
    assert shown.out.startswith("看见")
