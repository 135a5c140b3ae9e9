"""The configuration: who wins over whom, what is refused and how, and that what is saved comes back."""

import tomllib

import numpy as np
import pytest

from minigpt.config import PRESETS, build_config, differences, load_config, preset_values, to_toml
from minigpt.errors import UsageError
from minigpt.model.gpt import parameter_count, weight_shapes


def complaint(sets=(), **layers):
    with pytest.raises(UsageError) as caught:
        load_config("tiny", sets=sets, **layers)
    return str(caught.value)


# ---- precedence


def test_preset_then_file_then_flags_then_settings(tmp_path):
    """Each layer changes one key more than the next, so that every key shows who had the last word."""
    file = tmp_path / "mine.toml"
    file.write_text("[sft]\nsteps = 11\nbatch_size = 11\nlog_every = 11\n", "utf-8")
    flags = {"sft": {"steps": 22, "batch_size": 22}}
    config = load_config("tiny", file, ["sft.steps=33"], None, flags)
    preset = load_config("tiny").sft
    assert (config.sft.steps, config.sft.batch_size, config.sft.log_every) == (33, 22, 11)
    assert config.sft.learning_rate == preset.learning_rate  # untouched: the preset's
    assert (preset.steps, preset.batch_size) != (33, 22)


def test_of_several_flags_and_settings_the_later_wins():
    config = load_config("tiny", None, ["seed=5", "seed=6"], None, {"sft": {"steps": 1}}, {"sft": {"steps": 2}})
    assert (config.seed, config.sft.steps) == (6, 2)


def test_a_saved_configuration_stands_in_for_the_preset():
    saved = load_config("tiny", sets=["sft.steps=7", "seed=9"]).model_dump()
    config = load_config("small", saved=saved, sets=["seed=10"])
    assert (config.sft.steps, config.seed) == (7, 10)
    assert config.model == load_config("tiny").model


@pytest.mark.parametrize(
    ("setting", "value"),
    [("pretrain.optimizer=muon", "muon"), ('pretrain.optimizer="muon"', "muon"), ("pretrain.learning_rate=1e-3", 0.001),
     ("pretrain.learning_rate=1", 1.0), ("pretrain.compile=false", False), (" pretrain.steps = 12 ", 12),
     ('data.sft=["a.jsonl", "b.jsonl"]', ["a.jsonl", "b.jsonl"])],
)  # fmt: skip
def test_settings_are_toml_values_or_bare_words(setting, value):
    config = load_config("tiny", sets=[setting])
    section, key = setting.split("=")[0].strip().split(".")
    found = getattr(getattr(config, section), key)
    assert found == value and type(found) is type(value)


# ---- what is refused


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("pretrain.learning_rat=1", "unknown key pretrain.learning_rat (did you mean learning_rate?)"),
        ("pretran.steps=1", "unknown key pretran (did you mean pretrain?)"),
        ("dpo.bta=0.1", "unknown key dpo.bta (did you mean beta?)"),
        ("model.zzz=1", "unknown key model.zzz (known: ahead_weight, attention_scale"),
        ("model.n_layer='4'", "model.n_layer: must be a valid integer (got '4')"),
        ("model.n_layer=4.0", "model.n_layer: must be a valid integer (got 4.0)"),
        ("model.n_layer=true", "model.n_layer: must be a valid integer (got True)"),
        ("pretrain.compile=1", "pretrain.compile: must be a valid boolean (got 1)"),
        ("pretrain.compile='yes'", "pretrain.compile: must be a valid boolean (got 'yes')"),
        ("pretrain.learning_rate=.001", "pretrain.learning_rate: must be a valid number (got '.001')"),
        ("pretrain.learning_rate=nan", "pretrain.learning_rate: must be a finite number"),
        ("pretrain.grad_clip=inf", "pretrain.grad_clip: must be a finite number"),
        ("pretrain.steps=0", "pretrain.steps: must be greater than or equal to 1"),
        ("tokenizer.kind=bpo", "tokenizer.kind: must be 'bpe', 'char', 'byte' or 'imported'"),
        ("data.sft=one.jsonl", "data.sft: must be a valid list (got 'one.jsonl')"),
        ("seed=-1", "seed: must be greater than or equal to 0"),
        ("seed=99999999999999999999", "seed: must be less than"),
        ("model=3", "model: must be a section"),
        ("model.n_head=3", "d_model = 128 cannot be divided by n_head = 3"),
        ("model.n_kv_head=3", "n_head = 4 must be a multiple of n_kv_head = 3"),
        ("model.head_dim=5", "head_dim = 5 must be even"),
        ("model.n_head=0", "model.n_head: must be greater than or equal to 1"),
        ("sft.accumulation=3", "batch_size = 8 must be a multiple of grad_accumulation = 3"),
        ("pretrain.ema_decay=1.0", "pretrain.ema_decay: must be less than 1"),
        ("=3", "--set '=3' has no value"),
        ("seed", "--set 'seed' has no value"),
    ],
)
def test_mistakes_are_named(setting, says):
    assert says in complaint([setting])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["ema_decay=0.9", "swa_fraction=0.5"], "ema_decay and swa_fraction are two averages of the same weights"),
        (["ema_decay=0.9", "shard=moments"], "ema_decay needs shard = 'none'"),
        (["swa_fraction=0.5", "shard=full"], "swa_fraction needs shard = 'none'"),
        (["swa_fraction=0.5", "outer_every=50"], "swa_fraction needs outer_every = 0"),
    ],
)
def test_averages_of_parts_of_the_weights_are_refused(settings, says):
    assert f"pretrain: {says}" in complaint([f"pretrain.{setting}" for setting in settings])


