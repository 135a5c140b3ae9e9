"""AI feedback: judges, principles, an endpoint that may be ill, and a file of pairs that goes on where it was."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from minigpt.data.parse.formats import parse_row
from minigpt.data.read.raw_rows import Row
from minigpt.errors import DataError, MiniGPTError, UsageError
from minigpt.feedback.gather import RUBBISH, Asked, Wanted, gather, pair_of, work_of
from minigpt.feedback.judges import Judge, numbers_in
from minigpt.feedback.principles import read_principles, rules_of
from minigpt.feedback.prompts import prompts_of
from minigpt.generate.endpoint import Endpoint, check_endpoint
from minigpt.generate.engine import Answer
from minigpt.text.characters import CharTokenizer
from minigpt.train.rewards import make_rewards, score

PROMPTS = [Asked([{"role": "user", "content": f"Question {n}?"}], {"answer": "Yes."}) for n in range(12)]


class Model:
    """An engine whose answers are made from their seeds, and that counts what it was asked."""

    model, tokenizer = SimpleNamespace(config=SimpleNamespace(context=400)), CharTokenizer("")

    def __init__(self):
        self.asked = 0

    def answer_each(self, prompts, samplings, most):
        self.asked += len(prompts)
        texts = ["Yes." + "!" * (one.seed % 7) for one in samplings]
        return [Answer(self.tokenizer.encode(text), text, "stop", 0) for text in texts]

    def answer(self, prompts, sampling, most):
        return [Answer([65], "Yes, gladly.", "stop", 0) for _ in prompts]


@pytest.fixture
def server():
    """An endpoint: `server.says` is a text, a status, "rubbish", "slow", or a function of the messages."""
    state = SimpleNamespace(says="[1, 2]", requests=[])

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.requests.append((self.path, self.headers["Authorization"], body))
            says = state.says(body["messages"]) if callable(state.says) else state.says
            if says == "slow":
                time.sleep(1.0)
            status = says if isinstance(says, int) else 200
            found = {"id": "1", "object": "chat.completion", "created": 1, "model": body["model"], "choices": [
                {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": says}}]}  # fmt: skip
            text = "<html>Welcome</html>" if says == "rubbish" else json.dumps(found)
            self.send_response(status)
            self.send_header("Content-Type", "text/html" if says == "rubbish" else "application/json")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *words):
            pass

    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.daemon_threads = True
    threading.Thread(target=found.serve_forever, args=(0.01,), daemon=True).start()
    state.url = f"http://127.0.0.1:{found.server_port}/v1"
    yield state
    found.shutdown()
    found.server_close()


def endpoint(server, **settings):
    return Endpoint(server.url, "m", "secret", **{"timeout": 5.0, "retries": 0} | settings)


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


# ---- pairs


def test_the_best_and_the_worst_answer_become_a_row(tmp_path):
    out, judge = tmp_path / "deep" / "pairs.jsonl", Judge(make_rewards(["length:4"]))
    found = gather(Model(), judge, PROMPTS, out, Wanted(answers=3))
    rows, records = lines(out), lines(work_of(out))[1:]
    assert len(records) == 12 and found.pairs == len(rows) > 5 and found.pairs + found.even == 12
    for record in records:
        scores = [max(0.0, 1 - abs(len(text) - 4) / 4) for text in record["answers"]]
        assert record["scores"] == pytest.approx(scores)
        pair = {"prompt": record["prompt"], "chosen": record["answers"][scores.index(max(scores))],
                "rejected": record["answers"][scores.index(min(scores))]}  # fmt: skip
        assert (pair in rows) is (max(scores) > min(scores))
    for row in rows:
        assert type(parse_row(Row("f:1", row))).__name__ == "Preference"


@pytest.mark.parametrize(("answers", "scores"), [
    (["a", "b"], [1, 1]), (["a", " a "], [1, 0]), (["", "b"], [1, 0]), (["a", "b"], None),
])  # fmt: skip
def test_what_is_no_pair(answers, scores):
    assert pair_of({"prompt": "p", "answers": answers, "scores": scores}) is None


def test_an_answer_that_was_cut_off_is_judged_without_an_end(tmp_path):
    """What a reward model reads are the tokens that were sampled, here no encoding of the text."""
    told = []

    class Cut(Model):
        def answer_each(self, prompts, samplings, most):
            return [Answer([7, 8, 9], "cut", "length"), Answer([7, 8], "done", "stop", 5)] * (len(prompts) // 2)

        def answer(self, prompts, sampling, most):
            return [Answer([6, 6], "better", "length")]

    def judged(prompts, answers, rows):
        told.append([row["answer_ids"] for row in rows])
        return [float(len(answer)) for answer in answers]

    judge = Judge([SimpleNamespace(name="mine", function=judged, weight=1.0)])
    gather(Cut(), judge, PROMPTS[:1], tmp_path / "pairs.jsonl", Wanted(answers=2, revise=True))
    assert told == [[[7, 8, 9], [7, 8, 5]], [[7, 8, 9], [7, 8, 5], [6, 6]]]


def test_an_interrupted_call_goes_on_where_it_was(tmp_path):
    """The rewards fail at the sixth prompt, and the last line is cut; the end is that of one call."""
    calls = []

    def failing(prompts, answers, rows):
        calls.append(prompts[0])
        if len(calls) == 6:
            raise MiniGPTError("No judge today.")
        return [float(len(answer)) for answer in answers]

    def judge():
        return Judge([SimpleNamespace(name="mine", function=failing, weight=1.0)])

    whole, parts, model = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl", Model()
    with pytest.raises(MiniGPTError, match="No judge today") as error:
        gather(model, judge(), PROMPTS, parts, Wanted())
    assert "5 of 12 prompts are done" in error.value.hint and len(lines(work_of(parts))) == 6
    with work_of(parts).open("a", encoding="utf-8") as file:
        file.write('{"prompt": "Quest')
    found = gather(model, judge(), PROMPTS, parts, Wanted())
    assert found.kept == 5 and calls[6] == "Question 5?"
    gather(Model(), judge(), PROMPTS, whole, Wanted())
    for path in (lambda p: p, work_of):
        assert path(parts).read_bytes() == path(whole).read_bytes()
    asked = model.asked
    gather(model, judge(), PROMPTS, parts, Wanted())
    assert model.asked == asked  # all is done
    with pytest.raises(UsageError, match="begun with other settings .answers: 4 -> 3"):
        gather(model, judge(), PROMPTS, parts, Wanted(answers=3))


# ---- an endpoint


def test_an_endpoint_judges(server, tmp_path):
    server.says = lambda messages: "I think: [2, 9.5]"
    judge, out = Judge(endpoint=endpoint(server)), tmp_path / "pairs.jsonl"
    gather(Model(), judge, PROMPTS[:1], out, Wanted(answers=2, seed=4))
    path, key, body = server.requests[0]
    assert (path, key, body["model"]) == ("/v1/chat/completions", "Bearer secret", "m")
    record = lines(work_of(out))[1]
    told = body["messages"][0]["content"]
    assert "Question 0?" in told and all(answer in told for answer in record["answers"])
    assert record["scores"] == pytest.approx([0.2, 0.95])


@pytest.mark.parametrize(("text", "found"), [
    ("[1, 2]", [1, 2]), ("First [3, 4], no: [5,6.5].", [5, 6.5]), ("[1, 2, 3]", None), ("[1, 11]", None),
    ("[good, bad]", None), ("7 and 8", None), ("[-1, 2]", None), ("[[1, 2]]", [1, 2]), ("[]", None),
])  # fmt: skip
def test_scores_in_an_answer(text, found):
    assert numbers_in(text, 2) == found


def test_an_endpoint_that_answers_rubbish_loses_nothing(server, tmp_path):
    """Two prompts are judged and kept; then it raves: it is asked twice for each of five more, and given up."""
    asked = []

    def says(messages):
        asked.append(len(messages))
        return "[1, 2]" if len(asked) <= 2 else "As a language model I like both."

    server.says = says
    out, judge = tmp_path / "pairs.jsonl", Judge(endpoint=endpoint(server))
    with pytest.raises(MiniGPTError, match=f"gave no scores for {RUBBISH} prompts in a row"):
        gather(Model(), judge, PROMPTS, out, Wanted(answers=2))
    assert asked == [1, 1] + [1, 3] * RUBBISH
    assert [row["scores"] is None for row in lines(work_of(out))[1:]] == [False] * 2 + [True] * RUBBISH
    server.says = "[1, 2]"
    found = gather(Model(), judge, PROMPTS, out, Wanted(answers=2))
    assert found.kept == 2 and found.unjudged == 0  # the five were asked again


@pytest.mark.parametrize(("says", "words"), [
    (401, "answered with the error 401"), (503, "answered with the error 503"), ("rubbish", "no answer of a chat API"),
    ("slow", "did not answer within 0.3 seconds, 1 times"), (" ", "sent an empty answer"),
])  # fmt: skip
def test_an_endpoint_that_is_ill_gets_a_sentence(server, tmp_path, says, words):
    calls = []
    server.says = lambda messages: "[1, 2]" if calls.append(1) or len(calls) < 3 else says
    out = tmp_path / "pairs.jsonl"
    with pytest.raises(MiniGPTError) as error:
        gather(Model(), Judge(endpoint=endpoint(server, timeout=0.3)), PROMPTS, out, Wanted(answers=2))
    assert words in error.value.message and server.url in error.value.message and "secret" not in str(error.value)
    assert "2 of 12 prompts are done" in error.value.hint and len(lines(work_of(out))) == 3


def test_an_endpoint_that_is_down_or_fails_once(server):
    with pytest.raises(MiniGPTError, match="cannot be reached") as error:
        Endpoint("http://127.0.0.1:9/v1", "m", retries=0, timeout=2.0).ask([{"role": "user", "content": "Hi"}])
    assert "Is it running" in error.value.hint
    calls = []
    server.says = lambda messages: 503 if calls.append(1) or len(calls) == 1 else "[1, 2]"
    assert endpoint(server, retries=1).ask([{"role": "user", "content": "Hi"}]) == "[1, 2]" and len(calls) == 2


def test_what_is_no_endpoint():
    with pytest.raises(UsageError, match="no address"):
        check_endpoint("localhost:8080")


def test_an_answer_is_criticized_and_revised(server, tmp_path):
    """The revised answer is judged like the others, and here preferred."""

    def says(messages):
        last = messages[-1]["content"]
        if "Say in one or two sentences" in last:
            return "It is rude."
        if "write the answer again" in last:
            assert messages[-2]["content"] == "It is rude."
            return "Gladly, yes."
        return "[1, 2]" if "Answer 3" not in last else "[1, 2, 9]"

    server.says = says
    out = tmp_path / "pairs.jsonl"
    gather(Model(), Judge(endpoint=endpoint(server)), PROMPTS[:2], out, Wanted(answers=2, revise=True))
    record, pair = lines(work_of(out))[1], lines(out)[0]
    assert record["critique"] == "It is rude." and record["answers"][2] == pair["chosen"] == "Gladly, yes."
    own = tmp_path / "own.jsonl"  # without an endpoint the model itself revises
    gather(Model(), Judge(make_rewards(["contains"])), PROMPTS[:1], own, Wanted(answers=2, revise=True))
    assert lines(work_of(own))[1]["answers"][2] == "Yes, gladly."


# ---- principles and prompts


def test_principles_with_rules(tmp_path):
    file = tmp_path / "rules.txt"
    file.write_text("# how we speak\nBe polite. [regex:please|gladly]\nBe [truly] honest.\n\n"
                    "Do not shout. [not regex:!]\nBe short. [length:10]\n", "utf-8")  # fmt: skip
    found = read_principles(file)
    assert [one.text for one in found] == ["Be polite.", "Be [truly] honest.", "Do not shout.", "Be short."]
    assert [one.rule is None for one in found] == [False, True, False, False]
    answers = ["gladly now", "No!", ""]
    totals, single = score(rules_of(found), ["?"] * 3, answers, [{}] * 3)
    assert single.tolist() == [[1, 1, 1], [0, 0, pytest.approx(0.3)], [0, 0, 0]]  # an empty answer keeps no rule
    judge = Judge(rules_of(found))
    assert judge.scores("?", answers, [{}] * 3) == pytest.approx(totals.tolist())


@pytest.mark.parametrize(("text", "words"), [
    ("Be kind. [regexp:x]", "rules.txt:1: There is no reward 'regexp'"), ("[length:3]", "without a sentence"),
    ("# nothing\n", "has no principle"), ("Be short. [length:x]", "wants a number of characters"),
])  # fmt: skip
def test_principles_that_mean_nothing(tmp_path, text, words):
    (tmp_path / "rules.txt").write_text(text, "utf-8")
    with pytest.raises(DataError) as error:
        read_principles(tmp_path / "rules.txt")
    assert words in error.value.message


def test_prompts_of_all_kinds(tmp_path):
    (tmp_path / "a.txt").write_text("One?\n\nTwo?\n", "utf-8")
    rows = [{"prompt": "Three?", "kind": 3}, {"prompt": "Four?", "completion": "Yes.", "label": True},
            {"prompt": "Five?", "chosen": "Yes.", "rejected": "No."},
            {"messages": [{"role": "user", "content": "Six?"}, {"role": "assistant", "content": "Yes."}]}]  # fmt: skip
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    found = prompts_of([str(tmp_path / "a.txt"), str(tmp_path / "b.jsonl")], tmp_path, 1)
    assert [one.text for one in found] == ["One?", "Two?", "Three?", "Four?", "Five?", "Six?"]
    assert found[2].row == {"prompt": "Three?", "kind": 3}
    assert [one.row.get("answer") for one in found[3:]] == ["Yes."] * 3
    assert len(prompts_of(["world"], tmp_path, 1, 5)) == 5
    (tmp_path / "c.jsonl").write_text('{"text": "No prompt."}\n', "utf-8")
    with pytest.raises(DataError, match="c.jsonl:1: this row has no prompt"):
        prompts_of([str(tmp_path / "c.jsonl")], tmp_path, 1)
