"""Bad input: one sentence that says what, where and what to do; the documented exit code; nothing damaged."""

import gzip
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from command import contents, conversation, pair, tiny, weights, write_rows

STORY = "她在花园里看见一只猫。今天天气很好。\n" * 50


@pytest.fixture
def files(tmp_path):
    """Every kind of file that cannot be used, in the directory where the command runs."""
    compressed = gzip.compress(("hello world\n" * 3000).encode())
    for name, data in {
        "empty.txt": b"", "empty.jsonl": b"", "binary.jsonl": bytes(range(256)) * 20, "binary.txt": bytes(range(256)),
        "gb.txt": STORY.encode("gb18030"), "gb.jsonl": ('{"text": "' + STORY.strip() + '"}\n').encode("gb18030"),
        "cut.txt.gz": compressed[: len(compressed) // 2], "cut.jsonl.gz": compressed[: len(compressed) // 2],
        "notgz.txt.gz": b"hello\n", "surrogate.jsonl": b'{"text": "ab \\ud800 cd"}\n', "short.txt": b"Hi there.\n",
        "quote.jsonl": b'{"text": "cut off\n', "single.jsonl": b"{'text': 'a'}\n", "story.docx": b"PK",
        "role.jsonl": b'{"messages": [{"role": "usr", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]}\n',
        "key.jsonl": b'{"mesages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]}\n',
        "turns.jsonl": b'{"messages": [{"role": "assistant", "content": "Yo"}]}\n', "number.jsonl": b"3\n",
        "same.jsonl": b'{"prompt": "Hi", "chosen": "Yes", "rejected": "Yes"}\n', "text.jsonl": b'{"text": "abc"}\n',
        "columns.csv": b"prompt,completion\nHi,Yes,No\n", "open.json": b'[{"text": "a"},',
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(data)
    write_rows(tmp_path / "long.jsonl", [conversation("word " * 300, "Yes.")] * 5)
    write_rows(tmp_path / "longpairs.jsonl", [pair("word " * 300, "Yes.", "No.")] * 5)
    write_rows(tmp_path / "good.jsonl", [conversation("Hi", "Yes")])
    (tmp_path / "nodata" / "inner").mkdir(parents=True)
    shutil.copy(tmp_path / "story.docx", tmp_path / "nodata" / "inner")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing.txt", ["missing.txt does not exist."]),
        ("emty.txt", ["emty.txt does not exist.", "Did you mean empty.txt?"]),
        ("nowhere/a.txt", ["nowhere/a.txt does not exist.", "directory nowhere does not exist either"]),
        ("tinyshakespear", ['Did you mean the built-in name "tinyshakespeare"?']),
        ("", ["name of a data file is empty"]),
        ("empty.txt", ["empty.txt: there is no text"]),
        ("empty.jsonl", ["empty.jsonl:1: the file is empty"]),
        ("nodata", ["nodata: no supported file in this directory", ".jsonl"]),
        ("*.xyz", ["*.xyz: this pattern matches no supported file"]),
        ("story.docx", ['files of type ".docx" are not supported', ".txt"]),
        ("binary.jsonl", ["binary.jsonl:1: NUL bytes instead of text"]),
        ("binary.txt", ["binary.txt:1: NUL bytes instead of text"]),
        ("gb.txt", ["gb.txt:1: not valid UTF-8", "looks like GB18030", "iconv -f GB18030"]),
        ("gb.jsonl", ["gb.jsonl:1: not valid UTF-8", "looks like GB18030"]),
        ("cut.txt.gz", ["cut.txt.gz: the file cannot be read: Compressed file ended", "copy or download it again"]),
        ("cut.jsonl.gz", ["cut.jsonl.gz:1: "]),
        ("notgz.txt.gz", ["notgz.txt.gz: the file cannot be read: Not a gzipped file"]),
        ("surrogate.jsonl", ["surrogate.jsonl:1: ", "half a surrogate pair"]),
        ("quote.jsonl", ["quote.jsonl:1: not valid JSON at column 10"]),
        ("single.jsonl", ["single.jsonl:1: ", "JSON needs double quotes"]),
        ("open.json", ["open.json:1: ", "the list is not closed"]),
        ("columns.csv", ["columns.csv:2: the row has 3 columns, but the header has 2"]),
        ("number.jsonl", ["number.jsonl:1: the row is a number, not an object"]),
        ("key.jsonl", ['keys are "mesages"', 'Did you mean "messages"']),
        ("role.jsonl", ['role.jsonl:1: message 1 of "messages" has an unknown role: "usr"', 'Did you mean "user"?']),
        ("turns.jsonl", ["turns.jsonl:1: the assistant speaks where the user should"]),
        ("same.jsonl", ['same.jsonl:1: "chosen" and "rejected" are the same']),
        ("short.txt", ["has 4 tokens, fewer than one row of 64 + 1", "lower model.context"]),
    ],
)
def test_files_that_cannot_be_used(minigpt, files, name, words):
    result = minigpt("run", *tiny(), "--run", "run", "--data", name, "--backend", "torch")
    result.refused(3, *words)
    assert not Path("run/pretrain/checkpoints").exists()


