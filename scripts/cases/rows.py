"""The sixteen rows: each says what is tried, raises Wrong, or returns what happened."""

import importlib.util
import json
import os
import re
import subprocess
import sys

from cases.inputs import chats, message, novel, story, write_rows
from cases.program import Program, check, tiny

GREEDY = ("--backend", "torch", "--temperature", 0, "--max-tokens", 12)
MARGIN = 60e6  # bytes that ten times the prompts may take more


def spaces(minigpt: Program) -> str:
    """A Chinese novel of 6,000 lines with two ASCII spaces, then texts with spaces, other scripts, an export"""
    (minigpt.directory / "novel.txt").write_text(novel(), "utf-8")
    write_rows(minigpt.directory / "chats.jsonl", chats(60))
    for stage, file in (("pretrain", "novel.txt"), ("sft", "chats.jsonl")):
        minigpt.done("train", stage, *tiny(), "--run", "run", "--data", file, "--backend", "torch")
    texts = ["小明 回家", "it is 3 now.", "Привет мир", "  two  spaces ", "שלום עולם"]
    code = (
        "import sys, json; from pathlib import Path; from minigpt.text.load import load_tokenizer\n"
        "t = load_tokenizer(Path('run/tokenizer')); texts = json.loads(sys.argv[1])\n"
        "print(json.dumps([t.decode(t.encode(x)) for x in texts]))"
    )
    ran = subprocess.run([sys.executable, "-c", code, json.dumps(texts)], cwd=minigpt.directory, capture_output=True)
    check(ran.returncode == 0, f"the tokenizer cannot be used: {ran.stderr.decode()[-200:]}")
    back = json.loads(ran.stdout)
    check(back == texts, f"decode(encode({texts})) is {back}")
    shown = minigpt.done("tokenizer", "inspect", "小明 回家", "--run", "run").out
    check("<E2>" not in shown, f"the space becomes bytes: {shown}")
    said = minigpt.done("export", "run", "--to", "hf", "--json", "--backend", "torch")
    read = [one for one in json.loads(said.out)["checks"] if one.get("found") is not None]
    return f"all {len(texts)} texts come back; export: {len(read)} comparisons with other readers are within bounds"


def markers(minigpt: Program) -> str:
    """<|endoftext|> on one line of a text; rows written as <|im_start|>…<|im_end|>"""
    lines = story().splitlines()
    (minigpt.directory / "one.txt").write_text("<|endoftext|>".join(lines), "utf-8")
    said = minigpt.done("train", "pretrain", *tiny(), "--run", "run", "--data", "one.txt", "--backend", "torch")
    count = len(lines) - 1
    check(f"<|endoftext|> is written {count} times" in said.words, said.words[:300])
    rows = [{"text": f"<|im_start|>问题{n}？<|im_end|> <|im_start|>回答{n}。<|im_end|>"} for n in range(200)]
    write_rows(minigpt.directory / "mini.jsonl", rows)
    shown = minigpt.done("data", "check", "mini.jsonl")
    check("200 rows are written as <|im_start|>…<|im_end|>" in shown.words, shown.words[:300])
    check("im_start" not in shown.out, "the example still shows the markers")
    return f"split into {count + 1} documents, and 200 rows converted, with these counts"


