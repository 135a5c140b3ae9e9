"""The files for production, tried: Prometheus with its rules, nginx with replicas, schemas of the others."""

import asyncio
import json
import re
import socket
import subprocess
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path

from serving import load
from serving.started import serving

DEPLOY = resources.files("minigpt.serve") / "deploy"


def text(name: str) -> str:
    return (DEPLOY / name).read_text("utf-8")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def answers(url: str, seconds: float = 20) -> None:
    """Wait until something answers there."""
    end = time.monotonic() + seconds
    while True:
        with suppress(OSError):
            urllib.request.urlopen(url, timeout=2).close()
            return
        if time.monotonic() > end:
            raise SystemExit(f"{url} does not answer.")
        time.sleep(0.2)


# ---- Prometheus --------------------------------------------------------------------------------------------


@contextmanager
def watched(prometheus: str, server: str, directory: Path) -> Iterator[str]:
    """The address of a Prometheus that asks the server each second and has the alert rules."""
    target, port = urllib.parse.urlsplit(server).netloc, free_port()
    settings = re.sub(r"\[.*\]", f'["{target}"]', text("prometheus.yml")).replace("5s", "1s")
    (directory / "prometheus.yml").write_text(settings)
    (directory / "alerts.yml").write_text(text("alerts.yml"))
    command = [prometheus, f"--config.file={directory / 'prometheus.yml'}", f"--storage.tsdb.path={directory / 'data'}",
               f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]  # fmt: skip
    process = subprocess.Popen(command)
    try:
        answers(f"http://127.0.0.1:{port}/-/ready")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def expressions() -> dict[str, str]:
    """Name -> PromQL of the dashboard and of the alerts; these without the comparison that is rarely true."""
    found = {}
    for panel in json.loads(text("grafana.json"))["panels"]:
        for target in panel["targets"]:
            found[f"panel {panel['title']} {target['refId']}"] = target["expr"]
    for name, words in re.findall(r"alert: (\w+)\n +expr: (.+)", text("alerts.yml")):
        found[f"alert {name}"] = re.sub(r" (==|>|<) [\d.]+$", "", words)
    return found


def query(address: str, words: str) -> int:
    """How many series an expression returns."""
    url = f"{address}/api/v1/query?{urllib.parse.urlencode({'query': words})}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        rows = json.load(answer)["data"]["result"]
    return sum(row["value"][1] != "NaN" for row in rows)


# ---- nginx -------------------------------------------------------------------------------------------------


@contextmanager
def nginx_before(nginx: str, stable: list[str], canary: str, share: str, directory: Path) -> Iterator[str]:
    """The address of an nginx with the file for production before these servers."""
    port = free_port()
    content = text("nginx.conf").replace("listen 8080", f"listen 127.0.0.1:{port}")
    content = content.replace("/tmp/nginx", f"{directory}/n")
    before, _, after = content.partition("upstream canary")
    for name, address in zip(("minigpt-a:8322", "minigpt-b:8322"), stable, strict=True):
        before = before.replace(name, address)
    after = after.replace("minigpt-b:8322", canary).replace("minigpt-a:8322", stable[1])
    after = after.replace("*   stable;", f"{share};\n    *   stable;")
    (directory / "nginx.conf").write_text(before + "upstream canary" + after)
    process = subprocess.Popen([nginx, "-c", directory / "nginx.conf", "-p", directory, "-g", "daemon off;"])
    try:
        answers(f"http://127.0.0.1:{port}/health")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def generated(url: str) -> float:
    """Answers that a server has finished."""
    return sum(value for _, value in series(url, "vllm:request_success_total"))


def answered(url: str) -> tuple[int, int]:
    """(requests that a server has answered, of those the ones with 5xx); what asks for that is not counted."""
    found = [(name, value) for name, value in series(url, "minigpt_http_requests_total") if '"/metrics"' not in name]
    return int(sum(value for _, value in found)), int(sum(value for name, value in found if 'status="5' in name))