def test_a_missing_file_begins_no_run(minigpt, copy):
    minigpt("train", "pretrain", "--run", "run", "--data", "missing.txt").refused(3, "missing.txt does not exist")
    assert not Path("run").exists()
    shutil.rmtree(copy / "dpo")
    before = contents(copy)
    minigpt("train", "sft", "--run", copy, "--data", "missing.jsonl", "--backend", "torch").refused(2, "data.sft")
    minigpt("run", "--run", copy, "--data", "missing.jsonl").refused(3, "missing.jsonl does not exist")
    assert contents(copy) == before


@pytest.mark.parametrize(
    ("stage", "name", "words"),
    [
        ("sft", "role.jsonl", ["role.jsonl:1: ", 'Did you mean "user"?']),
        ("sft", "long.jsonl", ["sft: all rows of long.jsonl are longer than the context.", "Raise model.context"]),
        ("dpo", "longpairs.jsonl", ["dpo: all rows of longpairs.jsonl are longer than the context."]),
        ("sft", "short.txt", ["short.txt: a text file cannot train sft"]),
        ("sft", "text.jsonl", ["text.jsonl:1: this row is a text, but sft needs conversations", '"messages"']),
        ("dpo", "good.jsonl", ["good.jsonl:1: this row is a conversation, but dpo needs preference pairs", '"chosen"']),
        ("dpo", "short.txt", ["short.txt: a text file cannot train dpo"]),
    ],
)
def test_rows_for_another_stage(minigpt, files, copy, stage, name, words):
    for later in ("sft", "dpo")[("sft", "dpo").index(stage) :]:
        shutil.rmtree(copy / later)
    before = {key: value for key, value in contents(copy).items() if key != "config.toml"}
    minigpt("train", stage, "--run", copy, "--data", name, "--backend", "torch").refused(3, *words)
    after = contents(copy)
    kept = {key for key in before if not key.startswith(f"data/{stage}")}  # what the other data had made
    assert {key: after[key] for key in kept} == {key: before[key] for key in kept}


