"""Using a trained run: generate, chat, evaluate, and looking at tokenizers and data."""

import gzip
import json
import math
import os
import re
import shutil

import pytest
from command import conversation, pair, write_rows

from minigpt.stages.table import USUAL

GREEDY = ("--temperature", 0, "--max-tokens", 6)
FAST = ("--backend", "torch")


# ---- generate


def answers(result):
    assert result.code == 0, result.err
    return [row["answer"] for row in json.loads(result.out)]


def test_greedy_is_reproducible_and_begins_with_the_prompt(minigpt, trained):
    first, again = (minigpt("generate", trained, "-p", "The cat", *GREEDY, *FAST) for _ in range(2))
    assert first.code == 0 and first.out == again.out
    assert first.out.startswith("The cat") and first.out.endswith("\n")
    assert first.err == f"Model: {trained}, stage dpo.\n"  # which one, as no stage was named


def test_streamed_and_collected_answers_are_the_same(minigpt, trained):
    streamed = minigpt("generate", trained, "-p", "The cat", "--seed", 3, "--max-tokens", 8, *FAST)
    collected = minigpt("generate", trained, "-p", "The cat", "--seed", 3, "--max-tokens", 8, "--json", *FAST)
    assert streamed.out == "The cat" + answers(collected)[0] + "\n"


def test_prompts_in_a_file_give_what_each_gives_alone(minigpt, trained, tmp_path):
    prompts = ["One", "Two dogs and three cats", "她在花园里"]
    (tmp_path / "prompts.txt").write_text("\ufeff" + prompts[0] + "\n\n" + "\n".join(prompts[1:]), "utf-8")
    together = minigpt("generate", trained, "--prompts", "prompts.txt", *GREEDY, "--json", *FAST)
    alone = [minigpt("generate", trained, "-p", prompt, *GREEDY, "--json", *FAST) for prompt in prompts]
    assert answers(together) == [answer for one in alone for answer in answers(one)]
    assert [row["prompt"] for row in json.loads(together.out)] == prompts


def test_samples_have_seeds_of_their_own(minigpt, trained):
    hot = ("--temperature", 3, "--min-p", 0)  # a model of four steps has one favourite token
    flags = ("-p", "The", "--max-tokens", 8, "--json", *hot, *FAST)
    three = answers(minigpt("generate", trained, "--samples", 3, "--seed", 5, *flags))
    alone = [answers(minigpt("generate", trained, "--seed", seed, *flags))[0] for seed in (5, 6, 7)]
    assert three == alone and len(set(three)) == 3
    plain = minigpt("generate", trained, "-p", "The", "--samples", 2, "--seed", 5, "--max-tokens", 8, *hot, *FAST)
    assert plain.out == "".join(f"The{answer}\n\n" for answer in three[:2])


def test_an_answer_has_the_form_that_is_asked_for(minigpt, trained, tmp_path):
    """A choice, a schema in a file, stop texts and log-probabilities, beams with their scores; flags that clash."""
    hot = ("-p", "The cat", "--temperature", 2, "--seed", 1, *FAST)
    chosen = minigpt("generate", trained, *hot, "--choice", "yes", "--choice", "no", "--json", "--logprobs", 2)
    (row,) = json.loads(chosen.out)
    assert row["answer"] in ("yes", "no") and row["reason"] == "stop"
    assert "".join(one["token"] for one in row["logprobs"]) == row["answer"]
    assert all(len(one["top"]) == 2 and one["logprob"] <= one["top"][0]["logprob"] <= 0 for one in row["logprobs"])
    (tmp_path / "schema.json").write_text('{"type": "array", "items": {"enum": [1, 2]}, "minItems": 2, "maxItems": 2}')
    fits = minigpt("generate", trained, "--chat", *hot, "--json-schema", "schema.json")
    assert fits.out in {f"[{a},{b}]\n" for a in (1, 2) for b in (1, 2)}
    beams = json.loads(minigpt("generate", trained, "-p", "The", "--beams", 3, "--samples", 3, "--max-tokens", 4,
                               "--json", *FAST).out)  # fmt: skip
    assert [row["score"] for row in beams] == sorted((row["score"] for row in beams), reverse=True)
    assert len({row["answer"] for row in beams}) == 3
    for clash, words in (
        (("--choice", "a", "--regex", "b"), "exclude each other"), (("--regex", "(b"), "unclosed group"),
        (("--beams", 2, "--stop", "x"), "whole answers"), (("--logit-bias", "no number"), "TOKEN=2"),
    ):  # fmt: skip
        refused = minigpt("generate", trained, "-p", "x", *FAST, *clash)
        assert refused.code == 2 and words in refused.err