def quotations(minigpt: Program) -> str:
    """A CSV of 200 rows with a quotation that never closes; a TSV with one over two rows"""
    lines = ["prompt,completion"] + [f"Ask {n},Answer {n}." for n in range(200)]
    lines[21] = '"Tell me a joke,Sure.'
    (minigpt.directory / "a.csv").write_text("\n".join(lines) + "\n")
    found = json.loads(minigpt("data", "check", "a.csv", "--json").out)
    used, bad = sum(found["splits"].values()), found["bad"]
    check(used == 199 and len(bad) == 1 and "a.csv:22: " in bad[0], f"{used} of 200 used; {bad}")
    rows = ["prompt\tcompletion"] + [f"Ask {n}\tAnswer {n}." for n in range(200)]
    rows[21], rows[22] = 'Say\t"It begins here', 'and ends" here\tYes.'
    (minigpt.directory / "b.tsv").write_text("\n".join(rows) + "\n")
    table = json.loads(minigpt("data", "check", "b.tsv", "--json").out)
    kept = sum(table["splits"].values())
    check(kept >= 198 and kept + table.get("lost_lines", 0) + len(table["bad"]) >= 200, f"{kept} used; {table['bad']}")
    return f"CSV: {used} of 200 used, {bad[0][:60]}…; TSV: {kept} used, {len(table['bad'])} named"


def data_set(minigpt: Program) -> str:
    """A data set folder with README.md and three .parquet files"""
    folder = minigpt.directory / "stories"
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text("---\nlicense: mit\n---\nThe card of a data set.\n")
    known = importlib.util.find_spec("pyarrow") is not None
    for part in range(3):
        path = folder / f"data/{part}.parquet"
        if known:
            import pyarrow
            from pyarrow import parquet

            parquet.write_table(pyarrow.table({"text": story().splitlines()[part::3]}), path)
        else:
            path.write_bytes(b"PAR1 no table PAR1")
    said = minigpt("train", "pretrain", *tiny(), "--run", "run", "--data", "stories", "--backend", "torch")
    if not known:
        check(said.code == 3 and "pyarrow" in said.words, said.words[-300:])
        return "without pyarrow: refused, and pyarrow is named"
    check(said.code == 0 and "README.md" in said.words, said.words[-300:])
    found = json.loads(minigpt.done("data", "check", "stories", "--json").out)
    check(found["forms"] == {"text": 300}, f"{found['forms']}")
    return "300 rows of the tables are read; README.md is named as left out"


def characters(minigpt: Program) -> str:
    """U+3000, NBSP, joiners, a family, Persian on a terminal"""
    text = "a\u3000b\u00a0c 👨\u200d👩\u200d👧 می\u200cخواهم"
    run = minigpt.base()
    piped = minigpt.done("tokenizer", "inspect", text, "--run", run).out
    check("\ufffd" not in piped, piped)
    if not hasattr(os, "openpty"):
        return "no character is replaced in a pipe (no terminal here)"
    from cases.terminal import Terminal

    with Terminal(minigpt, "generate", run, "-p", text, *GREEDY) as terminal:
        code = terminal.ended()
        check(code == 0 and text.replace(" ", "") in terminal.shown.replace("\n", "").replace(" ", ""), terminal.shown)
    return "all characters are shown as they are, on a terminal and in a pipe"


def keys(minigpt: Program) -> str:
    """An answer of weight 0; reasoning_content beside content"""
    talk = chats(1)[0]["messages"]
    bad = message("assistant", "Bad", weight=0)
    row = {"messages": [talk[0], bad, talk[0], talk[1] | {"reasoning_content": "Hm"}]}
    write_rows(minigpt.directory / "a.jsonl", [row] * 30)
    said = minigpt.done("data", "check", "a.jsonl")
    check('"reasoning_content" (30 messages)' in said.words, said.words)
    check("⟦Bad" not in said.out and "⟦It is 1." in said.out, said.out)
    return "the answer of weight 0 is not learned, the key is named"


def home(minigpt: Program) -> str:
    """--run=~/mine, --out='~/exported', generate '~/mine'"""
    house = minigpt.directory / "house"
    house.mkdir(exist_ok=True)
    (house / "story.txt").write_text(story(), "utf-8")
    given = {"home": house}
    minigpt.done("train", "pretrain", *tiny(), "--run=~/mine", "--data=~/story.txt", "--backend", "torch", **given)
    minigpt.done("generate", "~/mine", "-p", "The", *GREEDY, **given)
    minigpt.done("export", "~/mine", "--out=~/exported", "--no-verify", **given)
    check((house / "mine/config.toml").exists() and (house / "exported").is_dir(), "not in the home directory")
    odd = [path for path in minigpt.directory.rglob("*") if path.name.startswith("~")]
    check(not odd, f"made {odd}")
    return "all in the home directory"