# ---- settings


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--preset", "tinny"], ["no preset 'tinny'", "Did you mean tiny?"]),
        (["--preset", "huge"], ["no preset 'huge'", "Choose one of tiny, small, medium."]),
        (["--backend", "Torch"], ["no backend 'Torch'", "Did you mean torch?"]),
        (["--backend", "jax"], ["no backend 'jax'", "Choose one of auto, mlx, torch."]),
        (["--device", "quantum"], ["no device 'quantum'", "auto, cpu, gpu"]),
        (["--device", "mps"], ["no mps here", "--backend mlx --device gpu"]),
        (["--set", "modl.n_layer=2"], ["unknown key modl (did you mean model?), in --set modl.n_layer=2."]),
        (["--set", "model.nlayer=2"], ["unknown key model.nlayer (did you mean n_layer?)"]),
        (["--set", "n_layer=2"], ["unknown key n_layer (did you mean model.n_layer?)"]),
        (["--set", "model.n_layer=two"], ["model.n_layer: must be a valid integer (got 'two'), in --set"]),
        (["--set", "model.n_layer=2.5"], ["model.n_layer: must be a valid integer (got 2.5)"]),
        (["--set", "model=3"], ["model: must be a section"]),
        (["--set", "model.n_layer"], ["--set 'model.n_layer' has no value", "--set section.key=value"]),
        (["--set", "=3"], ["--set '=3' has no value"]),
        (["--set", "model.context=1"], ["model.context: must be greater than or equal to 2 (got 1)"]),
        (["--set", "model.d_model=30"], ["d_model = 30 cannot be divided by n_head = 4"]),
        (["--set", "tokenizer.vocab_size=100"], ["tokenizer.vocab_size: must be greater than or equal to 300"]),
        (["--set", "tokenizer.kind=char", "--set", "data.pretrain_copies=2"], ["data.pretrain_copies = 2", "'char'"]),
        (["--set", "pretrain.optimizer=adam"], ["pretrain.optimizer: must be 'adamw' or 'muon' (got 'adam')"]),
        (["--set", "pretrain.learning_rate=nan"], ["must be a finite number"]),
        (["--seed", "-1"], ["'--seed'", "minigpt run --help"]),
        (["--seed", "abc"], ["'--seed'", "minigpt run --help"]),
        (["--config", "none.toml"], ["none.toml does not exist", "--config"]),
        (["--config", "broken.toml"], ["broken.toml is not valid TOML", "line 2"]),
        (["--config", "section.toml"], ["unknown key modle (did you mean model?), in section.toml."]),
        (["--config", "typed.toml"], ["model.n_layer: must be a valid integer (got 'three'), in typed.toml."]),
        (["--config", "latin.toml"], ["latin.toml is not valid TOML", "UTF-8"]),
        (["--config", "."], ["cannot be read: Is a directory"]),
        (["--bakend", "torch"], ["--bakend", "--backend", "minigpt run --help"]),
        (["--data"], ["--data", "requires an argument"]),
    ],
    ids=" ".join,
)
def test_wrong_flags_and_settings(minigpt, tmp_path, sources, flags, words):
    (tmp_path / "broken.toml").write_text("[model]\nn_layer = = 3\n", "utf-8")
    (tmp_path / "section.toml").write_text("[modle]\nn_layer = 3\n", "utf-8")
    (tmp_path / "typed.toml").write_text('[model]\nn_layer = "three"\n', "utf-8")
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9\n")
    minigpt("run", "--run", "run", "--data", sources.text, *flags).refused(2, *words)
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rnu"], ["rnu", "'run'"]),
        (["train"], ["STAGE", "minigpt train --help"]),
        (["train", "pretrian"], ["no stage 'pretrian'", "Did you mean pretrain?"]),
        (["train", "pretrain"], ["There is no data for pretrain", "--data FILE"]),
        (["run"], ["There is no data to train on", "--data FILE"]),
        (["generate"], ["no run in runs/", "minigpt demo"]),
        (["generate", "nowhere"], ["nowhere is not a run directory: it does not exist"]),
        (["chat", "."], [". is not a run directory: it has no config.toml"]),
        (["evaluate", "--tests", "0"], ["--tests", "minigpt evaluate --help"]),
        (["tokenizer", "inspect"], ["TEXT", "minigpt tokenizer inspect --help"]),
        (["tokenizer", "train", "--out", "tok"], ["FILE", "minigpt tokenizer train --help"]),
        (["tokenizer", "train", "a.txt"], ["--out", "minigpt tokenizer train --help"]),
        (["tokenizer", "train", "a.txt", "--out", "tok", "--kind", "bytes"], ["'bytes'", "Did you mean byte?"]),
        (["tokenizer", "train", "a.txt", "--out", "tok", "--vocab-size", "10"], ["'--vocab-size'", "300"]),
        (["data", "check", "a.txt", "--stage", "dp"], ["no stage 'dp'", "Did you mean dpo?"]),
    ],
    ids=" ".join,
)
def test_wrong_commands(minigpt, arguments, words):
    minigpt(*arguments).refused(2, *words)
    assert not any(Path().iterdir())