def test_a_prompt_from_stdin(minigpt, trained):
    piped = minigpt("generate", trained, "-p", "-", *GREEDY, *FAST, stdin="看见 the cat".encode())
    assert piped.code == 0 and piped.out == minigpt("generate", trained, "-p", "看见 the cat", *GREEDY, *FAST).out


def test_a_message_gets_an_answer_alone(minigpt, trained):
    """--chat renders the message; the answer is not the one to the same text as a prompt."""
    flags = ("-p", "What is 3 plus 1?", *GREEDY, "--json", *FAST)
    assert answers(minigpt("generate", trained, "--chat", *flags)) != answers(minigpt("generate", trained, *flags))
    shown = minigpt("generate", trained, "--chat", "-p", "What is 3 plus 1?", *GREEDY, *FAST)
    assert shown.out == answers(minigpt("generate", trained, "--chat", *flags))[0] + "\n"


def test_without_a_prompt_a_text_begins(minigpt, trained):
    nothing, empty = (minigpt("generate", trained, *prompt, *GREEDY, *FAST) for prompt in ((), ("-p", "")))
    assert nothing.code == 0 and nothing.out == empty.out


def test_stages_differ_and_may_be_named_in_three_ways(minigpt, trained):
    flags = ("-p", "The cat", "--seed", 1, "--max-tokens", 12, *FAST)
    named = minigpt("generate", trained, "--stage", "pretrain", *flags)
    assert named.out == minigpt("generate", trained / "pretrain", *flags).out
    assert named.out == minigpt("generate", trained / "pretrain" / "final", *flags).out
    assert named.out == minigpt("generate", "--run", trained, "--stage", "pretrain", *flags).out
    assert named.err == ""  # nothing was left open


def test_the_newest_trained_run_is_the_default(minigpt, trained, tmp_path):
    for number, name in enumerate(("old", "new", "begun")):
        run = shutil.copytree(trained, tmp_path / "runs" / name)
        for state in run.glob("*/final/state.json"):
            os.utime(state, (number, number))
    for stage in ("pretrain", "sft", "dpo"):
        shutil.rmtree(tmp_path / "runs" / "begun" / stage)
    result = minigpt("generate", *GREEDY, *FAST)
    assert result.code == 0 and result.err == "Model: runs/new, stage dpo.\n"


def test_a_line_end_that_echo_adds_is_no_part_of_a_message(minigpt, trained):
    flags = ("generate", trained, "--chat", *GREEDY, "--json", *FAST)
    message = "What is 3 plus 1?"
    wanted = minigpt(*flags, "-p", message).out
    for piped in (message, message + "\n", message + "\r\n"):
        assert minigpt(*flags, "-p", "-", stdin=piped.encode()).out == wanted
        assert minigpt(*flags, stdin=piped.encode()).out == wanted  # what is piped in is read, also without -p -
    assert json.loads(minigpt(*flags, stdin=b"two\n\n").out)[0]["prompt"] == "two\n"  # one, not all


def test_a_prompt_that_is_refused_is_not_printed(minigpt, trained, tmp_path):
    """Neither it nor an answer to those before it."""
    for flags in (("-p", "word " * 200), ("--prompts", "prompts.txt"), ("--samples", 2, "-p", "word " * 200)):
        (tmp_path / "prompts.txt").write_text("The cat\n" + "word " * 200 + "\n", "utf-8")
        result = minigpt("generate", trained, *flags, *GREEDY, *FAST)
        result.refused(2, "tokens; it must have 1 to 63. Shorten it")
        assert result.out == "" and ("Prompt 2 of 2 has" in result.err) == ("prompts.txt" in flags)


