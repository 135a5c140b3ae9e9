"""README and handbook say what is so: their links, commands, keys and examples are tried."""

import re
import shlex
from pathlib import Path

import pytest
import typer
from command import conversation, write_rows

from minigpt.cli.app import app
from minigpt.config import Config, load_config
from minigpt.model.gpt import parameter_count

ROOT = Path(__file__).resolve().parents[2]
README, HANDBOOK = ROOT / "README.md", ROOT / "minigpt/handbook"
PAGES = [README, *sorted(HANDBOOK.glob("*.md"))]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
USAGE = typer.BadParameter.__mro__[1]  # typer's class for wrong flags and arguments


def fences(page, kind):
    return [body for language, body in FENCED.findall(page.read_text("utf-8")) if language == kind]


def prose(page):
    return FENCED.sub("", page.read_text("utf-8"))


def shown(page):
    """The whole command lines of a page."""
    lines = "\n".join(fences(page, "bash")) + "\n"
    lines += "".join(f"{line[2:]}\n" for body in fences(page, "") for line in joined(body) if line.startswith("$ "))
    return [line for line in joined(lines) if line.startswith("minigpt ")]


def joined(text):
    return text.replace("\\\n", " ").splitlines()


def mentioned(page):
    """Commands in the prose, which may lack what a command needs: `minigpt plan --help`."""
    return [code for code in INLINE.findall(prose(page)) if code.startswith("minigpt ")]


def parsed(line):
    """(command, its flags and arguments) of a command line; in place of a command may stand a name in capitals or …."""
    command, words = typer.main.get_command(app), shlex.split(line, comments=True)[1:]
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        names = command.list_commands(context := typer.Context(command))
        if words[0] == "…" or words[0].isupper():
            return command, []
        assert words[0] in names, f"there is no command {words[0]!r}: {line}"
        command, words = command.get_command(context, words[0]), words[1:]
    return command, words


def tried(line, whole):
    command, words = parsed(line)
    words = [word for word in words if word not in ("--help", "…")]
    try:
        if not hasattr(command, "commands"):
            command.make_context(command.name, words)  # parses, and runs nothing
    except USAGE as error:
        if whole or "Missing" not in type(error).__name__:
            pytest.fail(f"{line}: {error.format_message()}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_understood(page):
    for line in shown(page):
        tried(line, whole=True)
    for code in mentioned(page):
        tried(code, whole=False)


@pytest.mark.parametrize("name", ["trainjob.yaml", "pytorchjob.yaml", "train.sbatch"])
def test_the_jobs_for_clusters_start_a_command_that_there_is(name):
    """torchrun's own options end at "--"; see scripts/parallel.py manifests for the schemas."""
    text = (ROOT / "minigpt/serve/deploy" / name).read_text("utf-8").replace("\\\n", " ")
    [line] = re.findall(r"-m(?:,)? --(?:,)? (minigpt[^]\n]*)", text)
    tried(line.replace(",", "").replace('"$@"', "data.txt"), whole=True)


def test_a_wrong_command_is_noticed():
    for line in (
        "minigpt traln sft",
        "minigpt chat --temprature 0",
        "minigpt generate --samples many",
        "minigpt import",
    ):
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            tried(line, whole=True)
    assert sum(len(shown(page)) for page in PAGES) > 40


def keys(text):
    sections = "|".join(
        name for name, field in Config.model_fields.items() if hasattr(field.annotation, "model_fields")
    )
    return re.findall(rf"(?<![\w/.-])({sections})\.(?!json)([a-z]\w*)(?![\w./]*\()", text)  # but not tokenizer.json


def missing(text):
    known = {name: getattr(field.annotation, "model_fields", {}) for name, field in Config.model_fields.items()}
    return [f"{section}.{key}" for section, key in keys(text) if key not in known[section]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_keys_of_the_configuration_exist(page):
    text = page.read_text("utf-8")
    flags = re.findall(r"--set '?([\w.]+)", text.replace("--set pretrain.leerning_rate", ""))  # a mistake on purpose
    assert missing("\n".join(INLINE.findall(prose(page)) + flags)) == []


def test_a_wrong_key_is_noticed():
    assert missing("sft.lora_rnak dpo.beta") == ["sft.lora_rnak"]
    assert sum(len(keys("\n".join(INLINE.findall(prose(page))))) for page in PAGES) > 40


def slug(heading):
    """GitHub's name for a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", prose(found), re.MULTILINE)
            assert anchor in map(slug, headings), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_scripts_exist(page):
    text = page.read_text("utf-8")
    for name in re.findall(r"(?<![\w/.])(?:scripts|tests|presets)/[\w./-]*\w", text):
        assert (ROOT / name).exists(), f"{page.name}: {name}"


def test_the_readme_is_two_screens():
    lines = README.read_text("utf-8").splitlines()
    assert len(lines) <= 220 and sum(line.startswith("|") for line in lines) <= 45


def test_every_page_is_in_the_index_and_in_the_readme():
    for page in HANDBOOK.glob("*.md"):
        assert page.name == "00-index.md" or f"]({page.name})" in (HANDBOOK / "00-index.md").read_text("utf-8")
        assert f"](minigpt/handbook/{page.name})" in README.read_text("utf-8")


@pytest.mark.parametrize("page", [README, HANDBOOK / "training.md"], ids=lambda page: page.name)
@pytest.mark.parametrize("preset", ["tiny", "small", "medium"])
def test_parameters_are_those_of_the_code(page, preset):
    config = load_config(preset, None, [])
    model = config.model.model_copy(update={"vocab_size": config.tokenizer.vocab_size})
    rows = [line.split("|") for line in page.read_text("utf-8").splitlines() if line.startswith(f"| {preset} |")]
    assert [row[2].strip() for row in rows] == [f"{parameter_count(model):,}"]


EXAMPLES = [(page, number) for page in PAGES for number in range(len(fences(page, "python")))]


@pytest.mark.parametrize("page, number", EXAMPLES, ids=lambda value: getattr(value, "name", value))
def test_examples_in_python_run(page, number, tmp_path, monkeypatch, capsys):
    """As they stand, with fewer steps."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text("The fox went to the market and found the bell. " * 200, "utf-8")
    write_rows(tmp_path / "chats.jsonl", [conversation(f"Where is fox {i}?", f"In market {i}.") for i in range(40)])
    code = re.sub(r"\bsteps=\d+", "steps=2", fences(page, "python")[number])
    exec(compile(code, page.name, "exec"), {"__name__": "example"})  # noqa: S102
    assert capsys.readouterr().out or "print" not in code


def test_the_toy_stage_is_the_one_that_is_tested():
    toy = next(body for body in fences(HANDBOOK / "architecture.md", "python") if "REVERSE" in body)
    assert toy in (ROOT / "tests/e2e/test_new_stage.py").read_text("utf-8")
