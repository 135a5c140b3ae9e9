"""minigpt serve with a small model behind it: what clients get, and that no client can spoil it for another."""

import asyncio
import http.client
import json
import socket
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from once import once

from minigpt.events import silent
from minigpt.generate import choice
from minigpt.generate.engine import Engine
from minigpt.generate.sampling import GREEDY, Sampling
from minigpt.model.gpt import GPT, to_backend
from minigpt.parity.models import random_weights
from minigpt.sections import ModelConfig
from minigpt.serve import worker as workers
from minigpt.serve.bounds import Bounds
from minigpt.serve.guard import Doors
from minigpt.serve.keys import Keys
from minigpt.serve.running import serve
from minigpt.serve.worker import Served, Worker
from minigpt.text.characters import CharTokenizer
from minigpt.text.chatml import render

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from serving import hostile, load

TOKENIZER = CharTokenizer("the cat sat on a mat. 小猫")
CONFIG = ModelConfig(
    n_layer=2, n_head=2, n_kv_head=1, d_model=32, d_ff=64, head_dim=16, context=700, vocab_size=TOKENIZER.vocab_size
)
CHAT = "/v1/chat/completions"
BOUNDS = Bounds(rows=4, queue=20, chunk=16, answer=30, drain=5, arrive=2)


def engine(backend):
    weights = to_backend(backend, random_weights(CONFIG))
    return Engine(GPT(CONFIG, backend), weights, TOKENIZER)


@contextmanager
def served(backend, bounds=BOUNDS):
    """(port, worker, end) of a server in this process with the models "m" and "base"."""
    ready, found = threading.Event(), []

    def opened():
        return [Served("m", engine(backend), "sft", True, 0), Served("base", engine(backend), "pretrain", False, 0)]

    def started(port, end):
        found.extend((port, end))
        ready.set()

    worker = Worker(opened, bounds, exact=True)
    worker.start()
    thread = threading.Thread(target=serve, args=(worker, Doors(Keys(), bounds), "127.0.0.1", 0, silent, started))
    thread.start()
    assert ready.wait(20)
    try:
        yield found[0], worker, found[1]
    finally:
        found[1]()
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def server(backend):
    with served(backend) as (port, worker, _):
        yield port, worker


