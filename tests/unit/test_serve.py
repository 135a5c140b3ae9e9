"""What minigpt serve does without a model: keys, refusals, tool calls, what stands before every request, the page."""

import asyncio
import gzip
import heapq
import itertools
import json
import math
import random
import re
import statistics
import sys
from base64 import b64encode
from hashlib import sha256
from importlib import resources
from pathlib import Path

import pytest

from minigpt.errors import UsageError
from minigpt.pages import html, texts
from minigpt.serve.asked import Function
from minigpt.serve.bounds import Bounds
from minigpt.serve.chat import ChatRequest
from minigpt.serve.chat_page import chat_page
from minigpt.serve.guard import Doors, Guard
from minigpt.serve.keys import Bucket, Keys, Tenant, read_keys
from minigpt.serve.measuring import Measured, Typical
from minigpt.serve.planning import Replica, replica, replicas, steady
from minigpt.serve.refusals import Refused
from minigpt.serve.tools import Heard, choice_of

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from serving import simulated

ADD = Function(name="add", parameters={"type": "object"})
SUB = Function(name="sub")


# ---- keys --------------------------------------------------------------------------------------------------


def test_a_bucket_fills_evenly():
    now = [0.0]
    bucket = Bucket(60, lambda: now[0])  # one a second
    for _ in range(60):
        assert bucket.wait() == 0
        bucket.take(1)
    assert bucket.wait() == pytest.approx(1.0)
    now[0] += 0.25
    assert bucket.wait() == pytest.approx(0.75)
    now[0] += 1000
    assert bucket.wait(60) == 0 and bucket.wait(10**6) == 0  # full, and no fuller
    bucket.take(120)  # an answer that was longer than the rest of the minute's tokens
    assert bucket.wait() == pytest.approx(61.0)


def test_one_tenant_cannot_use_up_another_ones(tmp_path):
    file = tmp_path / "keys.toml"
    limits = ("a", "requests_per_minute = 2"), ("b", "tokens_per_minute = 9")
    file.write_text("".join(f'[{name}]\nkey = "{name * 20}"\n{limit}\n' for name, limit in limits))
    keys = read_keys(file)
    a, b = keys.tenant("a" * 20), keys.tenant("b" * 20)
    assert (a.name, b.name) == ("a", "b")
    a.admit(), a.admit()
    with pytest.raises(Refused) as refusal:
        a.admit()
    assert refusal.value.status == 429 and 1 <= int(refusal.value.headers()["Retry-After"]) <= 30
    b.admit()
    b.used(10)
    with pytest.raises(Refused, match="tokens per minute"):
        b.admit()
    for wrong in (None, "", "c" * 20, "a" * 19, "a" * 21, "\udcff"):
        with pytest.raises(Refused) as refusal:
            keys.tenant(wrong)
        assert refusal.value.status == 401
    assert Keys().tenant(None).name == "anyone"


@pytest.mark.parametrize("text", [
    "", "a = 5", "[a]\n", "[a]\nkey = 5", '[a]\nkey = "short"', '[a]\nkey = "ääääääääääääääääääää"',
    f'[a]\nkey = "{"a" * 20}"\nrequests = 5', f'[a]\nkey = "{"a" * 20}"\nrequests_per_minute = 0',
    f'[a]\nkey = "{"a" * 20}"\n[b]\nkey = "{"a" * 20}"', "[a",
])  # fmt: skip
def test_keys_that_are_none(tmp_path, text):
    (tmp_path / "keys.toml").write_text(text)
    with pytest.raises(UsageError):
        read_keys(tmp_path / "keys.toml")


# ---- what stands before every request ----------------------------------------------------------------------


