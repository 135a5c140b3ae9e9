"""The live page's server: on this machine only, reads the run's files, and hands two wishes on (stop, sample now)."""

import contextlib
import json
import math
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from minigpt.errors import MiniGPTError, UsageError
from minigpt.pages import html, texts
from minigpt.runs.finding import run_directories
from minigpt.store.requests import ask_sample, ask_stop, pending
from minigpt.watch.curves import Journals, drawn, speed
from minigpt.watch.example import example
from minigpt.watch.read import (
    read_json,
    read_run,
    read_samples,
    read_tail,
    results,
)
from minigpt.watch.usage import NAME as USAGE

Answer = Callable[[dict[str, list[str]]], dict[str, Any]]  # the query's fields -> what JSON holds
Answers = dict[str, Answer]

HOST, PORT = "127.0.0.1", 8321
MOST_RUNS = 8  # drawn over one another
NOTHING: Mapping[str, str] = MappingProxyType({})


class Runs:
    """What the page asks for, each as a JSON-able dict. `root` holds the runs, `chosen` is shown first."""

    def __init__(self, root: Path, chosen: Path):
        self.root, self.chosen = root, chosen
        self.journals = Journals()

    def directory(self, name: str) -> Path:
        """Raises UsageError for a name that is not that of a run in the root."""
        found = {path.name: path for path in [*run_directories(self.root), self.chosen]}
        if name not in found:
            raise UsageError(f"There is no run {name!r} in {self.root}.")
        return found[name]

    def runs(self, query: dict[str, list[str]]) -> dict[str, Any]:
        found = {path.name: path for path in [*run_directories(self.root), self.chosen]}
        rows = [read_run(path, sized=False) for path in found.values()]
        return {"chosen": self.chosen.name, "runs": [{"name": run.directory.name, "state": run.state} for run in rows]}

    def run(self, query: dict[str, list[str]]) -> dict[str, Any]:
        directory = self.directory(query["run"][0])
        run = read_run(directory, sized=False)
        shown, now = run.summary(), run.stage
        journal = self.journals.of(directory, now.name) if now else None
        for stage in shown["stages"]:  # the last lines of a journal may have no measurement
            if stage["validation_loss"] is None:
                stage["validation_loss"] = self.journals.of(directory, stage["stage"]).last("validation_loss")
        used, pace = usage(directory), speed(journal, now.steps) if journal else {}
        if now and run.process and not now.finished and pace["seconds_per_step"] and now.steps:
            expected = {"seconds": pace["seconds_per_step"] * now.steps, "memory": used.get("peak")}
            next(one for one in shown["stages"] if one["stage"] == now.name)["expected"] = expected
        return shown | {
            "name": directory.name, "stage": now.name if now else None, "config": run.config,
            "env": read_json(directory / "env.json"), "pending": pending(directory), "usage": used,
            "speed": pace, "results": results(run.stages, shown["measured"]),
            "samples": {stage.name: read_samples(directory / stage.name / "samples.jsonl") for stage in run.stages},
            "log": read_tail(directory / "log.txt"), "marks": journal.marks[-100:] if journal else [],
        }  # fmt: skip

    def curves(self, query: dict[str, list[str]]) -> dict[str, Any]:
        limits = None
        if "from" in query and "to" in query:
            limits = float(query["from"][0]), float(query["to"][0])
            if not all(map(math.isfinite, limits)):
                raise UsageError("from and to are steps.")
        stage = query["stage"][0]
        if not stage.isidentifier():
            raise UsageError(f"There is no stage {stage!r}.")
        names = query["run"][:MOST_RUNS]
        return {name: drawn(self.journals.of(self.directory(name), stage), limits) for name in names}

    def example(self, query: dict[str, list[str]]) -> dict[str, Any]:
        directory, stage = self.directory(query["run"][0]), query["stage"][0]
        return {"pieces": example(directory, stage) if stage.isidentifier() else []}

    def stop(self, query: dict[str, list[str]]) -> dict[str, Any]:
        ask_stop(self.directory(query["run"][0]))
        return {}

    def sample(self, query: dict[str, list[str]]) -> dict[str, Any]:
        ask_sample(self.directory(query["run"][0]))
        return {}


def usage(directory: Path) -> dict[str, Any]:
    """The last known share of the machine, the highest `peak` of memory lately, and a pause that has not ended."""
    found: dict[str, Any] = {}
    for line in read_tail(directory / USAGE).splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            taken = [size for size in (found.get("peak"), record.get("memory")) if isinstance(size, int | float)]
            found = found | record | ({"peak": max(taken)} if taken else {})
            if "continued" in record:
                found.pop("paused", None)
    return found


