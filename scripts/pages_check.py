"""Opens every page in a real browser and checks it: accessibility, policy, width, foreign requests, size, speed.

    python scripts/pages_check.py runs/demo runs/other --out /tmp/pages
    python scripts/pages_check.py --live --out /tmp/pages     the buttons of a training's page, with reload and restart

Each page is opened light and dark, 1280 and 320 pixels wide; the live page and the chat page are also used. Prints what
is wrong and exits with 1 when anything is. The screenshots in --out are for looking at. It needs Debian's chromium,
node, and two packages that stay outside of the repository:

    apt-get install chromium nodejs npm
    mkdir -p ~/.cache/minigpt-pages && cd ~/.cache/minigpt-pages && npm init -y && npm install playwright-core axe-core
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from serving.started import serving

from minigpt.cli.opening import engine_at
from minigpt.evaluate.failing import failures_of
from minigpt.evaluate.judging import Judging, Pair
from minigpt.runs.run import open_run
from minigpt.watch.compare import compare_page, compare_runs
from minigpt.watch.errors_page import errors_page
from minigpt.watch.inside import look_inside
from minigpt.watch.inside_page import inside_page
from minigpt.watch.judge import serve_judging
from minigpt.watch.report import report_page
from minigpt.watch.server import serve

PORT = 8377  # of the live page that is used
CHECK = Path(__file__).parent / "pages" / "check.mjs"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="*", help="finished runs; the first one is shown, all are compared")
    parser.add_argument("--out", type=Path, default=Path("pages"))
    parser.add_argument("--modules", type=Path, default=Path.home() / ".cache" / "minigpt-pages")
    parser.add_argument("--only", nargs="*", help="these pages: watch, chat, report-en, …")
    parser.add_argument("--browser", default="/usr/bin/chromium")
    parser.add_argument("--live", action="store_true", help="train a little, and use its page as a person does")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    wrong = live(given) if given.live else 0
    return wrong or (files(given) if given.runs else 0)


def live(given: argparse.Namespace) -> int:
    """Sample now and stop, with the page reloaded and its server restarted in between, while a run trains."""
    with tempfile.TemporaryDirectory(prefix="pages-") as directory:
        run = Path(directory) / "runs" / "live"
        sets = ["model.n_layer=2", "model.d_model=64", "data.world_texts=500", "data.world_lessons=0",
                "pretrain.steps=100000",
                "pretrain.batch_size=2", "pretrain.log_every=1", "pretrain.eval_every=5000"]  # fmt: skip
        flags = [part for one in sets for part in ("--set", one)]
        minigpt = [sys.executable, "-m", "minigpt"]
        command = [*minigpt, "train", "pretrain", "--data", "world", "--run", str(run), *flags]
        training = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            server = [*minigpt, "watch", str(run), "--wait", "--no-browser", "--lang", "en", "--port", str(PORT)]
            asked = {"modules": str(given.modules), "browser": given.browser, "out": str(given.out),
                     "server": server, "url": f"http://127.0.0.1:{PORT}/"}  # fmt: skip
            done = subprocess.run(["node", CHECK.with_name("live.mjs"), json.dumps(asked)], stdout=subprocess.PIPE)
            wrong = json.loads(done.stdout or '["the browser could not be used"]')
            if not wrong and training.wait(60) != 143:
                wrong.append(f"training ended with {training.returncode}, not as SIGTERM ends it (143)")
        finally:
            training.terminate()
            training.wait()
    print("live page: " + ("ok" if not wrong else "\n    ".join(["", *wrong])))
    return int(bool(wrong))


def files(given: argparse.Namespace) -> int:
    """Check each page in each view; 1 when something is wrong."""
    pages = [
        {"name": name, "url": path.resolve().as_uri()}
        for name, text in texts(given.runs)
        if (path := given.out / f"{name}.html").write_text(text, "utf-8")
    ]
    server = serve(given.runs[0].parent, given.runs[0], 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    pages.append({"name": "watch", "url": f"http://127.0.0.1:{server.server_address[1]}/", "act": "watch"})
    judging = Judging("a", "b", [Pair(f"Question {i}?", "An answer.", "另一个回答。") for i in range(9)])
    votes = tempfile.TemporaryDirectory()
    judged = serve_judging(Path(votes.name), judging, 0)
    threading.Thread(target=judged.serve_forever, daemon=True).start()
    pages.append({"name": "judge", "url": f"http://127.0.0.1:{judged.server_address[1]}/", "act": "judge"})
    with serving(given.runs[:1], "--power", "full") as server:
        pages.append({"name": "chat", "url": f"{server.url}/", "act": "chat"})
        pages = [page for page in pages if not given.only or page["name"] in given.only]
        asked = {"modules": str(given.modules), "browser": given.browser, "out": str(given.out), "pages": pages}
        done = subprocess.run(["node", CHECK, json.dumps(asked)], stdout=subprocess.PIPE, check=True)
    found = json.loads(done.stdout)
    for row in found:
        print(f"{row['name']:<12} {row['view']:<12} {row['compressed']:>7,} bytes  {'ok' if not row['wrong'] else ''}")
        for line in row["wrong"]:
            print(f"    {line}")
    return int(any(row["wrong"] for row in found))


def texts(runs: list[Path]):
    """(name, HTML) of every page that is a file."""
    for language in ("en", "zh"):
        yield f"report-{language}", report_page(runs[0], language)
        if len(runs) > 1:
            yield f"compare-{language}", compare_page(compare_runs(runs), language)
    engine = inspected(runs[0])
    ids = engine.tokenizer.prompt("The cat sat on the mat. 小猫在睡觉。")
    for language in ("en", "zh"):
        yield f"inspect-{language}", inside_page(look_inside(engine, ids), "The cat", language)
    failures = failures_of(open_run(runs[0]), None, engine.model.backend, [], 60, 2)
    for language in ("en", "zh"):
        yield f"errors-{language}", errors_page(failures, runs[0].name, language)


def inspected(run: Path):
    from minigpt.cli.flags import Faster, Where

    return engine_at(run, None, Where(), Faster())[0]


if __name__ == "__main__":
    sys.exit(main())