def ask(doors, method="GET", path="/v1/models", headers=(), parts=(b"",), app=None, wait=0.0):
    """(status, headers, JSON) of one request to a Guard before `app`, or before one that answers with its body."""
    sent, left = [], list(parts)

    async def receive():
        await asyncio.sleep(wait)
        if not left:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message):
        sent.append(message)

    async def echo(scope, receive, send):
        body = (await receive())["body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps({"body": body.decode()}).encode()})

    known = {b"host": b"127.0.0.1:8322"} | {n.encode(): v.encode() for n, v in headers}
    scope = {"type": "http", "method": method, "path": path, "headers": list(known.items()), "client": ("1.2.3.4", 5)}
    asyncio.run(Guard(app or echo, doors)(scope, receive, send))
    if not sent:
        return None, {}, {}
    return sent[0]["status"], dict(sent[0]["headers"]), json.loads(sent[1]["body"])


def doors(**changes):
    return Doors(Keys(), Bounds(body=100, arrive=0.2), **changes)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:8322", "[::1]"])
def test_hosts_that_are_answered(host):
    assert ask(doors(), headers=[("host", host)])[0] == 200


@pytest.mark.parametrize("host", ["", "evil.example", "127.0.0.1.evil.example:80", "localhost.", "[::2]", "a:b"])
def test_hosts_that_are_not(host):
    status, _, found = ask(doors(), headers=[("host", host)])
    assert status == 403 and "--allow-host" in found["error"]["message"]
    assert ask(doors(hosts=None), headers=[("host", host)])[0] == 200  # where a key is needed instead


def test_foreign_origins():
    mine, other = ("origin", "http://127.0.0.1:8322"), ("origin", "https://other.example")
    assert ask(doors(), headers=[mine])[0] == 200
    status, headers, found = ask(doors(), headers=[other])
    assert status == 403 and "--allow-origin" in found["error"]["message"]
    assert b"access-control-allow-origin" not in headers
    status, headers, _ = ask(doors(origins=(other[1],)), headers=[other])
    assert status == 200 and headers[b"access-control-allow-origin"] == b"https://other.example"
    assert ask(doors(), headers=[("origin", "null")])[0] == 403


def test_bodies_have_bounds_however_they_arrive():
    assert ask(doors(), "POST", parts=(b"ab", b"cd"))[2] == {"body": "abcd"}
    assert ask(doors(), "POST", parts=(b"a" * 60, b"b" * 60))[0] == 413
    assert ask(doors(), "POST", headers=[("content-length", "101")], parts=())[0] == 413
    assert ask(doors(), "POST", headers=[("content-length", "9" * 50)], parts=())[0] == 413
    assert ask(doors(), "POST", parts=(b"a",) * 50, wait=0.03)[0] == 408
    assert ask(doors(), "POST", parts=(b"a" * 200,) * 9, headers=[("x", "y" * 40_000)])[0] == 431


def test_the_log_has_no_prompts_unless_asked():
    lines = []
    ask(doors(log=lines.append), "POST", "/v1/x", parts=(b"secret",))
    ask(doors(log=lines.append, prompts=True), "POST", "/v1/x", parts=(b"secret",))
    ask(doors(log=lines.append), headers=[("host", "evil")])
    assert "secret" not in json.dumps(lines[0]) and lines[1]["body"] == "secret"
    assert [line["status"] for line in lines] == [200, 200, 403]
    assert lines[0].items() >= {"method": "POST", "path": "/v1/x", "client": "1.2.3.4", "key": "anyone"}.items()


def test_a_fault_is_one_answer():
    async def broken(scope, receive, send):
        raise RuntimeError("secret")

    status, _, found = ask(doors(), app=broken)
    assert status == 500 and found["error"]["type"] == "server_error" and "secret" not in json.dumps(found)
    status, _, found = ask(doors(), path="/v1/messages", app=broken)
    assert found["type"] == "error" and found["error"]["type"] == "api_error"


def test_an_ending_server_admits_nothing():
    ending = doors()
    ending.ending = True
    assert ask(ending)[0] == 503
    assert [ask(ending, path=path)[0] for path in ("/health", "/live", "/metrics")] == [200] * 3


# ---- bodies and tools --------------------------------------------------------------------------------------


def test_parts_become_a_text():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    body = ChatRequest(model="m", messages=[{"role": "user", "content": parts}])
    assert body.messages[0].content == "ab"
    with pytest.raises(ValueError, match="image_url"):
        ChatRequest(model="m", messages=[{"role": "user", "content": [{"type": "image_url"}]}])


@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_call_is_told_from_text_however_it_is_cut(size):
    call = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
    text = f"Before < {call}after <tool_call>no call</tool_call> {call.replace('add', 'other')}<tool"
    heard = Heard(choice_of([ADD, SUB], "auto"))
    found = [heard.hear(text[i : i + size], i + size >= len(text)) for i in range(0, len(text), size)]
    calls = [one for _, some in found for one in some]
    assert [(one.name, json.loads(one.arguments)) for one in calls] == [("add", {"a": 1})] and calls == heard.calls
    assert "".join(shown for shown, _ in found) == text.replace(call, "")


def test_without_tools_everything_is_text():
    heard = Heard(choice_of([ADD], "none"))
    assert heard.hear("<tool_call>{}", last=True) == ("<tool_call>{}", [])


def test_a_forced_call_is_the_whole_answer():
    choice = choice_of([ADD, SUB], "required", "sub")
    assert choice.schema(100)["properties"]["name"] == {"const": "sub"}
    heard = Heard(choice)
    assert heard.hear('{"name": "sub", ', last=False) == ("", [])
    shown, calls = heard.hear('"arguments": {}}', last=True)
    assert shown == "" and [one.name for one in calls] == ["sub"]
    assert len(choice_of([ADD, SUB], "any").schema(100)["anyOf"]) == 2
    for tools, wanted, name in (([], "required", None), ([ADD], "auto", "sub")):
        with pytest.raises(Refused):
            choice_of(tools, wanted, name)


def test_a_forced_call_ends_whoever_writes_it():
    free = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "array", "minItems": 30},
                                             "c": {"type": "string", "maxLength": 9}}}  # fmt: skip
    choice = choice_of([Function(name="f", parameters=free)], "required")
    bounded = choice.schema(800)["properties"]["arguments"]
    assert bounded["properties"]["a"]["maxLength"] == 100 and bounded["properties"]["c"]["maxLength"] == 9
    assert bounded["properties"]["b"]["maxItems"] == 30 and bounded["additionalProperties"] is False
    assert free["properties"]["a"] == {"type": "string"}  # the request itself stays