def test_the_same_mistake_in_a_file_and_in_a_flag(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("[sft]\nstep = 3\n", "utf-8")
    says = "unknown key sft.step (did you mean steps?)"
    assert says in complaint(file=file)
    with pytest.raises(UsageError, match="did you mean steps"):
        load_config("tiny", None, [], None, {"sft": {"step": 3}})


def test_all_mistakes_are_named_at_once():
    says = complaint(["seed=-1", "sft.stepps=3"])
    assert "seed:" in says and "sft.stepps" in says


def test_files_that_cannot_be_read(tmp_path):
    assert "does not exist" in complaint(file=tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[sft]\nsteps = = 3\n", "utf-8")
    assert "not valid TOML" in complaint(file=broken) and "line 2" in complaint(file=broken)
    broken.write_bytes(b"\xff\xfe")
    assert "not valid TOML" in complaint(file=broken)


def test_an_unknown_preset():
    with pytest.raises(UsageError, match="no preset 'huge'.*tiny, small, medium"):
        load_config("huge")


# ---- what is saved and compared


@pytest.mark.parametrize("preset", PRESETS)
def test_the_saved_configuration_comes_back_unchanged(preset):
    config = load_config(preset, sets=['data.sft=["a \\"b\\".jsonl", "中.txt"]', "model.rope_theta=500000"])
    assert build_config(tomllib.loads(to_toml(config))) == config


def test_differences_name_the_keys():
    old, new = load_config("tiny"), load_config("tiny", sets=["sft.steps=3", "seed=2"])
    lines = differences(old.model_dump(), new.model_dump())
    assert lines == ["seed: 1 -> 2", f"sft.steps: {old.sft.steps} -> 3"]
    assert differences({"a": {"b": 1}}, {"a": {"b": 1}}) == []
    assert differences({"a": 1}, {"c": 2}) == ["a: 1 -> None", "c: None -> 2"]


def test_a_configuration_cannot_be_changed_after_it_is_built():
    with pytest.raises(ValueError, match="frozen"):
        load_config("tiny").sft.steps = 3


# ---- presets


@pytest.mark.parametrize(
    ("preset", "low", "high"), [("tiny", 0.9e6, 1.1e6), ("small", 9e6, 11e6), ("medium", 24e6, 28e6)]
)
def test_presets_have_the_size_that_they_claim(preset, low, high):
    """With as many tokens as the preset's tokenizer may learn."""
    config = load_config(preset)
    model = config.model.model_copy(update={"vocab_size": config.tokenizer.vocab_size})
    count = sum(int(np.prod(shape)) for shape in weight_shapes(model).values())
    assert low < count < high
    assert parameter_count(model) == count


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_say_every_stage(preset):
    assert {"model", "tokenizer", "pretrain", "sft", "dpo"} <= preset_values(preset).keys()
    config = load_config(preset)
    for stage in (config.pretrain, config.sft, config.dpo):
        assert stage.warmup_steps < stage.steps >= stage.save_every


@pytest.mark.parametrize("text", [r'["C:\texts\new.txt"]', r"['C:\texts\new.txt']", '["C:/texts/new.txt"]'])
def test_paths_of_windows_in_a_setting(text):
    config = load_config("tiny", None, [f"data.pretrain={text}"])
    assert [path.replace("\\", "/") for path in config.data.pretrain] == ["C:/texts/new.txt"]