def line_end(minigpt: Program) -> str:
    """A message through echo: generate --chat -p -"""
    words = ("generate", minigpt.base(), "--chat", *GREEDY, "-p")
    piped = minigpt.done(*words, "-", stdin="What is 3 plus 1?\n").out
    given = minigpt.done(*words, "What is 3 plus 1?").out
    check(piped == given, f"{piped!r} is not {given!r}")
    return "the same answer as without the line end"


def many_prompts(minigpt: Program) -> str:
    """20 and 200 prompts in a file, 200 tokens each, preset tiny"""
    (minigpt.directory / "story.txt").write_text(story(2000), "utf-8")
    few = ("--set", "pretrain.steps=2", "--set", "pretrain.eval_rows=4", "--set", "pretrain.batch_size=2")
    minigpt.done("train", "pretrain", "--preset", "tiny", *few, "--run", "run", "--data", "story.txt",
                 "--set", "tokenizer.vocab_size=700", "--backend", "torch")  # fmt: skip
    flags = ("--max-tokens", 200, "--backend", "torch", "--seed", 1, "--json")
    peaks, parts = [], ""
    for count in (20, 200):
        (minigpt.directory / "prompts.txt").write_text("".join(f"The cat {n}\n" for n in range(count)))
        said, first, whole = minigpt.measured("generate", "run", "--prompts", "prompts.txt", *flags)
        check(said.code == 0 and len(json.loads(said.out)) == count, said.words[-200:])
        peaks.append(said.peak)
        parts = f"first answer after {first:.1f} of {whole:.1f} s"
        check(count < 200 or first < 0.7 * whole, f"all output at the end: {parts}")
    check(peaks[1] - peaks[0] < MARGIN, f"the peak grew from {peaks[0] / 1e6:.0f} to {peaks[1] / 1e6:.0f} MB")
    return f"peak {peaks[0] / 1e6:.0f} MB with 20 prompts, {peaks[1] / 1e6:.0f} MB with 200; {parts}"


def conversation(minigpt: Program) -> str:
    """Ctrl-C and arrow keys in chat"""
    if not hasattr(os, "openpty"):
        return "not tried: there is no terminal here"
    from cases.terminal import Terminal

    with Terminal(minigpt, "chat", minigpt.base(), "--backend", "torch", "--max-tokens", 50) as terminal:
        place = terminal.until("you>")
        terminal.type("What is 3 plus\r")
        terminal.type("\x03")  # while it answers, or after it
        place = terminal.quiet()
        terminal.type("/hXp\x1b[D\x7fel\r")  # left, delete the X, go on there
        terminal.quiet()
        check("/save FILE" in terminal.shown[place:], f"an edited line is not what it says: {terminal.shown[place:]!r}")
        check("^[[D" not in terminal.shown, "arrow keys are letters")
        terminal.type("\x04")
        check("you>" in terminal.shown[place - 80 :] and terminal.ended() == 0, "it did not end well")
    return "the chat goes on after Ctrl-C, and lines are edited"


def odd_widths(minigpt: Program) -> str:
    """d_model=36 d_ff=100: export --to gguf --dtype q4_0, --to mlx --dtype int4"""
    (minigpt.directory / "story.txt").write_text(story(), "utf-8")
    odd = tiny(model__d_model=36, model__d_ff=100)
    minigpt.done("train", "pretrain", *odd, "--run", "run", "--data", "story.txt", "--backend", "torch")
    said = []
    for to, dtype in (("gguf", "q4_0"), ("mlx", "int4")):
        refused = minigpt("export", "run", "--to", to, "--dtype", dtype, "--backend", "torch")
        check(refused.code == 2, f"{to} {dtype}: exit code {refused.code}; {refused.words[-200:]}")
        hint = re.findall(r"\b(float32|float16|bfloat16)\b", refused.words)
        check(bool(hint) and "36 numbers" in refused.words, f"no way on: {refused.words}")
        minigpt.done("export", "run", "--to", to, "--dtype", hint[-1], "--backend", "torch")
        said.append(f"{to} {dtype} refused, and {hint[-1]}, which it names, works")
    return "; ".join(said)