# ---- how many replicas -------------------------------------------------------------------------------------


def erlang(load, mean, servers):
    """(the share that waits, the mean wait) of M/M/c by Erlang's formula C."""
    offered = load * mean
    terms = [offered**n / math.factorial(n) for n in range(servers)]
    last = offered**servers / math.factorial(servers) * servers / (servers - offered)
    share = last / (sum(terms) + last)
    return share, share * mean / (servers - offered)


def machine(*rates, first=0.0, most=None):
    """A replica with these rates, whose first tokens all take as long."""
    return Replica(rates, [first] * len(rates), rates[-1] if most is None else most)


@pytest.mark.parametrize("servers, load", [(1, 0.7), (4, 3.1), (16, 15.0), (16, 2.0)])
def test_a_replica_whose_rows_do_not_slow_each_other_is_an_m_m_c_queue(servers, load):
    share, wait = erlang(load, 1.0, servers)
    found = steady(load, machine(*map(float, range(1, servers + 1)), first=0.2), 0.7)
    assert found.wait == pytest.approx(wait) and found.answer == pytest.approx(wait + 1)
    assert found.first == pytest.approx(wait + 0.2)
    assert found.late == pytest.approx(share * math.exp(-(servers - load) * 0.5))
    assert found.busy == pytest.approx(load / servers)


def test_rows_that_share_one_speed_are_a_single_server():
    assert steady(0.6, machine(*[1.0] * 8), 1.0).answer == pytest.approx(1 / (1 - 0.6))  # M/M/1
    assert steady(1.0, machine(*[1.0] * 8), 1.0) is None


def test_the_fewest_replicas_that_are_enough():
    one = machine(2.0, 3.0, 4.0, 5.0, first=0.1)
    count, found = replicas(1000, one, 0.5)
    assert found.late <= 0.01 < (steady(1000 / (count - 1), one, 0.5) or steady(4.99, one, 0.5)).late
    assert replicas(0.01, one, 0.5)[0] == 1
    with pytest.raises(UsageError, match="first token"):  # however many there are
        replicas(0.01, one, 0.05)