@pytest.mark.parametrize("command", [("tokenizer", "inspect", "a"), ("data", "check", "story.txt")])
def test_a_directory_without_a_tokenizer(minigpt, tmp_path, command):
    (tmp_path / "story.txt").write_text("Hello.\n", "utf-8")
    minigpt(*command, "--run", "nowhere").refused(3, "no tokenizer in nowhere", "minigpt tokenizer train")


# ---- run directories


def test_run_directories_that_cannot_be(minigpt, tmp_path, sources):
    (tmp_path / "file").write_text("mine", "utf-8")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("mine", "utf-8")
    before = contents(tmp_path)
    flags = ("--data", sources.text, *tiny(), "--backend", "torch")
    minigpt("run", "--run", "file", *flags).refused(2, "file is a file, not a directory", "--run")
    minigpt("run", "--run", "mine", *flags).refused(2, "mine holds other files and is not a run", "--run")
    minigpt("run", "--run", "file/run", *flags).refused(2, "file/run cannot be written: Not a directory", "--run")
    assert contents(tmp_path) == before


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="this user may write everywhere")
def test_a_read_only_directory(minigpt, tmp_path, sources):
    (tmp_path / "locked").mkdir(mode=0o555)
    flags = ("--data", sources.text, *tiny(), "--backend", "torch")
    minigpt("run", "--run", "locked/run", *flags).refused(2, "locked/run cannot be written: Permission denied")


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a file system that nobody can write to")
def test_a_file_system_that_nobody_can_write_to(minigpt, sources):
    flags = ("--data", sources.text, *tiny(), "--backend", "torch")
    minigpt("run", "--run", "/proc/run", *flags).refused(2, "The run directory /proc/run cannot be written", "--run")
    minigpt("tokenizer", "train", sources.text, "--out", "/proc/tok").refused(1, "/proc/tok", "Check the path")


def test_a_full_disk(minigpt, sources, monkeypatch):
    def full(*ignored):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("minigpt.runs.run.write_whole", full)
    flags = ("--data", sources.text, *tiny(), "--backend", "torch")
    minigpt("run", "--run", "run", *flags).refused(4, "run cannot be written: No space left on device")
    monkeypatch.undo()


def test_the_tokenizer_of_a_run_is_not_overwritten(minigpt, copy, sources):
    before = contents(copy)
    for out in (copy, copy / "tokenizer"):
        minigpt("tokenizer", "train", sources.text, "--out", out).refused(2, f"{out} belongs to a run", "--out")
    assert contents(copy) == before


# ---- damaged runs


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("command", ["generate", "chat", "evaluate"])
def test_changed_weights_are_not_used(minigpt, copy, command):
    flip(copy / "dpo" / "final" / "weights.safetensors")
    where = f"{copy}/dpo/final/weights.safetensors was changed after it was written", f"Delete {copy}/dpo/final"
    minigpt(command, copy, "--backend", "torch").refused(5, *where)


@pytest.mark.parametrize("file", ["weights.safetensors", "optim.safetensors", "state.json", "manifest.json"])
def test_a_changed_checkpoint_is_named_and_the_one_before_it_used(minigpt, copy, trained, file):
    """The run then ends in the weights of the undisturbed one."""
    shutil.rmtree(copy / "sft" / "final")
    shutil.rmtree(copy / "dpo")
    checkpoint = copy / "sft" / "checkpoints" / "step-000004"
    (flip if file != "manifest.json" else Path.unlink)(checkpoint / file)
    result = minigpt("run", "--run", copy, "--backend", "torch")
    assert result.code == 0 and "set aside as damaged-step-000004; training goes on from step-000002." in result.err
    assert str(checkpoint) in result.err and "sft: going on from step 2." in result.err
    assert weights(copy, "sft") == weights(trained, "sft") and weights(copy, "dpo") == weights(trained, "dpo")


