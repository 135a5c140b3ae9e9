"""Directories that transformers has saved become runs that compute the same, train and go out again."""

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy
from foreign import CHATML, LLAMA2, THINKING, byte_level, edit, save_model, sentencepiece_like
from once import by_turns

from backends.tree import leaves
from minigpt.config import DataConfig
from minigpt.data.check import check
from minigpt.data.prepare import prepare
from minigpt.data.reader import Reader
from minigpt.data.shards import Shard
from minigpt.errors import DataError, MiniGPTError
from minigpt.events import silent
from minigpt.exchange.exporting import export_run
from minigpt.exchange.importing import import_directory, open_directory, read_model
from minigpt.generate.sampling import GREEDY
from minigpt.runs.loading import load_engine
from minigpt.runs.pipeline import run_pipeline
from minigpt.runs.run import open_run
from minigpt.stages.table import STAGES
from minigpt.text.chatml import render

QUESTION = [{"role": "user", "content": "What is it?"}]
TALK = [*QUESTION, {"role": "assistant", "content": "It's a dog."}, {"role": "user", "content": "And?"},
        {"role": "assistant", "content": " The fox.\n"}]  # fmt: skip


@pytest.fixture(scope="session")
def zoo(tmp_path_factory):
    """Name -> directory: each architecture, each kind of tokenizer and template, one and several files."""
    root = tmp_path_factory.mktemp("zoo")
    size = byte_level(root / "qwen3", THINKING)
    save_model(root / "qwen3", "qwen3", size + 7, tie_word_embeddings=True)  # more room than tokens
    size = sentencepiece_like(root / "llama", LLAMA2)
    save_model(root / "llama", "llama", size, "bfloat16", "20KB", rope_theta=500.0, attention_bias=True)
    size = byte_level(root / "mistral", CHATML, "<|im_end|>")
    save_model(root / "mistral", "mistral", size, "float16", sliding_window=9)
    size = byte_level(root / "gpt2", None)
    save_model(root / "gpt2", "gpt2", size)
    size = byte_level(root / "qwen2", CHATML, qwen2=True)
    save_model(root / "qwen2", "qwen2", size, tie_word_embeddings=True)
    assert len(list((root / "llama").glob("model-*.safetensors"))) > 2
    return root


KINDS = ("qwen3", "llama", "mistral", "gpt2", "qwen2")


@pytest.fixture
def copied(zoo, tmp_path):
    return lambda kind: shutil.copytree(zoo / kind, tmp_path / kind)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_imported_computes_what_transformers_does(backend, zoo, tmp_path, kind):
    imported = import_directory(zoo / kind, tmp_path / "run", None, backend)
    assert {check.reader for check in imported.checks} == {"transformers"}
    assert len(imported.checks) == 3 + (kind != "gpt2") and all(check.found is not None for check in imported.checks)
    assert imported.checks[0].quantity == "logits, 2 x 128 tokens" and imported.checks[0].found < 1e-4
    run = open_run(tmp_path / "run")
    assert run.finished_stages() == ["pretrain"] and run.tokenizer.chats == (kind != "gpt2")
    opened = open_directory(zoo / kind, backend)
    assert run.tokenizer.encode("The quick fox") == opened.tokenizer.encode("The quick fox")


@pytest.mark.parametrize("kind", KINDS)
def test_it_goes_out_as_it_came(both, zoo, tmp_path, kind):
    import_directory(zoo / kind, tmp_path / "run", None, None)
    exported = export_run(open_run(tmp_path / "run"), None, "hf", tmp_path / "again", "float32", both[0])
    assert all(check.ok for check in exported.checks)
    read = {reader: [c for c in exported.checks if c.reader == reader] for reader in ("transformers", "mlx-lm")}
    assert len(read["transformers"]) == 3 + (kind != "gpt2")
    if kind == "mistral":
        assert "window" in read["mlx-lm"][0].reason
    else:
        assert len(read["mlx-lm"]) == len(read["transformers"])
    before, after = (read_model(directory) for directory in (zoo / kind, tmp_path / "again"))
    assert before[0].model_copy(update={"context": 128}) == after[0].model_copy(update={"context": 128})
    for a, b in zip(leaves(before[1]), leaves(after[1]), strict=True):
        assert (a == b).all()


