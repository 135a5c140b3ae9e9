"""The report of a run: one HTML file that says what was made, from what, how long it took and how good it is."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from minigpt import __version__, units
from minigpt.pages.html import Html, page, table, tag
from minigpt.pages.svg import Line, chart
from minigpt.pages.texts import measure, words
from minigpt.store.durable import write_whole
from minigpt.watch.curves import curve, metrics_of
from minigpt.watch.example import example
from minigpt.watch.journal import Journal
from minigpt.watch.read import RunFiles, conversations, read_json, read_run, read_samples, results, size_of

NAME = "report.html"
SHAPE = {"layers": "n_layer", "width": "d_model", "heads": "n_head", "context": "context"}
LATER = ("learning_rate", "norm", "tokens_per_second")  # curves that are shown last, folded


def write_report(directory: Path, out: Path | None = None, language: str = "en") -> Path:
    """Write the report of a run, as far as it has come, to `out` or the run's report.html; returns the path."""
    path = out or directory / NAME
    write_whole(path, report_page(directory, language))
    return path


def latest_report(directory: Path, language: str = "en") -> Path:
    """The run's report.html, written again only when something was trained or measured since."""
    path = directory / NAME
    made = [*directory.glob("*/metrics.jsonl"), *directory.glob("*/final/state.json"), directory / "demo.json"]
    made.append(directory / "conversations.json")
    if not path.exists() or path.stat().st_mtime < max((p.stat().st_mtime for p in made if p.exists()), default=0):
        write_report(directory, language=language)
    return path


def report_page(directory: Path, language: str = "en") -> str:
    """The report as a page without scripts."""
    run, say = read_run(directory), words(language)
    measured = read_json(directory / "demo.json")
    blocks = [
        _made(run, say),
        _data(run, say),
        _time(run, say),
        _results(run, measured.get("measured", {}), say, language),
        _conversations(conversations(directory), run, say),
        _curves(run, say, language),
        _samples(run, say),
        _example(run, say),
        _sizes(run, say),
        _go_on(run, say),
        _settings(run, say),
    ]
    head = tag("header", tag("h1", f"{run.name}"), tag("span", say[run.state], class_="badge"))
    foot = tag("footer", tag("p", f"{say['written']} {__version__}", class_="soft"))
    return page(f"{run.name} · {say['report']}", head + tag("main", blocks) + foot, language=language)


def _made(run: RunFiles, say: dict[str, str]) -> list[Html]:
    model, environment = run.config.get("model", {}), read_json(run.directory / "env.json")
    steps = [
        f"{stage.name}: {stage.step:,} {say['of']} {stage.steps:,}" if stage.steps else f"{stage.name}: {stage.step:,}"
        for stage in run.stages
    ]
    facts = [(say["steps"], "; ".join(steps) or "–")]
    facts += [(say["parameters"], f"{count:,}")] if (count := parameters(run.directory)) else []
    facts += [(say[word], model[name]) for word, name in SHAPE.items() if name in model]
    tokenizer = read_json(run.directory / "tokenizer" / "tokenizer_meta.json") | run.config.get("tokenizer", {})
    facts += [(say["tokenizer"], f"{tokenizer.get('kind', '–')}, {vocabulary(run.directory) or '–'} {say['tokens']}")]
    facts += [(say["seed"], run.config.get("seed", "–"))]
    shown = [
        f"{name} {environment[name]}" for name in ("backend", "torch", "mlx", "device", "python") if name in environment
    ]
    facts += [(say["machine"], ", ".join(map(str, [*shown, environment.get("platform", "")])) or "–")]
    return [tag("h2", say["made"]), table(["", ""], facts, say["made"], text=True)]


def parameters(directory: Path) -> int | None:
    """Parameters of the final weights, from a safetensors file's header; None when there is no such file."""
    for path in sorted(directory.glob("*/final/weights.safetensors")):
        try:
            with path.open("rb") as file:
                header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            return sum(int(np.prod(leaf["shape"])) for name, leaf in header.items() if name != "__metadata__")
        except (OSError, ValueError, KeyError, TypeError, MemoryError, OverflowError):
            continue
    return None