def test_without_a_whole_checkpoint_nothing_is_begun_anew_unasked(minigpt, copy, trained):
    shutil.rmtree(copy / "sft" / "final")
    shutil.rmtree(copy / "dpo")
    saved = copy / "sft" / "checkpoints"
    for checkpoint in saved.iterdir():
        flip(checkpoint / "weights.safetensors")
    before = contents(copy)
    command = ("run", "--run", copy, "--backend", "torch")
    minigpt(*command).refused(5, "step-000004", "No other checkpoint", f"delete {saved} to begin this stage again")
    assert contents(copy) == before
    shutil.rmtree(saved)
    assert minigpt(*command).code == 0
    assert weights(copy, "sft") == weights(trained, "sft") and weights(copy, "dpo") == weights(trained, "dpo")


def test_changed_final_weights_are_made_again(minigpt, copy, trained):
    flip(copy / "sft" / "final" / "weights.safetensors")
    result = minigpt("run", "--run", copy, "--backend", "torch")
    assert result.code == 0 and "was changed after it was written. It was made again from the best" in result.err
    assert contents(copy) == contents(trained)


def test_a_manifest_that_lists_nothing_verifies_nothing(minigpt, copy):
    (copy / "dpo" / "final" / "manifest.json").write_text("{}", "utf-8")
    minigpt("generate", copy, "--backend", "torch").refused(5, "no readable manifest.json")


@pytest.mark.parametrize("damage", ["deleted", "garbage"])
def test_a_tokenizer_is_never_replaced_under_a_trained_model(minigpt, copy, damage):
    if damage == "deleted":
        shutil.rmtree(copy / "tokenizer")
    else:
        (copy / "tokenizer" / "tokenizer.model").write_bytes(b"garbage")
    before = contents(copy)
    for command in (("generate", copy), ("run", "--run", copy)):
        result = minigpt(*command, "--backend", "torch")
        result.refused(3, str(copy / "tokenizer"), "a model can only be used with its own tokenizer")
    assert contents(copy) == before


@pytest.mark.parametrize("lost", ["train/ids.bin", "validation/mask.bin", "train", "validation"])
def test_lost_data_are_prepared_again(minigpt, copy, trained, lost):
    """A lost directory is made again; of a lost file the message says what to delete."""
    for stage in ("sft", "dpo"):
        shutil.rmtree(copy / stage)
    path = copy / "data" / "sft" / lost
    command = ("train", "sft", "--run", copy, "--backend", "torch")
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
        minigpt(*command).refused(3, f"No such file or directory: {path}", f"Delete {copy / 'data' / 'sft'}")
        shutil.rmtree(copy / "data" / "sft")
    assert minigpt(*command).code == 0
    assert weights(copy, "sft") == weights(trained, "sft")


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_tokens_outside_the_vocabulary_are_not_trained_on(minigpt, copy, backend):
    """MLX would read memory that is not the embedding's, and go on."""
    for stage in ("sft", "dpo"):
        shutil.rmtree(copy / stage)
    path = copy / "data" / "sft" / "train" / "ids.bin"
    path.write_bytes(path.read_bytes()[:100] + b"\xff\xff" + path.read_bytes()[102:])
    words = f"{path.parent} cannot be read: ids.bin has a token outside the vocabulary", f"Delete {copy}/data/sft"
    minigpt("run", "--run", copy, "--backend", backend, "--device", "cpu").refused(3, *words)


def test_a_damaged_journal_stops_nothing(minigpt, copy, trained):
    shutil.rmtree(copy / "sft" / "final")
    with (copy / "sft" / "metrics.jsonl").open("ab") as file:
        file.write(b'garbage}\n\xff\xfe}\n[1]\n{"step": 3, "los')
    assert minigpt("run", "--run", copy, "--backend", "torch").code == 0
    name = Path("sft/metrics.jsonl")
    assert (copy / name).read_bytes() == (trained / name).read_bytes()


@pytest.mark.parametrize(
    ("text", "words"),
    [("[model", ["config.toml is not valid TOML"]), ("model = 3\n", ["model: must be a section", "config.toml"])],
)
def test_a_damaged_configuration(minigpt, copy, text, words):
    (copy / "config.toml").write_text(text, "utf-8")
    for command in (("generate", copy), ("run", "--run", copy)):
        minigpt(*command).refused(2, *words)


