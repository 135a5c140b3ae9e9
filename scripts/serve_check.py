#!/usr/bin/env python
"""Checks of `minigpt serve` that take longer than a test, each by its name.

    python scripts/serve_check.py hostile runs/demo
    python scripts/serve_check.py load runs/demo --clients 64 --requests 10000
    python scripts/serve_check.py clients runs/demo --peers ~/.cache/minigpt-clients/bin/python
    python scripts/serve_check.py comply runs/demo --peers …     python scripts/serve_check.py fuzz runs/demo --peers …
    python scripts/serve_check.py prometheus runs/demo           python scripts/serve_check.py replicas runs/demo
    python scripts/serve_check.py plan runs/demo                 python scripts/serve_check.py deploy --peers …

`clients`, `comply`, `fuzz` and `deploy` use other projects' packages, which live in an environment of their own:

    python -m venv ~/.cache/minigpt-clients
    ~/.cache/minigpt-clients/bin/pip install openai anthropic llm llm-comply schemathesis kubernetes-validate pyyaml

`prometheus` needs Debian's prometheus, `replicas` its nginx; --prometheus and --nginx say where they are. Prints what
was tried and what was wrong, and exits with 1 when anything was.
"""

import argparse
import asyncio
import statistics
import sys
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent))
from serving import hostile, load
from serving.started import Started, serving

PYTHON = Path.home() / ".cache" / "minigpt-clients" / "bin" / "python"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("check", choices=sorted(CHECKS))
    parser.add_argument("runs", type=Path, nargs="*")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--cases", type=int, default=2_000, help="of schemathesis")
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
    with serving(given.runs, "--power", "full", "--exact") as server:
        process = psutil.Process(server.process.pid)
        warm = asyncio.run(load.load(server.url, model_of(given), given.clients, given.requests // 5, seed=2))
        before = process.memory_info().rss
        found = asyncio.run(load.load(server.url, model_of(given), given.clients, given.requests))
        grown = process.memory_info().rss / before - 1
        first = statistics.quantiles(found.first, n=100)
        print(
            f"{found.asked} requests of {given.clients} clients in {found.seconds:.0f} s: {found.compared} compared, "
            f"{found.left} left early, {found.refused} refused; {found.tokens / found.seconds:.0f} tokens/s, first "
            f"token after {first[49]:.3f} s (half) and {first[98]:.3f} s (99 of 100); memory {grown:+.1%}."
        )
        wrong = [*warm.mixed, *warm.errors, *found.mixed, *found.errors]
        if grown > 0.05:
            wrong.append(f"memory grew by {grown:.1%}")
        return wrong + ended(server)


def ended(server: Started) -> list[str]:
    code = server.end()
    return [] if code == 0 else [f"the server ended with {code}"]


CHECKS = {"hostile": check_hostile, "load": check_load}

if __name__ == "__main__":
    sys.exit(main())