def ask(port, path, body=None, seconds=30):
    """(status, JSON or text, headers)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    content = None if body is None else json.dumps(body)
    connection.request("GET" if body is None else "POST", path, content, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    kind = answer.headers.get("Content-Type", "")
    return answer.status, json.loads(text) if kind.startswith("application/json") else text, answer.headers


def events(text):
    """The JSON of each server-sent event."""
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


def talk(text="the cat", **more):
    return {"model": "m", "messages": [{"role": "user", "content": text}], "max_tokens": 12} | more


def alone(backend, text, sampling, most=12):
    ids, _ = render(TOKENIZER, [{"role": "user", "content": text}], generation_prompt=True)
    return engine(backend).answer([ids], sampling, most)[0]


@once
def test_memory_goes_back_once_in_each_pause(backend, monkeypatch):
    given = []
    monkeypatch.setattr(workers, "REST", 0.1)
    monkeypatch.setattr(workers, "give_back", given.append)

    def paused():
        before, until = len(given), time.monotonic() + 20
        ask(port, "/v1/chat/completions", talk(temperature=0))
        while len(given) == before and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(1.5)  # longer than an idle engine waits for work
        return len(given) - before

    with served(backend) as (port, *_):
        time.sleep(1.5)
        assert not given  # nothing was done yet
        assert [paused(), paused()] == [1, 1]


def test_an_answer_is_the_engines(server, backend):
    expected = alone(backend, "the cat", GREEDY)
    _, found, _ = ask(server[0], "/v1/chat/completions", talk(temperature=0))
    assert found["choices"][0]["message"]["content"] == expected.text
    assert found["usage"]["completion_tokens"] == len(expected.ids)
    drawn = [alone(backend, "the cat", Sampling(temperature=1.0, seed=seed)).text for seed in (5, 6)]
    _, found, _ = ask(server[0], "/v1/chat/completions", talk(seed=5, n=2))
    assert [one["message"]["content"] for one in found["choices"]] == drawn


def test_a_stream_is_the_answer_in_pieces(server, backend):
    expected = alone(backend, "on a mat", GREEDY)
    body = talk("on a mat", temperature=0, stream=True, stream_options={"include_usage": True}, logprobs=True)
    status, text, headers = ask(server[0], "/v1/chat/completions", body)
    found = events(text)
    pieces = [one["choices"][0]["delta"].get("content", "") for one in found if one["choices"]]
    assert status == 200 and "".join(pieces) == expected.text and text.endswith("data: [DONE]\n\n")
    assert headers["Content-Type"].startswith("text/event-stream")
    reasons = [one["choices"][0]["finish_reason"] for one in found if one["choices"]]
    assert reasons[-1] == ("stop" if expected.reason == "stop" else "length") and not any(reasons[:-1])
    assert found[-1]["usage"]["completion_tokens"] == len(expected.ids)
    logprobs = [one["choices"][0]["logprobs"] for one in found if one["choices"]]
    known = [entry for one in logprobs if one for entry in one["content"]]
    assert len(known) == len(expected.ids) and all(entry["logprob"] <= 0 for entry in known)


def test_the_other_apis_say_the_same(server, backend):
    port, expected = server[0], alone(backend, "the cat", GREEDY).text
    _, text, _ = ask(port, "/v1/messages", talk(top_k=1, stream=True))
    deltas = [one["delta"] for one in events(text) if one["type"] == "content_block_delta"]
    assert "".join(delta["text"] for delta in deltas) == expected
    _, found, _ = ask(port, "/v1/messages", talk(temperature=0.0))
    assert found["content"][0]["text"] == expected and found["stop_reason"] in ("end_turn", "max_tokens")
    response = {"model": "m", "input": "the cat", "temperature": 0, "max_output_tokens": 12}
    _, found, _ = ask(port, "/v1/responses", response)
    assert found["output"][0]["content"][0]["text"] == expected
    _, text, _ = ask(port, "/v1/responses", response | {"stream": True})
    assert [one["sequence_number"] for one in events(text)] == list(range(len(events(text))))
    assert events(text)[-1]["response"]["output"][0]["content"] == found["output"][0]["content"]
    ids, _ = render(TOKENIZER, talk()["messages"], generation_prompt=True)
    counted = ask(port, "/v1/messages/count_tokens", {"model": "m", "messages": talk()["messages"]})[1]
    assert counted == {"input_tokens": len(ids)}
    body = {"model": "base", "prompt": "the", "max_tokens": 5, "temperature": 0, "echo": True}
    _, found, _ = ask(port, "/v1/completions", body)
    assert found["choices"][0]["text"] == "the" + engine(backend).answer([TOKENIZER.encode("the")], GREEDY, 5)[0].text


def test_a_grammar_holds_answers_and_forced_calls(server):
    schema = {
        "type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"], "additionalProperties": False
    }  # fmt: skip
    form = {"type": "json_schema", "json_schema": {"name": "f", "schema": schema}}
    _, found, _ = ask(server[0], "/v1/chat/completions", talk(response_format=form, max_tokens=60))
    assert json.loads(found["choices"][0]["message"]["content"])["a"] in ("x", "y")
    tool = {"type": "function", "function": {"name": "t", "parameters": schema}}
    body = talk("h", tools=[tool], tool_choice="required", max_tokens=100)
    _, found, _ = ask(server[0], "/v1/chat/completions", body)
    call = found["choices"][0]["message"]["tool_calls"][0]["function"]
    assert call["name"] == "t" and json.loads(call["arguments"])["a"] in ("x", "y")
    assert found["choices"][0]["finish_reason"] == "tool_calls"


def test_texts_and_tokens(server):
    text = "the 小猫 🙂"
    _, found, _ = ask(server[0], "/tokenize", {"model": "m", "prompt": text})
    assert found["tokens"] == TOKENIZER.encode(text) and found["count"] == len(found["pieces"])
    assert ask(server[0], "/detokenize", {"model": "m", "tokens": found["tokens"]})[1] == {"prompt": text}
    assert [one["id"] for one in ask(server[0], "/v1/models")[1]["data"]] == ["m", "base"]
    assert ask(server[0], "/v1/models/m")[1]["max_model_len"] == 700


@pytest.mark.parametrize("change, status, code", [
    ({"model": "other"}, 404, "model_not_found"), ({"nonsense": 1}, 400, "unknown_parameter"),
    ({"messages": None}, 400, "invalid_value"), ({"stop": 5}, 400, "invalid_value"),
    ({"messages": [{"role": "user", "content": "a" * 800}]}, 400, "context_length_exceeded"),
    ({"logit_bias": {"99999999": 1}}, 400, None), ({"n": 10**9}, 400, "invalid_value"),
    ({"max_tokens": 10**30}, 400, "invalid_value"), ({"temperature": "hot"}, 400, "invalid_value"),
])  # fmt: skip
def test_refusals_have_openais_shape(server, change, status, code):
    found = ask(server[0], "/v1/chat/completions", talk(**change))
    assert (found[0], found[1]["error"]["code"]) == (status, code)
    assert set(found[1]["error"]) == {"message", "type", "param", "code"} and found[1]["error"]["message"]


@once
def test_hostile_requests(server, backend):
    before = ask(server[0], "/v1/chat/completions", talk(temperature=0))[1]["choices"]
    tried, wrong = hostile.wrong(f"http://127.0.0.1:{server[0]}", "m")
    assert tried >= 100 and wrong == []
    assert ask(server[0], "/v1/chat/completions", talk(temperature=0))[1]["choices"] == before


def test_many_clients_that_come_and_go(server):
    found = asyncio.run(load.load(f"http://127.0.0.1:{server[0]}", "m", clients=12, requests=40, distinct=8))
    assert found.mixed == found.errors == []
    assert found.asked == 40 and found.compared > 15 and found.left > 2
    assert idle(server[1])


def idle(worker, seconds=5):
    """Whether nothing is in flight any more, within that time."""
    end = time.monotonic() + seconds
    while worker.in_flight or not all(one.idle for one in worker.schedulers.values()):
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_row(server, stream, monkeypatch):
    slow(server[1], monkeypatch)
    connection = socket.create_connection(("127.0.0.1", server[0]))
    connection.sendall(hostile.request(json.dumps(talk(max_tokens=100, stream=stream, logit_bias=NEVER)).encode()))
    until(lambda: server[1].in_flight == 1)
    connection.close()
    assert idle(server[1], 2)  # the answer itself takes longer


NEVER = {str(token): -100 for token in TOKENIZER.stops}  # an answer that does not end by itself


def slow(worker, monkeypatch, seconds=0.05):
    for scheduler in worker.schedulers.values():
        step = scheduler.step
        monkeypatch.setattr(scheduler, "step", lambda step=step: (time.sleep(seconds), step())[1])


def until(true, seconds=10):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


@once
def test_a_row_that_fails_ends_alone(server, monkeypatch):
    def sample(logits, sampling, *more):
        if sampling.seed == 666:
            raise RuntimeError("this row")
        return drawn(logits, sampling, *more)

    failed = 'vllm:request_success_total{finished_reason="error",model_name="m"}'
    before = float(ask(server[0], "/metrics")[1].split(failed)[1].split()[0])
    drawn = choice.sample
    expected = [ask(server[0], "/v1/chat/completions", talk(seed=seed))[1]["choices"] for seed in (1, 2, 3)]
    monkeypatch.setattr(choice, "sample", sample)
    found = {}

    def one(seed):
        found[seed] = ask(server[0], "/v1/chat/completions", talk(seed=seed))

    threads = [threading.Thread(target=one, args=(seed,)) for seed in (1, 666, 2, 3)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert found[666][0] == 500 and found[666][1]["error"]["code"] == "engine_error"
    assert [found[seed][1]["choices"] for seed in (1, 2, 3)] == expected
    assert float(ask(server[0], "/metrics")[1].split(failed)[1].split()[0]) == before + 1


@once
def test_numbers_for_prometheus(server):
    from prometheus_client.parser import text_string_to_metric_families

    def read():
        text = ask(server[0], "/metrics")[1]
        return {(s.name, *s.labels.values()): s.value for f in text_string_to_metric_families(text) for s in f.samples}

    before = read()
    _, found, _ = ask(server[0], "/v1/chat/completions", talk("count me"))
    after = read()
    for name, expected in (
        ("generation_tokens_total", found["usage"]["completion_tokens"]), ("e2e_request_latency_seconds_count", 1),
        ("prompt_tokens_total", found["usage"]["prompt_tokens"]), ("time_to_first_token_seconds_count", 1),
    ):  # fmt: skip
        assert after[f"vllm:{name}", "m"] - before[f"vllm:{name}", "m"] == expected, name
    assert after["vllm:num_requests_running", "m"] == 0 and after["minigpt_engine_up",] == 1


@once
def test_a_full_queue_a_stuck_engine_and_a_late_answer(backend, monkeypatch):
    bounds = Bounds(rows=1, queue=1, stuck=0.3, answer=1, drain=5)
    with served(backend, bounds) as (port, worker, _):
        slow(worker, monkeypatch, 1.5)
        late = []
        threads = [threading.Thread(target=lambda: late.append(ask(port, CHAT, talk()))) for _ in "ab"]
        [thread.start() for thread in threads]
        until(lambda: worker.in_flight == 2)
        status, found, headers = ask(port, "/v1/chat/completions", talk())
        assert (status, found["error"]["code"]) == (429, "queue_full") and 1 <= int(headers["Retry-After"]) <= 30
        until(lambda: ask(port, "/health")[0] == 503)
        assert "stuck" in ask(port, "/health")[1]["reason"] and ask(port, "/live")[0] == 503
        [thread.join() for thread in threads]
        assert [(status, found["error"]["code"]) for status, found, _ in late] == [(504, "deadline_exceeded")] * 2
        until(lambda: ask(port, "/health")[0] == 200)  # once the step that was slow is over
        monkeypatch.undo()
        worker.stop()  # as if it had died
        assert ask(port, "/health")[0] == 503
        assert ask(port, "/v1/chat/completions", talk())[0] == 503


@once
def test_an_end_finishes_what_has_begun(backend, monkeypatch):
    with served(backend) as (port, worker, end):
        slow(worker, monkeypatch, 0.02)
        found = []
        body = talk(logit_bias=NEVER)
        thread = threading.Thread(target=lambda: found.append(ask(port, "/v1/chat/completions", body)))
        thread.start()
        until(lambda: worker.in_flight == 1)
        end()
        thread.join()
        assert found[0][0] == 200 and found[0][1]["usage"]["completion_tokens"] == 12
        until(lambda: refuses(port))


def refuses(port):
    try:
        socket.create_connection(("127.0.0.1", port)).close()
        return False
    except ConnectionRefusedError:
        return True