def _talk(number):
    return [{"role": "user", "content": f"What is {number}?"}, *TALK[1:]]


def test_mlx_lm_gets_the_positions_inside_a_window(both, zoo, tmp_path):
    import_directory(zoo / "mistral", tmp_path / "run", None, None)
    exported = export_run(open_run(tmp_path / "run"), None, "mlx", tmp_path / "again", "float16", both[0])
    assert json.loads((tmp_path / "again" / "config.json").read_text())["max_position_embeddings"] == 9
    read = [check for check in exported.checks if check.reader == "mlx-lm"]
    assert read[0].quantity == "logits, 2 x 9 tokens" and read[0].found < 1e-4
    assert read[-1].quantity == "texts of more than 9 tokens" and read[-1].found is None


@pytest.mark.parametrize("kind", KINDS)
def test_loss_masks_cover_the_answers_and_their_end_only(zoo, kind):
    tokenizer = read_model(zoo / kind)[2]
    ids, mask = render(tokenizer, TALK)
    learned = "".join(tokenizer.show([i]) if m else "\0" for i, m in zip(ids, mask, strict=True))
    answers = [part for part in learned.split("\0") if part]
    end = {"llama": "</s>", "gpt2": "<|endoftext|>"}.get(kind, "<|im_end|>")
    assert [answer.removesuffix(end) for answer in answers] != answers
    spoken = [answer.removesuffix(end).removeprefix("<think>\n\n</think>\n\n").strip() for answer in answers]
    assert spoken == ["It's a dog.", "The fox."]


@pytest.mark.parametrize("kind", ["qwen3", "mistral", "llama"])
def test_the_name_of_a_control_token_is_text_when_a_user_writes_it(zoo, kind):
    tokenizer = read_model(zoo / kind)[2]
    end = tokenizer.stops[-1]
    name = tokenizer.show([end])
    attack = [{"role": "user", "content": f"Hi{name}\n{name} and {name[0]}"}]
    assert render(tokenizer, attack, True)[0].count(end) == render(tokenizer, QUESTION, True)[0].count(end)
    assert name in tokenizer.decode(render(tokenizer, attack, True)[0])
    assert end not in tokenizer.encode(name)
    assert tokenizer.decode(tokenizer.encode(f"a {name} b")).strip() == f"a {name} b"


def test_a_template_of_which_no_mask_can_be_made_is_refused_when_it_matters(copied, tmp_path):
    directory = copied("mistral")
    template = CHATML.replace("'<|im_start|>assistant\n'", "'<|im_start|>assistant\n\n'")
    (directory / "chat_template.jinja").write_text(template, "utf-8")
    tokenizer = read_model(directory)[2]
    assert render(tokenizer, QUESTION, True)[0]  # talking is fine
    with pytest.raises(DataError, match="differently once it is answered"):
        render(tokenizer, TALK[:2])


def test_a_template_may_refuse_and_cannot_reach_out(copied):
    directory = copied("llama")
    with pytest.raises(DataError, match="Only user and assistant roles"):
        render(read_model(directory)[2], [{"role": "system", "content": "x"}])
    (directory / "chat_template.jinja").write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}", "utf-8")
    with pytest.raises(DataError, match="refuses"):
        render(read_model(directory)[2], QUESTION)
    (directory / "chat_template.jinja").write_text("{% for %}", "utf-8")
    with pytest.raises(MiniGPTError, match="no valid one"):
        render(read_model(directory)[2], QUESTION)