# ---- prompts


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["-p", "word " * 200], ["tokens; it must have 1 to 63", "Shorten it"]),
        (["--chat", "-p", "word " * 200], ["tokens; it must have 1 to 63"]),
        (["--chat", "-p", "  "], ["The message is empty", "--prompt"]),
        (["--temperature", "-1"], ["--temperature -1.0 is out of range. It must be 0 or more."]),
        (["--temperature", "inf"], ["--temperature inf is out of range"]),
        (["--top-p", "0"], ["--top-p 0.0 is out of range. It must be above 0 and at most 1."]),
        (["--min-p", "2"], ["--min-p 2.0 is out of range"]),
        (["--top-k", "-1"], ["--top-k -1 is out of range"]),
        (["--repetition-penalty", "0"], ["--repetition-penalty 0.0 is out of range"]),
        (["--max-tokens", "0"], ["'--max-tokens'", "minigpt generate --help"]),
        (["--samples", "0"], ["'--samples'", "minigpt generate --help"]),
        (["-p", "a", "--prompts", "b"], ["--prompt and --prompts exclude each other"]),
        (["--prompts", "none.txt"], ["none.txt cannot be read: No such file or directory", "--prompts"]),
        (["--prompts", "blank.txt"], ["blank.txt has no prompts", "one per line"]),
        (["--stage", "stf"], ["no stage 'stf'", "Did you mean sft?"]),
        (["--run", "other"], ["Two runs are given"]),
        (["--backend", "jax"], ["no backend 'jax'"]),
    ],
    ids=lambda value: value[0] if value else "",
)
def test_wrong_prompts_and_ranges(minigpt, trained, tmp_path, flags, words):
    (tmp_path / "blank.txt").write_text("\n\n", "utf-8")
    result = minigpt("generate", trained, "--backend", "torch", *flags)
    result.refused(2, *words)
    assert result.out == "" or result.out == flags[-1]


def test_an_unfinished_stage(minigpt, copy):
    shutil.rmtree(copy / "dpo")
    words = "has no finished stage 'dpo'", "Finished are: pretrain, sft."
    minigpt("generate", copy, "--stage", "dpo").refused(2, *words)
    shutil.rmtree(copy / "sft")
    shutil.rmtree(copy / "pretrain")
    minigpt("generate", copy).refused(2, "No stage of", "is finished yet", f"minigpt run --run {copy}")


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (["generate", "-p", "-"], "stdin: "),
        (["generate", "--prompts", "prompts.txt"], "prompts.txt:2: "),
        (["generate", "-p", "caf\udce9"], "--prompt: "),
        (["chat", "--system", "caf\udce9"], "--system: "),
        (["tokenizer", "inspect", "-"], "stdin: "),
        (["tokenizer", "inspect", "caf\udce9"], "TEXT: "),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else value,
)
def test_text_that_is_not_utf8(minigpt, trained, tmp_path, arguments, where):
    """Bytes in an argument arrive as lone surrogates, as Python reads them from the system."""
    (tmp_path / "prompts.txt").write_bytes(b"fine\ncaf\xe9\n")
    result = minigpt(*arguments, "--run", trained, stdin=b"caf\xe9\n")
    result.refused(3, f"{where}byte 0xE9 is not valid UTF-8", "iconv")


@pytest.mark.parametrize("name", ["role.jsonl", "missing.jsonl", "long.jsonl", "gb.txt"])
def test_evaluation_of_unusable_data(minigpt, trained, files, name):
    before = contents(trained)
    minigpt("evaluate", trained, "--data", name, "--backend", "torch").refused(3, name)
    assert contents(trained) == before


def test_an_error_of_ours_is_one_sentence_too(minigpt, trained, monkeypatch):
    """A bug: no traceback, exit code 1, and how to see the traceback."""
    monkeypatch.setattr("minigpt.evaluate.report.evaluate_run", lambda *ignored: json.loads("{"))
    result = minigpt("evaluate", trained)
    assert result.code == 1 and "Traceback" not in result.err
    assert result.err.splitlines()[-1].startswith("minigpt: Unexpected JSONDecodeError: ")
    assert "--debug" in result.err
