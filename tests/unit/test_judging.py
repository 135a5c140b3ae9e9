"""Votes and what they say: made-up raters whose truth is known, the page's server, judges that are no people."""

import json
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import numpy as np
import pytest

from minigpt.errors import DataError, MiniGPTError
from minigpt.evaluate.judges import by_endpoint, by_reward, judged
from minigpt.evaluate.judging import (
    Judging,
    Pair,
    Vote,
    add_vote,
    first_is_left,
    order_for,
    read_pairs,
    read_votes,
    results,
    save_pairs,
)
from minigpt.generate.endpoint import Endpoint
from minigpt.text.learn import train_tokenizer
from minigpt.watch.judge import judge_page, serve_judging

JUDGING = Judging("a/sft", "b/sft", [Pair(f"q{i}", f"first {i}", f"second {i}") for i in range(40)])


def test_sides_and_orders_are_random_and_always_the_same():
    lefts = [first_is_left("ann", i) for i in range(2000)]
    assert 0.46 < np.mean(lefts) < 0.54 and lefts == [first_is_left("ann", i) for i in range(2000)]
    assert lefts != [first_is_left("bob", i) for i in range(2000)]
    assert sorted(order_for("ann", 40)) == list(range(40)) and order_for("ann", 40) != order_for("bob", 40)