def test_a_seed_is_drawn_and_told_so_that_an_answer_can_be_had_again(minigpt, trained):
    hot = ("-p", "The", "--max-tokens", 12, "--temperature", 3, "--min-p", 0, *FAST)
    first, second = (minigpt("generate", trained, *hot) for _ in range(2))
    seeds = [re.search(r"Seed (\d+): --seed \1 gives the same again\.", one.err)[1] for one in (first, second)]
    assert seeds[0] != seeds[1] and first.out != second.out
    again = minigpt("generate", trained, *hot, "--seed", seeds[0])
    assert again.out == first.out and "Seed" not in again.err
    chats = ("--temperature", 3, "--min-p", 0, "--max-tokens", 12, *FAST)
    talk = minigpt("chat", trained, *chats, stdin=b"Hi\n")
    seed = re.search(r"Seed (\d+):", talk.err)[1]
    assert minigpt("chat", trained, *chats, "--seed", seed, stdin=b"Hi\n").out == talk.out


def test_many_prompts_are_answered_in_batches_each_as_alone(minigpt, trained, tmp_path, monkeypatch):
    """100 prompts: no more than 32 are computed at once, and what is done is written before the rest is."""
    import minigpt.generate.engine as engine
    from minigpt.cli import console

    prompts = [f"The cat number {n}" for n in range(100)]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts), "utf-8")
    order, real, write = [], engine.Engine.answers, console.write
    with monkeypatch.context() as watched:
        watched.setattr(engine.Engine, "answers", lambda *a: order.append(len(a[1])) or real(*a))
        watched.setattr(console, "write", lambda text: order.append("w") or write(text))
        result = minigpt("generate", trained, "--prompts", "prompts.txt", *GREEDY, "--json", *FAST)
    assert [row["prompt"] for row in json.loads(result.out)] == prompts
    assert [one for one in order if one != "w"] == [32, 32, 32, 4]
    assert [order[:place].count("w") for place, one in enumerate(order) if one != "w"] == [0, 32, 64, 96]
    alone = minigpt("generate", trained, "-p", prompts[77], *GREEDY, "--json", *FAST)
    assert json.loads(alone.out)[0] == json.loads(result.out)[77]
    shown = minigpt("generate", trained, "--prompts", "prompts.txt", *GREEDY, *FAST).out
    assert shown == "".join(f"{row['prompt']}{row['answer']}\n\n" for row in json.loads(result.out))


def test_a_message_to_a_pretrained_model_is_announced_as_in_chat(minigpt, trained):
    flags = ("--stage", "pretrain", "--chat", "-p", "Hi", *GREEDY, *FAST)
    assert "only pretrained" in minigpt("generate", trained, *flags).err


# ---- chat


def test_a_conversation_through_a_pipe(minigpt, trained):
    """Two turns, /reset, the first again, /exit: the first and the last answer are the one that generate gives."""
    lines = "What is 3 plus 1?\nAnd now?\n/reset\n\nWhat is 3 plus 1?\n/exit\nnot read\n"
    result = minigpt("chat", trained, "--max-tokens", 4, *FAST, stdin=lines.encode())
    assert result.code == 0, result.err
    assert "/reset forgets the conversation, /exit ends it." in result.err and "you>" not in result.out
    alone = minigpt("generate", trained, "--chat", "-p", "What is 3 plus 1?", *GREEDY[:2], "--max-tokens", 4, *FAST).out
    assert result.out.startswith(alone) and result.out.endswith(alone)
    assert len(result.out) > 2 * len(alone)  # the second turn in between


def test_the_end_of_the_input_ends_a_chat(minigpt, trained):
    result = minigpt("chat", trained, "--system", "Be short.", "--max-tokens", 3, *FAST, stdin=b"hello")
    assert result.code == 0 and result.out.endswith("\n")
    assert minigpt("chat", trained, *FAST).out == ""


def test_chat_goes_on_behind_a_message_that_it_cannot_take(minigpt, trained):
    lines = b"ab \xff cd\n" + b"word " * 200 + b"\nhello\n"
    result = minigpt("chat", trained, "--max-tokens", 3, *FAST, stdin=lines)
    assert result.code == 0
    assert "byte 0xFF is not valid UTF-8" in result.err and "tokens; the model sees 64. Shorten it." in result.err
    assert result.out == minigpt("chat", trained, "--max-tokens", 3, *FAST, stdin=b"hello\n").out != ""


