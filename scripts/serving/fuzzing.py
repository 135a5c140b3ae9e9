"""schemathesis against a running server: requests made from the server's own description."""

import json
import subprocess
import tempfile
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

from serving.production import answered, series

BODIES = 7  # endpoints that take a body; the others have a single case, or a few


def wrong(st: Path, url: str, model: str, cases: int) -> list[str]:
    """What goes wrong in `cases` requests or more, none of which may be answered with a 5xx."""
    with tempfile.TemporaryDirectory() as directory:
        described = Path(directory) / "openapi.json"
        described.write_text(json.dumps(description(url, model)), "utf-8")
        command = [st, "run", described, "--url", url, "--checks", "not_a_server_error", "--mode", "all",
                   "--max-examples", -(-cases // BODIES), "--phases", "fuzzing", "--request-timeout", "90",
                   "--seed", "1"]  # fmt: skip
        with (Path(directory) / "said.txt").open("w+", encoding="utf-8") as said:
            running = subprocess.Popen(list(map(str, command)), stdout=said, stderr=said)
            asked, broken = followed(running, url)
            said.seek(0)
            print("\n".join(said.read().splitlines()[-25:]))
    statuses: dict[str, float] = {}
    for labels, count in series(url, "minigpt_http_requests_total"):
        status = labels.split('status="')[1][:3]
        statuses[status] = statuses.get(status, 0) + count
    print("  statuses: " + ", ".join(f"{status}: {count:,.0f}" for status, count in sorted(statuses.items())))
    found = [] if running.returncode == 0 else ["schemathesis has found something"]
    found += [f"{broken} answers of 5xx"] if broken else []
    return found + ([f"only {asked:,} requests"] if asked < cases else [])


def followed(running: subprocess.Popen, url: str) -> tuple[int, int]:
    """(requests that the server has answered, those with 5xx) when the process ends; says so every 15 seconds."""
    began = time.monotonic()
    while True:
        with suppress(subprocess.TimeoutExpired):
            running.wait(15)
        asked, broken = answered(url)
        print(f"  {time.monotonic() - began:>6.0f} s: {asked:,} requests, {broken} with 5xx", flush=True)
        if running.poll() is not None:
            return asked, broken


def description(url: str, model: str) -> dict:
    """The server's OpenAPI file, with its model as the only name: made-up ones are all refused with 404."""
    with urllib.request.urlopen(f"{url}/openapi.json", timeout=10) as answer:
        found = json.load(answer)
    for schema in found["components"]["schemas"].values():
        if "model" in schema.get("properties", {}):
            schema["properties"]["model"] = {"type": "string", "enum": [model]}
    return found