def test_a_replica_is_drawn_through_what_was_measured():
    found = replica({1: Measured(2.0, 0.1), 4: Measured(5.0, 0.4), 8: Measured(6.0, 9.0)}, 4)
    assert found.rates == [2.0, 3.0, 4.0, 5.0] and found.first == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert [found.rate(n) for n in (1, 4, 5, 99)] == [2.0, 5.0, 6.0, 6.0]
    assert replica({1: Measured(2.0, 0.2), 2: Measured(1.5, 0.1)}, 2) == Replica([2.0, 2.0], [0.2, 0.2], 2.0)


def test_answers_have_lengths_without_memory():
    what, chance = Typical("", "", (), 1, tokens=8, most=20), random.Random(1)
    drawn = [what.draw(chance) for _ in range(20_000)]
    assert statistics.mean(drawn) == pytest.approx(what.mean, rel=0.02) and what.mean == pytest.approx(
        sum((7 / 8) ** k for k in range(20))
    )
    longer = [sum(one > k for one in drawn) for k in (0, 4, 8, 12)]
    assert [b / a for a, b in itertools.pairwise(longer)] == pytest.approx([(7 / 8) ** 4] * 3, rel=0.05)
    assert max(drawn) == 20


def chances(load, count, seed):
    """Moments of a Poisson process, and works of mean 1 without memory."""
    chance = random.Random(seed)
    return list(itertools.accumulate(chance.expovariate(load) for _ in range(count))), [
        chance.expovariate(1) for _ in range(count)
    ]


@pytest.mark.parametrize("share", [0.4, 0.75])
def test_the_queue_is_what_a_simulation_of_single_requests_shows(share):
    """Rows that share rates like those of a batch, measured on an engine: six times as fast with eight as with one."""
    one = Replica([2.0, 3.8, 5.4, 7.0, 8.5, 9.8, 11.0, 12.0], [0.0] * 8, 12.5)
    arrivals, works = chances(share * one.most, 40_000, 1)
    waits, wholes = zip(*simulated.times(arrivals, works, one), strict=True)
    expected = steady(share * one.most, one, 0.05)
    assert statistics.mean(wholes) == pytest.approx(expected.answer, rel=0.03)
    assert statistics.mean(waits) == pytest.approx(expected.wait, rel=0.1, abs=1e-4)
    assert sum(wait > 0.05 for wait in waits) / len(waits) == pytest.approx(expected.late, rel=0.1, abs=1e-3)


def test_equal_lengths_change_little_until_requests_wait():
    """Processor sharing: the mean time depends on the mean length only (Kelly 1979). At 75 % some already wait."""
    one = Replica([2.0, 3.8, 5.4, 7.0, 8.5, 9.8, 11.0, 12.0], [0.0] * 8, 12.5)
    for share, least in ((0.4, 0.97), (0.75, 0.88)):
        arrivals, works = chances(share * one.most, 20_000, 2)
        wholes = [whole for _, whole in simulated.times(arrivals, [1.0] * len(works), one)]
        ratio = statistics.mean(wholes) / steady(share * one.most, one, 1).answer
        assert least < ratio < 1.02


def engine_in_steps(rows, requests, again, end, mean=10):
    """An engine as it is: a step reads the prompts that came (20 ms, and 10 ms for each) and gives all rows a token (40
    ms, and 4 ms for each). `requests` are moments; `again` says when the one who has an answer asks next. Returns
    (moment, seconds, tokens) of each answer.
    """
    chance, coming, running, found, now = random.Random(3), sorted(requests), [], [], 0.0
    draw = lambda: 1 + int(math.log(1 - chance.random()) / math.log(1 - 1 / mean))  # noqa: E731
    while (coming or running) and now < end:
        if not running and coming[0] > now:
            now = coming[0]
        came = []
        while coming and coming[0] <= now and len(running) + len(came) < rows:
            came.append([heapq.heappop(coming), draw()])
        now += (0.040 + 0.004 * len(running) if running else 0) + (0.020 + 0.010 * len(came) if came else 0)
        running += [[moment, tokens, tokens] for moment, tokens in came]
        for row in running:
            row[2] -= 1
        for moment, tokens, _ in (row for row in running if not row[2]):
            found.append((moment, now - moment, tokens))
            if (moment := again(now)) is not None:
                heapq.heappush(coming, moment)
        running = [row for row in running if row[2]]
    return found