def vocabulary(directory: Path) -> int | None:
    """Tokens of the vocabulary, as the token shards have it."""
    for path in sorted(directory.glob("data/*/train/meta.json")):
        if isinstance(size := read_json(path).get("vocab_size"), int):
            return size
    return None


def _data(run: RunFiles, say: dict[str, str]) -> list[Html]:
    rows = []
    for stage in run.stages:
        place = run.directory / "data" / stage.name
        sources = ", ".join(Path(str(name)).name for name in _list(run.config.get("data", {}).get(stage.name)))
        counts = [_amount(read_json(place / part / "meta.json"), say) for part in ("train", "validation")]
        rows.append([stage.name, sources or "–", *counts])
    columns = [say["stage"], say["source"], say["train_part"], say["validation_part"]]
    return [tag("h2", say["data"]), table(columns, rows, say["data"], text=True)] if rows else []


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _amount(meta: dict[str, Any], say: dict[str, str]) -> str:
    if "tokens" not in meta:
        return "–"
    return f"{meta['tokens']:,} {say['tokens']}, {meta.get('sequences', 0):,} {say['examples']}"


def _time(run: RunFiles, say: dict[str, str]) -> list[Html]:
    rows = [
        [stage.name, duration(stage.planned.get("seconds")), duration(stage.actual.get("seconds")),
         size(stage.planned.get("memory")), size(stage.actual.get("memory"))]
        for stage in run.stages if stage.actual
    ]  # fmt: skip
    if not rows:
        return []
    planned = [f"{say[name]} ({say['planned']})" for name in ("time", "memory")]
    columns = [say["stage"], planned[0], say["actual"], planned[1], say["actual"]]
    return [tag("h2", say["took"]), table(columns, rows, say["took"])]


def _results(run: RunFiles, measured: dict[str, Any], say: dict[str, str], language: str) -> list[Html]:
    found, names = results(run.stages, measured), [stage.name for stage in run.stages]
    rows = [[measure(name, language), *(figure(values.get(stage)) for stage in names)]
            for name, values in found.items()]  # fmt: skip
    columns = [say["measure"], *(say["after"].format(stage=name) for name in names)]
    return [tag("h2", say["results"]), table(columns, rows, say["results"])] if rows else []


def _conversations(rows: list[dict[str, Any]], run: RunFiles, say: dict[str, str]) -> list[Html]:
    if not rows:
        return []
    stages = [stage.name for stage in run.stages if any(stage.name in row for row in rows)]
    lines = [
        [row["question"], *(row.get(stage, "–") or "∅" for stage in stages), row.get("right", "–")] for row in rows
    ]
    columns = [say["question"], *(say["after"].format(stage=stage) for stage in stages), say["right"]]
    return [tag("h2", say["before_after"]), table(columns, lines, say["before_after"], text=True)]


def _curves(run: RunFiles, say: dict[str, str], language: str) -> list[Html]:
    blocks, later = [], []
    for stage in run.stages:
        journal = Journal(run.directory / stage.name / "metrics.jsonl")
        journal.update()
        bases = dict.fromkeys(name.removeprefix("validation_") for name in metrics_of(journal))
        figures = {base: _figure(journal, base, f"{stage.name}: {measure(base, language)}", say) for base in bases}
        shown = [drawing for base, drawing in figures.items() if base not in LATER]
        if shown:
            blocks += [tag("h3", stage.name), tag("div", shown, class_="charts")]
        later += [drawing for base, drawing in figures.items() if base in LATER]
        if journal.damaged:
            blocks.append(tag("p", f"{journal.damaged} {say['damaged']}", class_="soft"))
    folded = tag("details", tag("summary", ", ".join(measure(name, language) for name in LATER)),
                 tag("div", later, class_="charts"))  # fmt: skip
    return [tag("h2", say["curves"]), blocks, folded if later else None] if blocks else []


def _figure(journal: Journal, base: str, title: str, say: dict[str, str]) -> Html:
    lines = lines_of(journal, base, [say["training"], say["validation"]])
    return tag("figure", tag("figcaption", title), chart(lines, title))