def serve(root: Path, chosen: Path, port: int | None = None, language: str = "en") -> "Server":
    """A server of the live page; `language` is that of the page until its reader takes the other one."""
    runs = Runs(root, chosen)
    reads = {name: getattr(runs, name) for name in ("runs", "run", "curves", "example")}
    return bound(lambda: live_page(language), reads, {"stop": runs.stop, "sample": runs.sample}, port)


def bound(page: Callable[[], str], reads: Answers, writes: Answers, port: int | None = None) -> "Server":
    """A server that is bound and ready for `serve_forever`; without a port 8321, or any that is free.

    It serves a page at /, and below /api/ what answers to GET and to the page's own POST, by name. Raises UsageError
    when the port that was asked for is taken.
    """
    handler = type("Handler", (Handler,), {"page": staticmethod(page), "reads": reads, "writes": writes})
    try:
        return Server((HOST, PORT if port is None else port), handler)
    except OSError as error:
        if port is not None:
            raise UsageError(
                f"Port {port} cannot be used: {error.strerror}.", "Leave --port out to take any."
            ) from None
        return Server((HOST, 0), handler)


def live_page(language: str = "en") -> str:
    """The page itself."""
    scripts = [html.part("common.js"), html.part("chart.js"), html.part("watch.js", "minigpt.watch")]
    data = texts.both("pages") | {f"measure_{name}": both for name, both in texts.both("measures").items()}
    return html.page("MiniGPT", html.part("watch.html", "minigpt.watch"), scripts, data, language)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True


class Handler(BaseHTTPRequestHandler):
    page: Callable[[], str]
    reads: Answers
    writes: Answers
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "MiniGPT", ""
    timeout = 30  # seconds for a request to arrive

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/" and self._is_ours():
            self._send(HTTPStatus.OK, self.page().encode(), "text/html; charset=utf-8")
            return
        self._answer(self._named(self.reads, path))

    def do_POST(self) -> None:
        self.close_connection = True  # a body is not read
        if self.headers.get("X-MiniGPT") != "page":  # which another site's page cannot send
            self._fail(HTTPStatus.FORBIDDEN, "This request does not come from the page.")
            return
        self._answer(self._named(self.writes, urlsplit(self.path).path))

    @staticmethod
    def _named(answers: Answers, path: str) -> Answer | None:
        return answers.get(path.removeprefix("/api/")) if path.startswith("/api/") else None

    def _is_ours(self) -> bool:
        """Whether the request was sent to this machine by name (against DNS rebinding) and not by another site."""
        port = self.server.server_address[1]
        hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost")}
        origin = self.headers.get("Origin")
        return self.headers.get("Host") in hosts and (origin is None or origin in {f"http://{host}" for host in hosts})

    def _answer(self, answer: Answer | None) -> None:
        if not self._is_ours():
            self._fail(HTTPStatus.FORBIDDEN, "This server answers to 127.0.0.1 and localhost only.")
        elif answer is None:
            self._fail(HTTPStatus.NOT_FOUND, "There is nothing here.")
        else:
            try:
                began = time.thread_time()
                text = _json(answer(parse_qs(urlsplit(self.path).query, max_num_fields=30)))
                used = {"Server-Timing": f"cpu;dur={1000 * (time.thread_time() - began):.3f}"}  # ms
                self._send(HTTPStatus.OK, text.encode("utf-8", "replace"), "application/json", used)
            except (KeyError, ValueError) as error:
                self._fail(HTTPStatus.BAD_REQUEST, f"The request is not complete: {error}.")
            except MiniGPTError as error:
                status = HTTPStatus.NOT_FOUND if isinstance(error, UsageError) else HTTPStatus.CONFLICT
                self._fail(status, str(error))
            except OSError as error:
                self._fail(HTTPStatus.INTERNAL_SERVER_ERROR, f"{error.strerror}: {error.filename}")

    def _fail(self, status: HTTPStatus, reason: str) -> None:
        self._send(status, json.dumps({"error": reason}).encode(), "application/json")

    def _send(self, status: HTTPStatus, body: bytes, kind: str, more: Mapping[str, str] = NOTHING) -> None:
        self.send_response(status)
        for name, value in ({"Content-Type": kind, "Content-Length": str(len(body))} | html.HEADERS | more).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # the browser has left
            super().handle()

    def log_message(self, *parts: Any) -> None:
        pass


def _json(found: Any) -> str:
    """JSON of what is all JSON's own, which is quick to see, or of what comes nearest to it."""
    try:
        return json.dumps(found, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError):
        return json.dumps(_finite(found), ensure_ascii=False, separators=(",", ":"))


def _finite(value: Any) -> Any:
    """The value with null for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value if _plain(value) else str(value)


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)
