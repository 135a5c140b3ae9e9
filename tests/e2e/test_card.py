"""The model card: figures from the run and from nowhere else."""

import json

from minigpt.cli.opening import open_at
from minigpt.exchange.card import model_card
from minigpt.exchange.readers.checks import Check
from minigpt.model.gpt import weight_shapes


def card_of(run, stage, to="hf", checks=()):
    return model_card(open_at(run, None)[0], stage, to, "float32", checks)


def test_the_figures_are_those_of_the_run(copy):
    text = card_of(copy, "dpo")
    sft, dpo = (json.loads((copy / s / "final" / "state.json").read_text())["metrics"] for s in ("sft", "dpo"))
    assert f"validation loss {sft['loss']:.4f}" in text and f"bits per byte {sft['bits_per_byte']:.4f}" in text
    assert f"reward margin {dpo['margin']:.4f}" in text and f"{dpo['pairs']} pairs" in text
    size = sum(a * (b[0] if b else 1) for a, *b in weight_shapes(open_at(copy, None)[0].model_config).values())
    assert f"{size:,} parameters (qwen3)" in text
    meta = json.loads((copy / "data" / "sft" / "train" / "meta.json").read_text())
    assert f"{meta['tokens']:,} tokens, {meta['sequences']:,} conversations" in text
    assert text.startswith("---\nlibrary_name: transformers\n") and "\n- minigpt\n- qwen3\n- pretrain\n" in text


def test_data_is_named_without_the_place_where_it_lay(copy, sources):
    text = card_of(copy, "dpo")
    assert "story.txt" in text and "chat.jsonl" in text and str(sources.text.parent) not in text
    assert str(copy) not in text


def test_later_stages_are_not_the_exported_model(copy):
    text = card_of(copy, "sft")
    assert "| sft |" in text and "| dpo |" not in text and "preferred" not in text and "- dpo" not in text


def test_what_is_not_known_is_not_invented(copy):
    """Data and environment deleted, a file with a bar in its name, a state without measurements."""
    for path in (copy / "data" / "sft" / "train" / "meta.json", copy / "env.json"):
        path.unlink()
    config = (copy / "config.toml").read_text()
    (copy / "config.toml").write_text(config.replace("chat.jsonl", "a|b.jsonl"))
    state = copy / "sft" / "final" / "state.json"
    state.write_text(json.dumps({"step": 4}))
    text = card_of(copy, "sft")
    assert "| sft | a∣b.jsonl | – |" in text and "| sft | no measurement was kept | – |" in text
    assert "Trained with" not in text


def test_demo_results_and_readers_are_told(copy):
    (copy / "demo.json").write_text(json.dumps({"measured": {"sft": {"exact_match": 0.75}, "dpo": {"manner": 0.5}}}))
    checks = [Check("transformers", "logits", 2.5e-6, 1e-4), Check("mlx-lm", "everything", None, 0, "not installed")]
    text = card_of(copy, "dpo", "mlx", checks)
    assert "| exact match | 0.750 | – |" in text and "| manner | – | 0.500 |" in text
    assert "| transformers | logits | 2.5e-06 | 0.0001 |" in text and "mlx-lm |" not in text


def test_every_export_has_its_card(minigpt, copy):
    for to in ("hf", "mlx", "gguf"):
        assert minigpt("export", copy, "--to", to, "--no-verify").code == 0
        text = (copy / "export" / to / "README.md").read_text("utf-8")
        assert "# copy, after dpo" in text and "read back by other tools" not in text
