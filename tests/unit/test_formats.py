"""Every form of a training row becomes the same three things, and every mistake is named."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigpt.data.examples import Conversation, Preference, Text
from minigpt.data.forms import CONVERSATIONS, PAIRS, TEXTS
from minigpt.data.parse.fields import EXAMPLES, RowError
from minigpt.data.parse.formats import parse_row
from minigpt.data.parse.layouts import detect
from minigpt.data.read.raw_rows import BadRow, Row
from minigpt.data.read.sources import read_rows
from minigpt.data.reader import Reader, Sources
from minigpt.errors import DATA
from minigpt.stages.table import STAGES

GSM8K = Path(__file__).parents[2].parent / "shared/data/gsm8k_train.alpaca.json"


def system(content):
    return {"role": "system", "content": content}


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def says(**turns):
    """ShareGPT turns: says(human="Hi", gpt="Hello")."""
    return [{"from": speaker, "value": value} for speaker, value in turns.items()]


def parse(value):
    return parse_row(Row("train.jsonl:7", value))


def error_of(value) -> RowError:
    with pytest.raises(RowError) as caught:
        parse(value)
    return caught.value


QA = Conversation([user("Hi"), assistant("Hello!")])
PAIR = Preference([user("Hi")], [assistant("Hello!")], [assistant("What?")])

# ---------------------------------------------------------------------------------------- the forms


@pytest.mark.parametrize(
    "value", ["Once.", {"text": "Once."}, {"text": "Once.", "id": 3}, {" Text ": "Once."}]
)
def test_texts(value):
    assert (detect(value), parse(value)) == ("text", Text("Once."))


@pytest.mark.parametrize(
    ("form", "value"),
    [
        ("messages", {"messages": [user("Hi"), assistant("Hello!")]}),
        (
            "messages",
            {"messages": [system(""), user("Hi"), assistant("Hello!")], "prompt": "x", "language": "en"},
        ),
        (
            "messages",
            {"messages": [user([{"type": "text", "text": "H"}, {"text": "i"}]), assistant("Hello!")]},
        ),
        (
            "messages",
            {"messages": [{"role": "Human", "content": "Hi"}, {"role": "GPT", "content": "Hello!"}]},
        ),
        ("prompt/completion", {"prompt": "Hi", "completion": "Hello!"}),
        ("prompt/completion", {"prompt": [user("Hi")], "completion": [assistant("Hello!")]}),
        ("prompt/completion", {"question": "Hi", "answer": "Hello!", "task": "greeting"}),
        ("prompt/completion", {"Query": "Hi", "Response": "Hello!", "text": None}),
        ("prompt/completion", {"input": "Hi", "output": "Hello!"}),
        ("alpaca", {"instruction": "Hi", "input": "", "output": "Hello!", "text": "all of it"}),
        ("alpaca", {"instruction": "Hi", "output": "Hello!", "system": None, "history": []}),
        ("alpaca", {"instruction": "", "input": "Hi", "output": "Hello!", "history": ""}),
        ("alpaca", {"instruction": "Hi", "context": " ", "response": "Hello!"}),  # Dolly
        ("sharegpt", {"conversations": says(human="Hi", gpt="Hello!")}),
        ("sharegpt", {"conversations": says(system="", user="Hi", chatgpt="Hello!")}),
        ("sharegpt", {"conversations": says(human="Hi", bing="Hello!"), "system": ""}),
        ("minimind", {"conversations": [user("Hi"), assistant("Hello!")]}),
    ],
)
def test_one_exchange_in_every_form(form, value):
    assert (detect(value), parse(value)) == (form, QA)


def test_alpaca_with_everything():
    row = {
        "instruction": "Translate.",
        "input": "Katze",
        "output": "cat",
        "system": "Be brief.",
        "history": [["Translate.\n\nHund", "dog"], ["And Maus?", "mouse"]],
    }
    assert parse(row) == Conversation(
        [
            system("Be brief."),
            user("Translate.\n\nHund"),
            assistant("dog"),
            user("And Maus?"),
            assistant("mouse"),
            user("Translate.\n\nKatze"),
            assistant("cat"),
        ]
    )


def test_several_turns_keep_their_exact_text():
    turns = [system("S"), user(" a\n"), assistant("b "), user("c"), assistant("\td")]
    assert parse({"messages": turns}) == Conversation(turns)
    assert parse({"conversations": turns[1:], "system": "S"}) == Conversation(turns)


@pytest.mark.parametrize(
    ("form", "value"),
    [
        ("dpo", {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}),
        ("dpo", {"prompt": [user("Hi")], "chosen": [assistant("Hello!")], "rejected": [assistant("What?")]}),
        ("dpo", {"question": "Hi", "chosen": "Hello!", "rejected": "What?", "system": ""}),
        (
            "dpo",  # UltraFeedback repeats the prompt in both answers and the better one in "messages"
            {
                "prompt": "Hi",
                "chosen": [user("Hi "), assistant("Hello!")],
                "rejected": [user("Hi"), assistant("What?")],
                "messages": [user("Hi"), assistant("Hello!")],
                "score_chosen": 9.0,
            },
        ),
        (
            "dpo",  # LLaMA-Factory
            {
                "conversations": says(human="Hi"),
                "chosen": {"from": "gpt", "value": "Hello!"},
                "rejected": {"from": "gpt", "value": "What?"},
            },
        ),
        ("dpo", {"messages": [user("Hi")], "chosen": "Hello!", "rejected": "What?"}),
        ("dpo", {"prompt": "\n\nHuman: Hi\n\nAssistant:", "chosen": "Hello!", "rejected": "What?"}),
        (
            "dpo-implicit",  # MiniMind
            {"chosen": [user("Hi"), assistant("Hello!")], "rejected": [user("Hi"), assistant("What?")]},
        ),
        (
            "dpo-implicit",  # Anthropic HH-RLHF
            {
                "chosen": "\n\nHuman: Hi\n\nAssistant: Hello!",
                "rejected": "\n\nHuman: Hi\n\nAssistant: What?",
            },
        ),
    ],
)
def test_one_preference_in_every_form(form, value):
    assert (detect(value), parse(value)) == (form, PAIR)


def test_the_shared_part_of_an_implicit_pair_is_the_prompt():
    shared = [system("S"), user("a"), assistant("b"), user("c")]
    row = {
        "chosen": [*shared, assistant("d")],
        "rejected": [*shared, assistant("e"), user("f"), assistant("g")],
    }
    assert parse(row) == Preference(shared, [assistant("d")], [assistant("e"), user("f"), assistant("g")])


def test_the_system_of_an_explicit_pair_joins_the_prompt():
    row = {"system": "S", "prompt": "Hi", "chosen": [user("Hi"), assistant("Hello!")], "rejected": "What?"}
    assert parse(row) == Preference([system("S"), user("Hi")], PAIR.chosen, PAIR.rejected)


# --------------------------------------------------------------------------------------- the faults


@pytest.mark.parametrize(
    ("value", "reason", "hint"),
    [
        # keys
        ({"mesages": []}, 'no known form: its keys are "mesages"', 'Did you mean "messages"'),
        ({"content": "x"}, 'no known form: its keys are "content"', 'Did you mean "text"'),
        ({"a": 1, "b": 2}, 'no known form: its keys are "a", "b"', EXAMPLES["messages"]),
        ({"data": [{"text": "x"}]}, 'no known form: its keys are "data"', "save the list alone"),
        ({"prompt": "x"}, 'has "prompt" but no "completion"', "Add it"),
        ({"prompt": "x", "completion": None}, 'has "prompt" but no "completion"', "Add it"),
        ({"instruction": "x", "ouput": "y"}, 'has "instruction" but no "output"', 'Did you mean "output"'),
        ({"prompt": "x", "chosen": "y"}, 'has "chosen" but no "rejected"', "Add it"),
        ({"answer": "x"}, 'has "answer" but no "prompt"', "Add it"),
        ({"prompt": "x", "answer": "y", "output": "z"}, 'has both "output" and "answer"', "Keep one"),
        ({"instruction": "x", "inptu": "y", "output": "z"}, 'unknown key "inptu"', 'Did you mean "input"'),
        ({"prompt": "x", "completion": "y", "sytem": "z"}, 'unknown key "sytem"', 'Did you mean "system"'),
        ({}, "the object is empty", EXAMPLES["text"]),
        # types
        ([{"text": "x"}], "the row is a list, not an object", EXAMPLES["text"]),
        (None, "the row is null, not an object", EXAMPLES["text"]),
        ({"text": 5}, '"text" must be text, not a number', "double quotes"),
        ({"prompt": "x", "completion": True}, '"completion" must be text, not true or false', "quotes"),
        ({"messages": "x"}, '"messages" must be a list of messages, not text', EXAMPLES["messages"]),
        ({"messages": ["x"]}, 'message 1 of "messages" is text, not an object', '{"role": "user"'),
        ({"prompt": "x", "output": "y", "history": ["z"]}, '"history" 1 is not a pair', '[["question"'),
        ({"prompt": "x", "output": "y", "system": 1}, '"system" must be text, not a number', "quotes"),
        # emptiness
        ("", '"text" is empty', "Fill it in or delete the row"),
        ({"text": " \n"}, '"text" is empty', "Fill it in or delete the row"),
        ({"input": "", "output": "y"}, '"input" is empty', "Fill it in"),
        ({"input": [], "output": "y"}, 'the assistant speaks where the user should: "y"', "the user begins"),
        ({"prompt": "x", "completion": ""}, '"completion" is empty', "Fill it in"),
        (
            {"messages": [user("x"), assistant(" ")]},
            'message 2 of "messages" (assistant) is empty',
            "Fill it in",
        ),
        ({"messages": []}, "there is no message from the user", EXAMPLES["messages"]),
        # messages
        (
            {"messages": [user("x"), {"role": "asistant", "content": "y"}]},
            'message 2 of "messages" has an unknown role: "asistant"',
            'Did you mean "assistant"?',
        ),
        (
            {"conversations": says(humen="x", gpt="y")},
            'message 1 of "conversations" has an unknown role: "humen"',
            'Did you mean "human"?',
        ),
        (
            {"messages": [{"role": "narrator", "content": "x"}]},
            'message 1 of "messages" has an unknown role: "narrator"',
            "Roles are system, user, assistant.",
        ),
        (
            {"messages": [{"role": "user", "contnet": "x"}]},
            'message 1 of "messages" has no "content"',
            'Did you mean "content" where it says "contnet"?',
        ),
        (
            {"messages": [user("x"), {"role": "assistant", "content": None, "tool_calls": [{}]}]},
            'message 2 of "messages" has "tool_calls", which is not supported',
            "plain text",
        ),
        (
            {"messages": [user("x"), {"role": "tool", "content": "4"}]},
            'message 2 of "messages" has the role "tool", which is not supported',
            "Roles are",
        ),
        (
            {"messages": [user([{"type": "image_url", "image_url": "..."}]), assistant("y")]},
            'message 1 of "messages" has a part that is not a text part: "image_url"',
            "plain text",
        ),
        # order
        (
            {"messages": [user("x"), assistant("y"), user("z")]},
            "the last message is from the user, so there is no answer to learn",
            "Add the assistant's answer",
        ),
        (
            {"conversations": says(gpt="x", human="y")},
            'the assistant speaks where the user should: "x"',
            "turns",
        ),
        ({"messages": [user("x"), user("y")]}, 'the user speaks where the assistant should: "y"', "turns"),
        (
            {"messages": [user("x"), system("y")]},
            'the system speaks where the assistant should: "y"',
            "After an optional system message",
        ),
        # preferences
        ({"prompt": "x", "chosen": "y", "rejected": "y"}, '"chosen" and "rejected" are the same', "Delete"),
        ({"chosen": "y", "rejected": "z"}, 'has "chosen" and "rejected" but no "prompt"', EXAMPLES["pair"]),
        ({"prompt": "x", "chosen": "y", "rejected": ""}, '"rejected" is empty', "Fill it in"),
        (
            {"chosen": [user("x"), assistant("y")], "rejected": [user("X"), assistant("z")]},
            '"chosen" and "rejected" do not begin with the same user message',
            EXAMPLES["pair"],
        ),
        (
            {"prompt": "x", "chosen": [user("other"), assistant("y")], "rejected": "z"},
            'prompt and "chosen" do not fit: the user speaks where the assistant should: "other"',
            "turns",
        ),
        (
            {"prompt": [user("x"), assistant("y")], "chosen": "a", "rejected": "b"},
            "the prompt does not end with a user message",
            "Move answers",
        ),
    ],
)
def test_faults_are_named_with_place_and_remedy(value, reason, hint):
    error = error_of(value)
    assert (error.where, error.reason, error.exit_code) == ("train.jsonl:7", reason, DATA)
    assert hint in error.hint
    assert str(error) == f"train.jsonl:7: {reason}. {error.hint}"


def test_a_key_that_only_resembles_another_word_is_ignored():
    assert parse({"prompt": "Hi", "completion": "Hello!", "story": "x", "index": 1, "source": "y"}) == QA


def test_long_contents_are_shortened_in_messages():
    error = error_of({"messages": [user("x"), user("many words\n" * 100)]})
    assert len(error.reason) < 120 and "\n" not in error.reason


def test_a_row_that_could_not_be_read_keeps_its_own_fault():
    with pytest.raises(RowError) as caught:
        parse_row(BadRow("a.jsonl:3", "not valid UTF-8", "Convert it."))
    assert str(caught.value) == "a.jsonl:3: not valid UTF-8. Convert it."


# --------------------------------------------------------------------------------- stages and files


def test_what_each_stage_accepts():
    assert TEXTS.accept(Text("x")) == Text("x")
    assert TEXTS.accept(QA) == CONVERSATIONS.accept(QA) == QA
    assert CONVERSATIONS.accept(PAIR) == QA  # the chosen side
    assert PAIRS.accept(PAIR) == PAIR


@pytest.mark.parametrize(
    ("row", "stage", "reason"),
    [
        (EXAMPLES["pair"], "pretrain", "this row is a preference, but pretrain needs texts or conversations"),
        (EXAMPLES["text"], "sft", "this row is a text, but sft needs conversations"),
        (EXAMPLES["text"], "dpo", "this row is a text, but dpo needs preference pairs"),
        (EXAMPLES["messages"], "dpo", "this row is a conversation, but dpo needs preference pairs"),
    ],
)
def test_a_row_for_another_stage_is_refused_with_an_example(tmp_path, row, stage, reason):
    (tmp_path / "a.jsonl").write_text(f"\n\n{row}\n", "utf-8")
    form = STAGES[stage].form
    with pytest.raises(RowError) as caught:
        list(Reader(stage, form, Sources([str(tmp_path / "a.jsonl")]), 1, tmp_path))
    expected = f"{tmp_path}/a.jsonl:3: {reason}. A row for {stage} looks like this: {form.example}"
    assert str(caught.value) == expected


@pytest.mark.parametrize("stage", STAGES)
def test_the_examples_in_the_hints_are_right(stage):
    form = STAGES[stage].form
    assert isinstance(form.accept(parse(json.loads(form.example))), form.kind)


def test_forms_may_be_mixed_in_one_file(tmp_path):
    lines = ['"Once."', '{"prompt": "Hi", "completion": "Hello!"}', '{"promt": "Hi"}', EXAMPLES["pair"]]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    kinds = []
    for row in read_rows(tmp_path / "a.jsonl"):
        try:
            kinds.append(type(parse_row(row)).__name__)
        except RowError as error:
            kinds.append(error.where.removeprefix(str(tmp_path)))
    assert kinds == ["Text", "Conversation", "/a.jsonl:3", "Preference"]


def test_a_csv_file_of_questions_and_answers(tmp_path):
    (tmp_path / "a.csv").write_text("Question,Answer\nHi,Hello!\n")
    assert [parse_row(row) for row in read_rows(tmp_path / "a.csv")] == [QA]


@pytest.mark.skipif(not GSM8K.exists(), reason="the shared data is not on this machine")
def test_every_row_of_gsm8k_is_an_exchange():
    parsed = [parse_row(row) for row in read_rows(GSM8K)]
    assert len(parsed) == 7473
    assert {tuple(message["role"] for message in row.messages) for row in parsed} == {("user", "assistant")}


keys = [
    "text",
    "messages",
    "conversations",
    "prompt",
    "completion",
    "instruction",
    "input",
    "output",
    "system",
]
keys += ["history", "chosen", "rejected", "role", "content", "from", "value", "type", "tool_calls"]
words = st.sampled_from([*keys, "user", "assistant", "human", "gpt", "tool", "\n\nHuman: a\n\nAssistant: b"])
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), words),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(words | st.text(max_size=3), inner)),
    max_leaves=20,
)
roles = st.sampled_from(["system", "user", "assistant", "tool"])
parts = st.lists(words | st.dictionaries(words, words), max_size=2)
contents = st.one_of(words, parts, anything)
messages = st.lists(st.fixed_dictionaries({"role": roles, "content": contents}), min_size=1, max_size=3)


@settings(max_examples=120, deadline=None)
@given(st.one_of(anything, st.dictionaries(words, st.one_of(words, messages, anything), max_size=5)))
def test_no_value_raises_anything_but_row_error(value):
    try:
        parsed = parse(value)
    except RowError as error:
        assert error.where == "train.jsonl:7" and error.reason and error.hint
    else:
        turns = {
            Text: lambda: [],
            Conversation: lambda: [parsed.messages],
            Preference: lambda: [parsed.prompt + parsed.chosen, parsed.prompt + parsed.rejected],
        }[type(parsed)]()
        for conversation in turns:
            roles = [message["role"] for message in conversation]
            spoken = roles[1:] if roles[0] == "system" else roles
            assert spoken == ["user", "assistant"] * (len(spoken) // 2) and spoken
            assert all(message["content"].strip() for message in conversation)