def four_bits(minigpt: Program) -> str:
    """Our own export --to mlx --dtype int4, imported again"""
    (minigpt.directory / "story.txt").write_text(story(), "utf-8")
    wide = tiny(model__d_model=64, model__d_ff=128)
    minigpt.done("train", "pretrain", *wide, "--run", "run", "--data", "story.txt", "--backend", "torch")
    minigpt.done("export", "run", "--to", "mlx", "--dtype", "int4", "--out", "small", "--no-verify")
    said = minigpt("import", "small", "--run", "again")
    check(said.code == 0, f"exit code {said.code}: {said.words[-300:]}")
    minigpt.done("generate", "again", "-p", "The cat", *GREEDY)
    return "read, and it answers"


def lowered(minigpt: Program) -> str:
    """A finished stage with steps lowered, then raised a little"""
    (minigpt.directory / "story.txt").write_text(story(), "utf-8")
    words = ("train", "pretrain", "--run", "run", "--backend", "torch")
    minigpt.done(*words, *tiny(), "--data", "story.txt")
    for steps in (2, 3):
        minigpt.done(*words, "--set", f"pretrain.steps={steps}", "--allow-changes")
    minigpt.done("export", "run", "--no-verify", "--out", "card")
    section = (minigpt.directory / "run/config.toml").read_text("utf-8").partition("[pretrain]")[2]
    stated = re.search(r"^steps = (\d+)", section, re.MULTILINE)[1]
    card = (minigpt.directory / "card/README.md").read_text("utf-8")
    check(stated == "4" and "steps 4," in card, f"config.toml says {stated}, the card {'steps 4,' in card}")
    return "config.toml and the card state the 4 steps that were trained"


def own_run(minigpt: Program) -> str:
    """train pretrain --run runs/mine --data . (twice)"""
    (minigpt.directory / "story.txt").write_text(story(), "utf-8")
    for steps in (4, 6):
        more = ("--set", f"pretrain.steps={steps}", "--allow-changes")
        minigpt.done("train", "pretrain", *tiny(), *more, "--run", "runs/mine", "--data", ".", "--backend", "torch")
    meta = json.loads((minigpt.directory / "runs/mine/data/pretrain/train/meta.json").read_text())
    check(meta["sequences"] == 1, f"{meta['sequences']} documents instead of the story alone")
    return "the run directory is no data, the story is"


def locale(minigpt: Program) -> str:
    """LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 minigpt generate -p 小明"""
    plain = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    said = minigpt.done("generate", minigpt.base(), "-p", "小明", *GREEDY, **plain)
    check(said.out.startswith("小明"), said.out[:40])
    return "taken and printed as it is"


def cold(minigpt: Program) -> str:
    """temperature 1e-320"""
    words = ("generate", minigpt.base(), "-p", "The cat", "--backend", "torch", "--max-tokens", 12, "--temperature")
    found, greedy = (minigpt(*words, value) for value in ("1e-320", "0"))
    check(found.code == 2 or found.out == greedy.out, f"{found.code}, {found.out!r} is not {greedy.out!r}")
    return "refused" if found.code == 2 else "the greedy answer"


ROWS = (
    spaces, markers, quotations, data_set, characters, keys, home, line_end, many_prompts, conversation, odd_widths,
    four_bits, lowered, own_run, locale, cold,
)  # fmt: skip