def test_rates_with_clients_that_ask_again_foretell_the_times_of_requests_by_chance():
    """The way from a measurement to a plan, on an engine that computes in steps and reads prompts between them."""
    measured, rows, mean = {}, 8, 10
    for n in (1, 2, 4, 8, 16):
        found = engine_in_steps(rows, [0.001 * i for i in range(n)], lambda now: now + 0.002, 300, mean)
        measured[n] = Measured(sum(tokens for *_, tokens in found) / 300 / mean, 0.05)
    one = replica(measured, rows)
    assert one.most > 3 * one.rates[0]
    for share in (0.3, 0.5, 0.7):
        arrivals, _ = chances(share * one.most, 4_000, 5)
        found = engine_in_steps(rows, arrivals, lambda now: None, math.inf, mean)
        expected = steady(share * one.most, one, 1)
        assert statistics.mean(seconds for _, seconds, _ in found) == pytest.approx(expected.answer, rel=0.1)


def test_the_files_for_production_are_written_once(tmp_path):
    from minigpt.cli.serve import write_deploy

    write_deploy(tmp_path / "deploy")
    names = {path.name for path in (tmp_path / "deploy").iterdir()}
    assert names >= {"Dockerfile", "compose.yaml", "kubernetes.yaml", "nginx.conf", "alerts.yml", "grafana.json",
                     "trainjob.yaml", "pytorchjob.yaml", "train.sbatch"}  # fmt: skip
    with pytest.raises(UsageError, match="already"):
        write_deploy(tmp_path / "deploy")


def test_dashboard_and_alerts_ask_for_series_that_there_are():
    room = resources.files("minigpt.serve")
    source = (room / "metrics.py").read_text("utf-8")
    files = "".join((room / "deploy" / name).read_text("utf-8") for name in ("grafana.json", "alerts.yml"))
    asked = set(re.findall(r"(?:vllm:|minigpt_)\w+", files))
    for name in asked:
        assert re.sub(r"_(total|bucket|count|sum)$", "", name) in source or name in source, name
    assert len(asked) > 15


# ---- the chat page -----------------------------------------------------------------------------------------


def test_the_chat_page_is_one_small_file_with_a_strict_policy():
    page = chat_page()
    assert len(gzip.compress(page.encode())) < 100_000
    assert not re.search(r"(src|href)\s*=|https?://|@import|url\(|innerHTML|insertAdjacent|eval\(|\.write\(", page)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1]
    script = re.search(r"<script>(.*)</script>", page, re.S)[1]
    digest = b64encode(sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'; connect-src 'self'" in policy and "unsafe" not in policy
    assert " style=" not in page and " on" not in re.sub(r"<script.*</script>", "", page, flags=re.S).split("<body>")[1]


def test_every_word_of_the_chat_page_is_there_in_two_languages():
    words, script = texts.both("chat"), html.part("chat.js", "minigpt.serve")
    used = set(re.findall(r'(?:say|button)\("(\w+)"', script)) | {"new", "send", "stop", "export", "language", "theme"}
    assert used <= words.keys() and all(len(pair) == 2 and all(pair) for pair in words.values())


def test_only_a_server_for_this_machine_needs_no_key():
    from minigpt.cli.serve import Entry, Log, doors_of

    with pytest.raises(UsageError, match="no key"):
        doors_of(Entry(host="0.0.0.0"), Log(), Bounds())
    found = doors_of(Entry(host="0.0.0.0", api_key="k" * 20), Log(), Bounds())
    assert found.hosts is None and found.keys.tenant("k" * 20) == Tenant("default")
    assert doors_of(Entry(allow_host=["My.Name"]), Log(), Bounds()).hosts[-2:] == ("[::1]", "my.name")
    with pytest.raises(UsageError, match="no origin"):
        doors_of(Entry(allow_origin=["*"]), Log(), Bounds())