def test_votes_on_disk(tmp_path):
    save_pairs(tmp_path, JUDGING)
    assert read_pairs(tmp_path) == JUDGING and read_votes(tmp_path) == []
    add_vote(tmp_path, Vote(3, "ann", 1.0, True, "clear"))
    add_vote(tmp_path, Vote(4, "ann", 0.5, False))
    add_vote(tmp_path, Vote(3, "ann", 0.0, True))
    add_vote(tmp_path, {"item": 4, "rater": "ann", "score": None})
    with (tmp_path / "votes.jsonl").open("a") as file:
        file.write('{"item": 9, "rat')
    assert read_votes(tmp_path) == [Vote(3, "ann", 0.0, True)]
    add_vote(tmp_path, Vote(5, "model", 0.25, None))
    assert read_votes(tmp_path)[1:] == [Vote(5, "model", 0.25, None)]
    (tmp_path / "pairs.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        read_pairs(tmp_path)


def test_results_of_raters_whose_truth_is_known():
    """The first is better on 30 of 40; two raters see it, the third votes by chance."""
    generator, truth = np.random.default_rng(2), np.array([1.0] * 30 + [0.0] * 10)
    votes = []
    for rater in ("ann", "bob", "cat"):
        for item, right in enumerate(truth):
            said = float(generator.integers(2)) if rater == "cat" else right
            votes.append(Vote(item, rater, said, first_is_left(rater, item)))
    found = results(JUDGING, votes)
    assert found.votes == 120 and found.consensus == pytest.approx(0.75, abs=0.02)
    assert found.wins.value == np.mean([vote.score for vote in votes])
    assert found.raters["ann"][1] > 0.97 and found.raters["cat"][1] < 0.7
    expected = 400 * np.log10(found.wins.value / (1 - found.wins.value))
    apart = found.ratings["a/sft"].value - found.ratings["b/sft"].value
    assert apart == pytest.approx(expected, abs=6)
    assert set(found.agreement) == {"fleiss_kappa", "icc", "krippendorff_alpha"}
    two = results(JUDGING, [vote for vote in votes if vote.rater != "cat"])
    assert two.agreement["cohen_kappa"] == two.agreement["krippendorff_alpha"] == 1.0
    assert results(JUDGING, [Vote(0, "ann", 0.5, True)]).ties == 1
    by_model = [Vote(i, "model", (0.0, 0.25, 0.5, 0.75, 1.0)[i % 5], None) for i in range(40)]  # in both orders
    both = results(JUDGING, [*by_model, *(vote for vote in votes if vote.rater == "ann")])
    assert both.left == results(JUDGING, [vote for vote in votes if vote.rater == "ann"]).left
    assert both.agreement["fleiss_kappa"] is not None and results(JUDGING, by_model).left is None
    with pytest.raises(DataError, match="no votes"):
        results(JUDGING, [])


@pytest.fixture
def served(tmp_path):
    server = serve_judging(tmp_path, JUDGING, 0)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", tmp_path
    server.shutdown()
    server.server_close()


def ask(address, method="GET", page=True):
    request = urllib.request.Request(address, method=method, headers={"X-MiniGPT": "page"} if page else {})
    with urllib.request.urlopen(request) as answer:
        return json.loads(answer.read())


def test_the_page_is_blind_and_keeps_votes(served):
    address, directory = served
    seen = ask(f"{address}/api/next?rater=ann")
    item = seen["item"]
    assert item == order_for("ann", 40)[0] and (seen["done"], seen["total"]) == (0, 40)
    order = [f"first {item}", f"second {item}"]
    assert [seen["left"], seen["right"]] == (order if first_is_left("ann", item) else order[::-1])
    assert not {"a/sft", "b/sft"} & set(map(str, seen.values()))
    after = ask(f"{address}/api/vote?rater=ann&item={item}&choice=left&reason=short", "POST")
    (vote,) = read_votes(directory)
    assert vote == Vote(item, "ann", float(first_is_left("ann", item)), first_is_left("ann", item), "short")
    assert after["done"] == 1 and after["item"] != item
    assert ask(f"{address}/api/undo?rater=ann", "POST")["item"] == item and read_votes(directory) == []
    for path, method, page in (
        ("vote?rater=ann&item=0&choice=both", "POST", True), ("vote?rater=ann&item=99&choice=left", "POST", True),
        ("vote?rater=ann&item=0&choice=left", "POST", False), ("names", "GET", True),
    ):  # fmt: skip
        with pytest.raises(urllib.error.HTTPError):
            ask(f"{address}/api/{path}", method, page)
    assert read_votes(directory) == []


def test_the_page_names_no_model():
    assert "a/sft" not in judge_page() and "哪个回答更好" in judge_page() and "https://" not in judge_page()
    assert '<html lang="en">' in judge_page() and '<html lang="zh-Hans">' in judge_page("zh")


def test_a_judge_that_always_says_left_decides_nothing():
    scores, bias = judged(lambda pair: 1.0, JUDGING.pairs)
    assert set(scores) == {0.5} and bias.left.value == 1.0 and bias.steady.value == 0.0
    scores, bias = judged(lambda pair: float(pair.first < pair.second), JUDGING.pairs)  # "first" < "second"
    assert set(scores) == {1.0} and bias.left.value == 0.5 and bias.steady.value == 1.0


def test_an_answer_that_was_cut_off_is_scored_without_an_end():
    tokenizer = train_tokenizer("byte", ["a"], 300)
    seen = []

    def scores(prompts, answers):
        seen.append(answers[0])
        return [SimpleNamespace(score=len(answers[0]))]

    judge = by_reward(SimpleNamespace(tokenizer=tokenizer, scores=scores))
    same = [Pair("q", "yes", "no!", cut) for cut in ((False, False), (True, False), (False, True), (True, True))]
    assert [judge(pair) for pair in same] == [0.5, 0.0, 1.0, 0.5]
    assert judged(judge, same[1:2])[0] == [0.0]  # in both orders
    ends = {tuple(ids[:-1]) if ids[-1] == tokenizer.stops[0] else tuple(ids) for ids in seen}
    assert len(seen) == 4 and ends == {tuple(tokenizer.encode(text)) for text in ("yes", "no!")}


def test_an_endpoint_as_judge():
    said = iter(["A", "The better one is B.", "t", "I cannot tell", "a.", "Both are a tie"])
    asked = []

    class Server(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append((self.path, self.headers["Authorization"],
                          json.loads(self.rfile.read(int(self.headers["Content-Length"])))))  # fmt: skip
            body = json.dumps({"choices": [{"message": {"content": next(said)}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *parts):
            pass

    server = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}/v1"
    judge = by_endpoint(Endpoint(address, "big", "secret", retries=0))
    assert [judge(Pair("q", "l", "r")) for _ in range(6)] == [1.0, 0.0, 0.5, 0.5, 1.0, 0.5]
    path, key, body = asked[0]
    assert path == "/v1/chat/completions" and key == "Bearer secret" and body["model"] == "big"
    assert "Answer A:\nl" in body["messages"][0]["content"]
    server.shutdown()
    server.server_close()
    with pytest.raises(MiniGPTError, match="cannot be reached"):
        judge(Pair("q", "l", "r"))