def series(url: str, name: str) -> list[tuple[str, float]]:
    """(name with labels, value) of each series of a metric."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    pairs = [line.rsplit(" ", 1) for line in lines if line.startswith(f"{name}{{")]
    return [(labels, float(value)) for labels, value in pairs]


def behind_nginx(runs: list[Path], model: str, nginx: str) -> list[str]:
    """What goes wrong when a canary has 25 %, one of two replicas ends as in an update, and the canary is killed."""
    with (
        tempfile.TemporaryDirectory() as directory, serving(runs, "--power", "full") as a,
        serving(runs, "--power", "full") as b, serving(runs, "--power", "full") as c,
    ):  # fmt: skip
        places = [urllib.parse.urlsplit(one.url).netloc for one in (a, b, c)]
        with nginx_before(nginx, places[:2], places[2], "25% canary", Path(directory)) as url:
            bodies = load.bodies(model, 240, load.random.Random(3))
            wrong = asyncio.run(_share(url, bodies, a, b, c))
            wrong += asyncio.run(_while(url, bodies, a.process.terminate, "ended", lost=0))
            wrong += asyncio.run(_while(url, bodies, c.process.kill, "killed", lost=8))
        return wrong


async def _share(url: str, bodies: list[dict], a, b, c) -> list[str]:
    found = await asyncio.gather(*(load.answer(url, body) for body in bodies[:80]))
    counts = [generated(one.url) for one in (a, b, c)]
    print(f"  80 requests: {counts[0]:.0f} and {counts[1]:.0f} to the replicas, {counts[2]:.0f} to the canary of 25 %")
    wrong = [f"a request got {status}: {text}" for status, text, *_ in found if status != 200]
    return wrong + ([] if 8 <= counts[2] <= 34 and min(counts[:2]) > 10 else [f"the shares are {counts}"])


async def _while(url: str, bodies: list[dict], act, word: str, lost: int) -> list[str]:
    """Eight clients ask one after the other while a replica is `word`; at most `lost` answers may break."""
    broken, left = [], list(bodies[:120])

    async def client() -> None:
        while left:
            body = left.pop()
            try:
                status, text, *_ = await load.answer(url, body)
            except (OSError, ValueError, IndexError) as error:
                status, text = 0, str(error)
            if status != 200:
                broken.append(f"{status} {text[:80]}")
            if len(left) == 60:
                act()

    await asyncio.gather(*(client() for _ in range(8)))
    print(f"  a replica is {word}: {len(broken)} of 120 answers break (at most the {lost} in it may)")
    return [f"a replica {word}: {one}" for one in broken] if len(broken) > lost else []


# ---- schemas -----------------------------------------------------------------------------------------------


def validated(python: Path, prometheus: str, nginx: str) -> list[str]:
    """What tools that know the files' schemas say against them."""
    with tempfile.TemporaryDirectory() as place:
        for file in DEPLOY.iterdir():
            content = file.read_text("utf-8")
            if file.name == "nginx.conf":  # which looks its servers' names up
                content = re.sub("minigpt-[ab]", "127.0.0.1", content)
            (Path(place) / file.name).write_text(content)
        checks = {
            "prometheus.yml and alerts.yml": [Path(prometheus).with_name("promtool"), "check", "config",
                                              f"{place}/prometheus.yml"],
            "kubernetes.yaml": [python.with_name("kubernetes-validate"), "--strict", f"{place}/kubernetes.yaml"],
            "nginx.conf": [nginx, "-t", "-c", f"{place}/nginx.conf", "-p", place],
            "compose.yaml": [python.with_name("check-jsonschema"), "--builtin-schema", "vendor.compose-spec",
                             f"{place}/compose.yaml"],
            "Dockerfile": [python.with_name("hadolint"), f"{place}/Dockerfile"],
        }  # fmt: skip
        wrong = []
        for name, command in checks.items():
            try:
                done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
            except FileNotFoundError:
                print(f"  {name:<32} not checked: {command[0]} is not installed")
                continue
            print(f"  {name:<32} {'ok' if done.returncode == 0 else 'wrong'}")
            if done.returncode:
                wrong.append(f"{name}: {(done.stdout + done.stderr).strip()[-400:]}")
        return wrong