def lines_of(journal: Journal, base: str, names: list[str], color: int | None = None) -> list[Line]:
    """A metric's curve in training and that on held-out data, under two names; those that there are."""
    lines = []
    for number, name in enumerate((base, f"validation_{base}")):
        steps, values = curve(journal, name)
        if len(steps):
            lines.append(Line(names[number], steps, values, number if color is None else color, dots=number == 1))
    return lines


def _samples(run: RunFiles, say: dict[str, str]) -> list[Html]:
    blocks = []
    for stage in run.stages:
        samples = read_samples(run.directory / stage.name / "samples.jsonl")
        for prompt in dict.fromkeys(sample["prompt"] for sample in samples):
            own = _spread([sample for sample in samples if sample["prompt"] == prompt], 4)
            rows = [[f"{sample['step']:,}" if isinstance(sample["step"], int) else sample["step"], sample["text"]]
                    for sample in own]  # fmt: skip
            title = f"{stage.name}: {prompt or '∅'}"
            blocks += [tag("h3", title), table([say["step"], ""], rows, title, text=True)]
    return [tag("h2", say["samples"]), *blocks] if blocks else []


def _spread(items: list[Any], most: int) -> list[Any]:
    """At most so many of the items, evenly, the first and the last among them."""
    if len(items) <= most:
        return items
    return [items[round(n * (len(items) - 1) / (most - 1))] for n in range(most)]


def _example(run: RunFiles, say: dict[str, str]) -> list[Html]:
    blocks = []
    for stage in run.stages:
        pieces = example(run.directory, stage.name)
        if pieces:
            text = [tag("mark", piece) if learned else piece for piece, learned in pieces]
            blocks += [
                tag("h3", stage.name),
                tag("pre", text, tabindex=0, role="region", aria_label=f"{stage.name}: {say['example']}"),
            ]
    how = tag("p", say["example_how"], class_="soft")
    return [tag("details", tag("summary", say["example"]), how, blocks)] if blocks else []


def _sizes(run: RunFiles, say: dict[str, str]) -> list[Html]:
    parts = [path for path in sorted(run.directory.iterdir()) if path.is_dir()] if run.directory.is_dir() else []
    sizes = [size_of(path) for path in parts]
    rows = [[f"{path.name}/", size(bytes_)] for path, bytes_ in zip(parts, sizes, strict=True)]
    rows.append([say["all"], size(sum(sizes))])
    return [tag("details", tag("summary", f"{say['sizes']}: {size(sum(sizes))}"),
                table([say["file"], say["size"]], rows, say["sizes"]))]  # fmt: skip


def _go_on(run: RunFiles, say: dict[str, str]) -> list[Html]:
    place = run.directory.as_posix()
    talk = "chat" if len(run.stages) > 1 else "generate"
    commands = {"talk": f"minigpt {talk} {place}", "measure_it": f"minigpt evaluate {place}",
                "watch_it": f"minigpt watch {place}", "look": f"minigpt inspect {place} --prompt \"…\"",
                "give": f"minigpt export {place} --to gguf"}  # fmt: skip
    rows = [[say[name], tag("code", command)] for name, command in commands.items()]
    return [tag("h2", say["go_on"]), table(["", ""], rows, say["go_on"], text=True)]


def _settings(run: RunFiles, say: dict[str, str]) -> list[Html]:
    blocks = []
    for name, values in run.config.items():
        if isinstance(values, dict):
            rows = [[key, str(value)] for key, value in values.items()]
            blocks += [tag("h3", name), table([say["setting"], ""], rows, name, text=True)]
    return [tag("details", tag("summary", say["config"]), blocks)] if blocks else []


# ---- figures in words --------------------------------------------------------------------------------------


def figure(value: Any) -> str:
    """A measured number: as many digits as it is worth, a dash for none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}" if abs(value) < 1000 else f"{value:,.1f}"


def duration(seconds: Any) -> str:
    """Seconds as people say them, – for none."""
    return units.duration(seconds) if isinstance(seconds, int | float) else "–"


def size(count: Any) -> str:
    """Bytes as people say them, – for none."""
    return units.bytes_in_words(count) if isinstance(count, int | float) else "–"