def test_commands_in_a_conversation(minigpt, trained, tmp_path):
    """Through a pipe: what is saved has the form that training reads, settings hold, /retry answers again."""
    lines = (
        "/system Be short.\nHi\n/set max-tokens 2\n/retry\n/save talk.jsonl\n/set top_k -1\n/set nothing 3\n"
        "/set temperature x\n/helo\n/etc/passwd is a file\n/save\n/reset\n/retry\n"
    )
    result = minigpt("chat", trained, "--max-tokens", 5, *FAST, stdin=lines.encode())
    assert result.code == 0, result.err
    for words in ("System message: Be short.", "max_tokens 2", "--top-k -1 is out of range", "no setting 'nothing'",
                  "temperature cannot be 'x'", "There is no /helo. Did you mean /help?", "/save needs a file",
                  "There is no message to answer again.", "At temperature 0 the answer is always the same",
                  "Saved in talk.jsonl."):  # fmt: skip
        assert words in result.err, words
    saved = json.loads((tmp_path / "talk.jsonl").read_text("utf-8"))["messages"]
    assert [m["content"] for m in saved[:2]] == ["Be short.", "Hi"] and len(saved) == 3
    again = saved[2]["content"]  # two tokens of the five of the first answer
    assert result.out.startswith(again) and f"\n{again}\n" in result.out
    assert [message["role"] for message in saved] == ["system", "user", "assistant"]


def test_a_pretrained_model_is_announced(minigpt, trained):
    assert "only pretrained" in minigpt("chat", trained, "--stage", "pretrain", *FAST).err


def test_a_run_may_be_named_as_in_the_list(minigpt, trained, tmp_path):
    (tmp_path / "runs").mkdir()
    shutil.copytree(trained, tmp_path / "runs" / "mine")
    said = minigpt("generate", "mine", "-p", "The cat", *GREEDY)
    assert said.code == 0 and said.out == minigpt("generate", trained, "-p", "The cat", *GREEDY).out
    assert minigpt("evaluate", "mine", "--stage", "sft", *FAST).code == 0
    minigpt("generate", "yours", "-p", "The cat").refused(2, "yours is not a run directory: it does not exist")


# ---- evaluate


@pytest.mark.parametrize("stage", ["pretrain", "sft"])
def test_measures_fit_together(minigpt, trained, stage):
    result = minigpt("evaluate", trained, "--stage", stage, "--json", *FAST)
    found = json.loads(result.out)
    assert found["stage"] == stage and found["run"] == str(trained)
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    nats = found["loss"] * found["tokens"]
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / found["bytes"])
    assert found["nats_per_character"] == pytest.approx(nats / found["characters"])
    table = minigpt("evaluate", trained, "--stage", stage, *FAST).out
    assert f"{found['loss']:.4f}" in table and max(map(len, table.splitlines())) <= 80


def test_every_stage_is_measured_where_none_is_named(minigpt, trained):
    """Each stage as alone; DPO with the loss on SFT's held-out answers, and SFT with the pairs that came after it."""
    found = json.loads(minigpt("evaluate", trained, "--json", *FAST).out)
    alone = {name: json.loads(minigpt("evaluate", trained, "--stage", name, "--json", *FAST).out) for name in USUAL}
    assert list(found["stages"]) == list(USUAL) == ["pretrain", "sft", "dpo"]
    for name, values in found["stages"].items():
        assert values == {key: value for key, value in alone[name].items() if key not in ("run", "stage", "figures")}
    sft, dpo = found["stages"]["sft"], found["stages"]["dpo"]
    assert "pairs" not in found["stages"]["pretrain"] and sft["pairs"] == dpo["pairs"] == found["pairs"]
    assert sft["tokens"] == dpo["tokens"] and dpo["loss"] != sft["loss"]
    table = minigpt("evaluate", trained, *FAST).out
    lines = {line.split()[0]: line.split() for line in table.splitlines() if line.split()[:1] and line.startswith(" ")}
    assert lines["pretrain"][-1] == "–" and lines["dpo"][1] == f"{dpo['loss']:.3f}"
    assert lines["dpo"][-2:] == [f"{100 * dpo['chosen_is_likelier']:.1f}", "%"]
    assert max(map(len, table.splitlines())) <= 80