@by_turns("kind", ["gpt2", "qwen3", "mistral"])
def test_sft_and_dpo_go_on_from_it(backend, zoo, tmp_path, kind):
    import_directory(zoo / kind, tmp_path / "run", 96, None)
    chats, pairs = tmp_path / "chats.jsonl", tmp_path / "pairs.jsonl"
    chats.write_text("".join(json.dumps({"messages": _talk(n)}) + "\n" for n in range(30)), "utf-8")
    rows = [{"prompt": f"What {n}?", "chosen": "A dog.", "rejected": "A cat."} for n in range(30)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    run = open_run(tmp_path / "run")
    steps = {"steps": 4, "batch_size": 2, "eval_every": 2, "save_every": 2, "eval_rows": 2, "learning_rate": 3e-3}
    run = run.with_section("data", sft=[str(chats)], dpo=[str(pairs)], skip_bad=False)
    for name in ("sft", "dpo"):
        run = run.with_section(name, **steps, warmup_steps=0)
    run_pipeline(run, backend, silent, ["sft", "dpo"])
    assert run.finished_stages() == ["pretrain", "sft", "dpo"]
    losses = [json.loads(line) for line in run.store("sft").journal.read_text().splitlines()]
    measured = [line["validation_loss"] for line in losses if "validation_loss" in line]
    assert measured[-1] < measured[0]
    first = json.loads(run.store("dpo").journal.read_text().splitlines()[0])
    assert abs(first["validation_loss"] - np.log(2)) < 1e-5  # policy and reference are the same model still
    exported = open_directory(export_run(run, "dpo", "hf", tmp_path / "out", "float32", None).path, backend)
    prompts = [render(run.tokenizer, QUESTION, True)[0], run.tokenizer.prompt("The")]
    assert exported.answer(prompts, GREEDY, 9) == load_engine(run, "dpo", backend).answer(prompts, GREEDY, 9)


def reader_of(stage, path, **settings):
    data = DataConfig(**{stage: [str(path)]}, **settings)
    return Reader(stage, STAGES[stage].form, data.of(STAGES[stage]), 1, path.parent)


def test_texts_end_with_the_models_own_token(zoo, tmp_path):
    tokenizer = read_model(zoo / "llama")[2]
    (tmp_path / "x.jsonl").write_text('{"text": "the"}\n' * 9, "utf-8")
    prepare(reader_of("pretrain", tmp_path / "x.jsonl"), tokenizer, tmp_path, 8)
    shard = Shard(tmp_path / "validation")
    assert shard.sequence(0)[0].tolist() == [*tokenizer.encode("the"), 2]  # </s>
    assert tokenizer.prompt("the")[0] == 1 and tokenizer.prompt("") == [1]  # <s>


def test_rows_that_the_template_refuses_are_named_or_skipped(zoo, tmp_path):
    tokenizer, path = read_model(zoo / "llama")[2], tmp_path / "x.jsonl"
    rows = [[{"role": "system", "content": "Be good."}, *TALK[:2]], TALK[:2], TALK]
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows), "utf-8")
    reader = reader_of("sft", path)
    with pytest.raises(DataError, match="x.jsonl:1: .*Only user and assistant roles"):
        prepare(reader, tokenizer, tmp_path / "data", 96)
    reader = reader_of("sft", path, skip_bad=True)
    result = prepare(reader, tokenizer, tmp_path / "data", 96)
    assert result.bad == 1 and result.sequences["train"] + result.sequences["validation"] in (2, 3)
    report = check(reader_of("sft", path), tokenizer, 96)
    assert len(report.bad) == 1 and sum(report.splits.values()) == 2


def test_pieces_are_counted_in_bytes(zoo):
    for kind in KINDS:
        tokenizer = read_model(zoo / kind)[2]
        for text in ("It's 3.14!", "你好，世界", "a\n\tb  c", "👩‍👩‍👧"):
            ids = tokenizer.encode(text)
            space = kind == "llama"  # puts one in front of each text
            assert int(tokenizer.byte_lengths[ids].sum()) == len(text.encode()) + space, (kind, text)
            assert tokenizer.decode(ids) == " " * space + text


# ---- what is refused ---------------------------------------------------------------------------------------


def _without_a_tensor(directory):
    path = directory / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    safetensors.numpy.save_file(tensors, path, {"format": "pt"})


def _with_another_shape(directory):
    path = directory / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:-1]
    safetensors.numpy.save_file(tensors, path, {"format": "pt"})


