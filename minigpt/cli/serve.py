"""`minigpt serve`: models behind an HTTP API, and a chat page."""

import json as json_module
import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from typer import Argument, Option

from minigpt.cli import flags
from minigpt.cli.command import command
from minigpt.errors import UsageError

if TYPE_CHECKING:
    from minigpt.serve.bounds import Bounds
    from minigpt.serve.guard import Doors

KEY = "MINIGPT_API_KEY"
LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")


@dataclass(frozen=True)
class Entry:
    """Where it listens, and who may ask."""

    title: ClassVar[str] = "Who may ask"

    host: Annotated[
        str, Option("--host", metavar="ADDRESS", help="Listen there, such as 0.0.0.0; needs a key.")
    ] = "127.0.0.1"
    port: Annotated[int, Option("--port", metavar="N", min=0, max=65535, help="0 takes any that is free.")] = 8322
    api_key: Annotated[
        str | None, Option("--api-key", metavar="KEY", help=f"What clients must send. Better in ${KEY}.")
    ] = None
    keys: Annotated[
        Path | None, Option("--keys", metavar="FILE", help="Several keys with limits: TOML, one section each.")
    ] = None
    allow_host: Annotated[
        list[str] | None, Option("--allow-host", metavar="NAME", help="Also answer to this Host name. Repeatable.")
    ] = None
    allow_origin: Annotated[
        list[str] | None, Option("--allow-origin", metavar="URL", help="Let pages of this origin ask. Repeatable.")
    ] = None


@dataclass(frozen=True)
class Load:
    """How much it does at once."""

    title: ClassVar[str] = "How much at once"

    rows: Annotated[int, Option("--rows", metavar="N", min=1, max=256, help="Answers computed together.")] = 16
    queue: Annotated[int, Option("--queue", metavar="N", min=0, max=10_000, help="Answers that may wait.")] = 64
    timeout: Annotated[
        float, Option("--timeout", metavar="SECONDS", min=1, max=86_400, help="Longest answer, waiting included.")
    ] = 300.0
    drain: Annotated[
        float, Option("--drain", metavar="SECONDS", min=0, max=3_600, help="For answers in flight at the end.")
    ] = 30.0
    cache: Annotated[
        str, Option("--prefix-cache", metavar="SIZE", help="Memory for beginnings that are kept, per model.")
    ] = "64MB"
    exact: Annotated[
        bool, Option("--exact", help="Bitwise the same answer whoever else asks; one alone takes longer.")
    ] = False


@dataclass(frozen=True)
class Log:
    """The access log: a JSON line for each request."""

    title: ClassVar[str] = "Access log"

    log: Annotated[Path | None, Option("--log", metavar="FILE", help="Add lines to it; - is stdout.")] = None
    log_prompts: Annotated[bool, Option("--log-prompts", help="With what was asked, which is private.")] = False


@dataclass(frozen=True)
class Planned:
    """How many replicas a load needs."""

    title: ClassVar[str] = "Planning instead of serving"

    plan: Annotated[
        float | None, Option("--plan", metavar="QPS", min=0.001, help="Measure the model and plan for this load.")
    ] = None
    tokens: Annotated[int, Option("--tokens", metavar="N", min=1, help="Tokens of an answer on average.")] = 64
    prompt_tokens: Annotated[int, Option("--prompt-tokens", metavar="N", min=1, help="Tokens of a prompt.")] = 32
    within: Annotated[
        float,
        Option("--within", metavar="SECONDS", min=0.001, help="99 of 100 requests have their first token by then."),
    ] = 1.0
    cost: Annotated[float, Option("--cost", metavar="PRICE", min=0, help="Of a machine like this one, an hour.")] = 0.0


@dataclass(frozen=True)
class Numbers:
    """Numbers of fewer bits."""

    title: ClassVar[str] = "Less memory"

    bits: Annotated[int, Option("--bits", metavar="N", help="4 or 8: use the weights in so many bits.")] = 0
    kv_bits: Annotated[int, Option("--kv-bits", metavar="N", help="4 or 8: keys and values in so many bits.")] = 0


Models = Annotated[
    list[Path] | None,
    Argument(metavar="RUN…", help="Runs, their stages (RUN/STAGE), or exported models. Default: the newest."),
]
Every = Annotated[bool, Option("--stages/--no-stages", help="Serve every finished stage of a RUN, not the last only.")]
Deploy = Annotated[
    Path | None,
    Option("--deploy", metavar="DIR", help="Only write files for Docker, Kubernetes, Slurm, nginx and Prometheus."),
]
Browser = Annotated[bool, Option("--browser/--no-browser", help="Open the chat page in a browser.")]