def test_data_of_the_user_decide_what_is_measured(minigpt, trained, sources, tmp_path):
    def measured(*flags):
        result = minigpt("evaluate", trained, *flags, "--json", *FAST)
        assert result.code == 0, result.err
        return json.loads(result.out)

    (tmp_path / "new.txt").write_text("The dog saw 3 plums. 她在花园里。\n" * 20, "utf-8")
    text = measured("--data", "new.txt", "--stage", "pretrain")
    assert text["characters"] == pytest.approx(20 * 28, abs=6) and text["bytes"] > text["characters"]
    assert measured("--data", sources.text, "--rows", 1)["tokens"] == 64  # one row of the context
    pairs = measured("--data", sources.pairs)
    assert pairs["pairs"] == 40 and 0 <= pairs["chosen_is_likelier"] <= 1
    assert measured()["pairs"] < 40  # the run's own: the held-out ones
    write_rows(tmp_path / "long.jsonl", [conversation("word " * 200, "no"), conversation("Hi", "yes " * 200)])
    lost = measured("--data", "long.jsonl")
    assert (lost["rows_left_out"], lost["rows_cut"]) == (1, 1)


# ---- tokenizers


@pytest.mark.parametrize("kind", ["bpe", "char", "byte"])
def test_a_tokenizer_of_its_own(minigpt, sources, tmp_path, kind):
    result = minigpt("tokenizer", "train", sources.text, sources.conversations, "--out", "tok", "--kind", kind)
    assert (result.code, result.out) == (0, "") and "saved in tok" in result.err
    text = "The cat 😀 看见\tnaïve\n"
    found = json.loads(minigpt("tokenizer", "inspect", text, "--run", "tok", "--json").out)
    assert (found["tokens"], found["characters"]) == (len(found["pieces"]), len(text))
    back = b"".join(
        bytes([int(piece["text"][1:-1], 16)]) if piece["byte"] else piece["text"].encode() for piece in found["pieces"]
    )
    assert back.decode() == text  # nothing is lost
    assert all(piece["byte"] for piece in found["pieces"]) == (kind == "byte")


def test_bytes_are_marked(minigpt, trained):
    result = minigpt("tokenizer", "inspect", "The 😀", "--run", trained)
    assert result.out.startswith("The| ") and "|<F0>|<9F>|<98>|<80>\n" in result.out
    assert "5 characters" in result.out and "4 single bytes" in result.out
    piped = minigpt("tokenizer", "inspect", "-", "--run", trained, stdin="The 😀".encode())
    assert piped.out == result.out


# ---- data check

TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
FORMS = {
    "text": ({"text": "A text."}, "pretrain"),
    "messages": ({"messages": TURNS}, "sft"),
    "prompt/completion": ({"prompt": "Hi", "completion": "Yes"}, "sft"),
    "alpaca": ({"instruction": "Add", "input": "1 and 2", "output": "3"}, "sft"),
    "sharegpt": ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes"}]}, "sft"),
    "minimind": ({"conversations": TURNS}, "sft"),
    "dpo": ({"prompt": "Hi", "chosen": "Yes", "rejected": "No"}, "dpo"),
    "dpo-implicit": ({"chosen": TURNS, "rejected": [TURNS[0], {"role": "assistant", "content": "No"}]}, "dpo"),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_recognized(minigpt, trained, tmp_path, form):
    row, stage = FORMS[form]
    write_rows(tmp_path / "rows.jsonl", [row, row, {**row, "id": 7}])
    result = minigpt("data", "check", "rows.jsonl", "--json", "--run", trained)
    found = json.loads(result.out)
    assert (result.code, found["stage"], found["forms"]) == (0, stage, {form: 3})
    assert sum(found["splits"].values()) == 3 and found["duplicates"] == 2 and found["across_splits"] == 0
    assert (found["too_long"], found["bad"]) == (0, [])
    tokens = sum(found["tokens"].values())
    assert tokens > 0 and tokens >= found["learned_tokens"] >= (0 if stage == "pretrain" else 3)
    assert sum(count for *_, count in found["histogram"]) == 3
    example = "".join(piece for piece, _ in found["example"])
    learned = "".join(piece for piece, is_learned in found["example"] if is_learned)
    answer = {"text": "A text.", "alpaca": "3<|im_end|>"}.get(form, "Yes<|im_end|>")
    rejected = "No<|im_end|>" * (stage == "dpo")  # a pair shows both sides
    assert learned == answer + rejected and ("<|im_start|>user" in example) == (stage != "pretrain")
    shown = minigpt("data", "check", "rows.jsonl", "--run", trained)
    assert shown.code == 0 and f"{form} (3)" in shown.out and f"⟦{answer}⟧" in shown.out
    assert max(map(len, shown.out.splitlines())) <= 80


@pytest.mark.parametrize("name", ["rows.json", "rows.csv", "rows.tsv", "rows.jsonl.gz", "folder", "*.jsonl"])
def test_every_container_is_read(minigpt, trained, tmp_path, name):
    rows = [pair(f"Hi {n}", "Yes, please", "No") for n in range(5)]
    write_rows(tmp_path / "plain.jsonl", rows)
    write_rows(tmp_path / "empty.jsonl.txt", [])
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    write_rows(tmp_path / "folder" / "inner" / "a.jsonl", rows)
    (tmp_path / "rows.json").write_text(json.dumps(rows), "utf-8")
    for suffix, comma in (("csv", ","), ("tsv", "\t")):
        cells = [rows[0].keys(), *(row.values() for row in rows)]
        lines = [comma.join(f'"{cell}"' for cell in line) for line in cells]
        (tmp_path / f"rows.{suffix}").write_text("\n".join(lines), "utf-8")
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress((tmp_path / "plain.jsonl").read_bytes()))
    found = json.loads(minigpt("data", "check", name, "--json", "--run", trained).out)
    assert (found["stage"], found["forms"]) == ("dpo", {"dpo": 5})


def test_bad_rows_are_listed_by_line_and_kind(minigpt, tmp_path):
    rows = [conversation("Hi", "Yes"), {"messages": [{"role": "usr", "content": "Hi"}]}, *[{"mesages": []}] * 3]
    write_rows(tmp_path / "rows.jsonl", rows)
    result = minigpt("data", "check", "rows.jsonl")
    assert result.code == 3 and "messages (1)" in result.out
    assert 'rows.jsonl:2: message 1 of "messages" has an unknown role: "usr". Did you mean "user"?' in result.err
    assert 'rows.jsonl:3: ' in result.err and 'Did you mean "messages"' in result.err
    assert "(2 more rows have the same fault.)" in result.err and "--skip-bad" in result.err
    assert len(json.loads(minigpt("data", "check", "rows.jsonl", "--json").out)["bad"]) == 4


def test_data_without_a_good_row_are_checked_too(minigpt, tmp_path):
    write_rows(tmp_path / "rows.jsonl", [{"messages": [{"role": "usr", "content": "Hi"}]}])
    result = minigpt("data", "check", "rows.jsonl")
    assert result.code == 3 and 'Did you mean "user"?' in result.err and "nothing usable" in result.out
    (tmp_path / "empty.txt").touch()
    result = minigpt("data", "check", "empty.txt")
    assert result.code == 3 and "There is no text and no row in empty.txt." in result.err


def test_bad_rows_may_be_skipped(minigpt, trained, tmp_path):
    """The run continues from a copy of the pretrained model, so that only the rows matter."""
    run = shutil.copytree(trained, tmp_path / "run")
    for stage in ("sft", "dpo"):
        shutil.rmtree(run / stage)
    rows = [conversation(f"What is {n}?", f"It is {n}.") for n in range(20)] + [{"messages": "no"}]
    write_rows(tmp_path / "rows.jsonl", rows)
    command = ("train", "sft", "--run", run, "--data", "rows.jsonl", *FAST)
    minigpt(*command).refused(3, "rows.jsonl:21: ")
    result = minigpt(*command, "--skip-bad")
    assert result.code == 0 and "1 bad rows were skipped; the first: rows.jsonl:21: " in result.err