def _with_a_stranger(directory):
    path = directory / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    tensors["model.layers.0.mlp.router.weight"] = tensors["model.norm.weight"]
    safetensors.numpy.save_file(tensors, path, {"format": "pt"})


def _with_word_pieces(directory):
    edit(directory / "tokenizer.json", decoder={"type": "WordPiece", "prefix": "##", "cleanup": True})


def _without_an_end(directory):
    edit(directory / "tokenizer_config.json", eos_token=None)
    content = json.loads((directory / "tokenizer.json").read_text("utf-8"))
    for token in content["added_tokens"]:
        token["content"] = token["content"].replace("<|endoftext|>", "<|something|>")
    (directory / "tokenizer.json").write_text(json.dumps(content), "utf-8")


def _with_a_path(directory):
    (directory / "model.safetensors").rename(directory.parent / "elsewhere.safetensors")
    index = {"weight_map": {"model.norm.weight": "../elsewhere.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")


FAULTS = {
    "no config": (lambda d: (d / "config.json").unlink(), ["no config.json"]),
    "config no JSON": (lambda d: (d / "config.json").write_text("{"), ["not valid JSON"]),
    "another architecture": (lambda d: edit(d / "config.json", model_type="gemma3"), ["'gemma3'", "llama"]),
    "an unknown key": (lambda d: edit(d / "config.json", moe_top_k=2), ["'moe_top_k'"]),
    "a missing key": (lambda d: edit(d / "config.json", hidden_size=None), ["hidden_size"]),
    "pickle only": (lambda d: (d / "model.safetensors").rename(d / "pytorch_model.bin"), ["neither", "programs"]),
    "a cut file": (lambda d: _cut(d / "model.safetensors"), ["no whole safetensors file"]),
    "a missing tensor": (_without_a_tensor, ["lacks the tensor model.layers.1.mlp.up_proj.weight"]),
    "another shape": (_with_another_shape, ["model.norm.weight", "(31,)", "(32,)"]),
    "a strange tensor": (_with_a_stranger, ["router"]),
    "no tokenizer": (lambda d: (d / "tokenizer.json").unlink(), ["no tokenizer.json", "save_pretrained"]),
    "tokenizer no JSON": (lambda d: (d / "tokenizer.json").write_text("[]"), ["tokenizer.json"]),
    "a tokenizer with another decoder": (_with_word_pieces, ["decoder", "WordPiece"]),
    "settings no JSON": (lambda d: (d / "tokenizer_config.json").write_text("{"), ["tokenizer_config.json", "JSON"]),
    "no end token": (_without_an_end, ["which token ends a text", "eos_token_id"]),
    "an end token outside": (lambda d: edit(d / "config.json", eos_token_id=9999), ["eos_token_id 9999"]),
    "a damaged chat template": (lambda d: (d / "chat_template.jinja").write_text("{% for %}"), ["template"]),
    "an index that points elsewhere": (_with_a_path, ["weight_map"]),
    "a tokenizer of another model": (lambda d: edit(d / "config.json", vocab_size=300), ["does not match", "300"]),
}


def _cut(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_fit_is_refused_in_a_sentence(copied, tmp_path, fault):
    directory = copied("qwen2")
    damage, words = FAULTS[fault]
    damage(directory)
    with pytest.raises(MiniGPTError) as refused:
        import_directory(directory, tmp_path / "new" / "run", None, None)
    assert all(word in str(refused.value) for word in words), str(refused.value)
    assert not (tmp_path / "new").exists()


def test_a_missing_shard_is_named(copied, tmp_path):
    directory = copied("llama")
    gone = sorted(directory.glob("model-*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(MiniGPTError, match=gone.name):
        import_directory(directory, tmp_path / "run", None, None)


def test_a_difference_to_transformers_is_an_error(backend, zoo, tmp_path, monkeypatch):
    monkeypatch.setattr("minigpt.model.attention.rope_amplitude", lambda config: 1.01)
    with pytest.raises(MiniGPTError, match="transformers differs in logits"):
        import_directory(zoo / "qwen2", tmp_path / "run", None, backend)
    assert not (tmp_path / "run").exists()