@command(
    "minigpt serve runs/demo", "minigpt serve runs/demo/sft runs/other --port 9000",
    "minigpt serve runs/demo --host 0.0.0.0 --keys keys.toml --log access.jsonl", "minigpt serve runs/demo --plan 1000",
)  # fmt: skip
def serve(
    entry: Entry,
    load: Load,
    share: flags.Share,
    numbers: Numbers,
    where: flags.Where,
    log: Log,
    planned: Planned,
    runs: Models = None,
    every: Every = True,
    browser: Browser = False,
    deploy: Deploy = None,
) -> None:
    """An API server for models, with a chat page.

    It has the interfaces of OpenAI and Anthropic, and the page at /.

    Without --host it is for this machine only. Ctrl-C ends it when the answers that have begun are finished; a second
    one at once.
    """
    from minigpt.cli import console, opening, waiting
    from minigpt.cli.limits import braked, limits_from
    from minigpt.serve.opening import names_of, opener
    from minigpt.serve.worker import Worker
    from minigpt.train.stop import Stop

    if deploy is not None:
        write_deploy(deploy)
        return
    limits, bounds = limits_from(share), bounds_of(load)
    doors = doors_of(entry, log, bounds)
    models = names_of(runs or [None], every)
    framework = opening.backend_of(where.backend, where.device, quiet=True)
    opened = opener(models, framework, numbers.bits, numbers.kv_bits, lambda event: console.note(event.text))
    with ExitStack() as stack:
        brake = stack.enter_context(braked(limits, framework, Stop(), os.getpid()))
        worker = Worker(opened, bounds, brake if limits.cpu or limits.memory else None, load.exact)
        with waiting.working("Loading the models"):
            worker.start()
        if planned.plan is not None:
            from minigpt.cli.serve_plan import plan_and_print

            plan_and_print(worker, doors, planned.plan, planned)
            return
        run(worker, doors, entry, log, stack, browser)


def write_deploy(directory: Path) -> None:
    """Copy the files for production into a directory. Raises UsageError where one is there already."""
    from importlib import resources

    from minigpt.cli import console

    directory.mkdir(parents=True, exist_ok=True)
    for file in sorted((resources.files("minigpt.serve") / "deploy").iterdir(), key=lambda file: file.name):
        place = directory / file.name
        if place.exists():
            raise UsageError(f"{place} is there already.", "Choose another directory, or remove it.")
        place.write_text(file.read_text("utf-8"), "utf-8")
        console.note(f"  {place}")


def bounds_of(load: Load) -> "Bounds":
    from minigpt.machine.now import memory_total
    from minigpt.serve.bounds import Bounds
    from minigpt.units import parse_memory

    cache = 0 if load.cache.strip() == "0" else parse_memory(load.cache, memory_total(), "--prefix-cache")
    bounds = Bounds(rows=load.rows, queue=load.queue, answer=load.timeout, drain=load.drain)
    return replace(bounds, cache=cache, connections=max(bounds.connections, 2 * (load.rows + load.queue)))


def doors_of(entry: Entry, log: Log, bounds: "Bounds") -> "Doors":
    """Who may come in. Raises UsageError when everyone could."""
    from minigpt.serve.guard import LOCAL, Doors
    from minigpt.serve.keys import Keys, Tenant, read_keys

    keys = read_keys(entry.keys) if entry.keys else Keys()
    if key := entry.api_key or os.environ.get(KEY):
        keys.add(key, Tenant("default"))
    local = entry.host in LOOPBACK
    if not local and not keys.tenants:
        message = f"--host {entry.host} lets other machines ask, and no key is set."
        raise UsageError(message, f"Give --api-key or --keys, or set {KEY}; or leave --host out.")
    hosts = None if not local and not entry.allow_host else (*LOCAL, *(one.lower() for one in entry.allow_host or []))
    for origin in entry.allow_origin or []:
        if not origin.startswith(("http://", "https://")) or origin.count("/") != 2:
            raise UsageError(f"--allow-origin {origin} is no origin.", "Write it such as https://example.org.")
    return Doors(keys, bounds, hosts, tuple(entry.allow_origin or ()), prompts=log.log_prompts)


def run(worker: Any, doors: "Doors", entry: Entry, log: Log, stack: ExitStack, browser: bool) -> None:
    """Listen and answer until a signal comes; says where, and which models there are."""
    from minigpt.cli import console
    from minigpt.serve.running import serve as serve_until_told

    if log.log is not None:
        doors.log = _logger(log.log, stack)

    def ready(port: int, end: Any) -> None:
        host = f"[{entry.host}]" if ":" in entry.host and not entry.host.startswith("[") else entry.host
        address = f"http://{host}:{port}"
        for origin in entry.allow_origin or []:
            console.note(f"Pages of {origin} may ask (--allow-origin).")
        for model in worker.models.values():
            console.note(f"  {model.name:<24} {model.context} tokens of context" + ("" if model.answers else ", base"))
        console.note(f"Chat page: {address}/    API: {address}/v1    (Ctrl-C ends it.)")
        if browser:
            import webbrowser

            webbrowser.open(f"{address}/")

    serve_until_told(worker, doors, entry.host, entry.port, lambda event: console.note(event.text), ready)
    console.note("The server has ended.")


def _logger(path: Path, stack: ExitStack) -> Any:
    file = sys.stdout if str(path) == "-" else stack.enter_context(path.open("a", encoding="utf-8", buffering=1))

    def write(line: dict[str, Any]) -> None:
        file.write(json_module.dumps(line) + "\n")
        file.flush()

    return write

