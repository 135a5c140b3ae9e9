"""The model card of an export (README.md, as Hugging Face has it): what the run directory really holds.

A figure that was not measured is not there. Of data files only the names are told, not where they lay.
"""

import contextlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from minigpt import __version__
from minigpt.exchange.hf.architectures import model_type_of
from minigpt.exchange.readers.checks import Check
from minigpt.model.gpt import parameter_count
from minigpt.model.heads import WRITES
from minigpt.runs.run import Run
from minigpt.stages.table import FIRST, STAGES
from minigpt.store.checkpoint import read_state

SCORES = """import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("DIRECTORY")
model = AutoModelForSequenceClassification.from_pretrained("DIRECTORY")
ids = tokenizer.apply_chat_template(messages)["input_ids"]
ids = ids[: max(i for i, token in enumerate(ids) if token in model.config.eos_token_id) + 1]  # the answer's end
score = model(torch.tensor([ids])).logits[0, 0]
"""
TAGS = {"hf": "transformers", "mlx": "mlx", "gguf": "gguf"}
SETTINGS = (
    "steps", "batch_size", "optimizer", "learning_rate", "schedule", "weight_decay", "dropout", "stochastic_depth",
    "ema_decay", "swa_fraction", "lora_rank", "beta", "loss",
)  # fmt: skip
MEASURES = {
    "loss": "validation loss", "perplexity": "perplexity", "bits_per_byte": "bits per byte",
    "accuracy": "pairs ranked as preferred", "margin": "reward margin",
}  # fmt: skip
USE = {
    "hf": """from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("DIRECTORY")
model = AutoModelForCausalLM.from_pretrained("DIRECTORY")
""",
    "mlx": """mlx_lm.generate --model DIRECTORY --prompt "Hello"
""",
    "gguf": """ollama create NAME -f Modelfile      # or: llama-server -m model.gguf
""",
}


def model_card(run: Run, stage: str, to: str, dtype: str, checks: Sequence[Check]) -> str:
    """The text of README.md for a `stage` of a run, written for the tool `to`; `checks` are what its readers found."""
    stages = [name for name in list(STAGES)[: list(STAGES).index(stage) + 1] if run.store(name).finished()]
    stages = [name for name in stages if name == stage or STAGES[name].head == WRITES]
    if STAGES[stage].head != WRITES:  # what it was made from only
        stages = [name for name in stages if name == stage or name in _before(stage)]
    blocks = [
        front_matter(run, stages, to),
        f"# {run.directory.resolve().name}, after {stage}",
        _summary(run, stages, dtype),
        "## Use",
        f"```\n{USE[to] if STAGES[stage].head == WRITES else SCORES}```",
        "## Training",
        _training(run, stages),
        "## Measured",
        _measured(run, stages),
        *_tasks(run, stages),
        *_readers(checks),
        "## Limits",
        _limits(run, stage),
    ]
    return "\n\n".join(blocks) + "\n"


def front_matter(run: Run, stages: Sequence[str], to: str) -> str:
    """What Hugging Face's hub reads. No licence: that is for the owner of the model and its data to say."""
    tags = ["minigpt", model_type_of(run.model_config), *stages]
    task = "text-generation" if STAGES[stages[-1]].head == WRITES else "text-classification"
    head = [f"library_name: {TAGS[to]}", f"pipeline_tag: {task}", "tags:", *(f"- {tag}" for tag in tags)]
    return "\n".join(["---", *head, "---"])


def _before(stage: str) -> set[str]:
    """The stages that a model after `stage` may have gone through before."""
    earlier = set(STAGES[stage].starts_from)
    return earlier.union(*map(_before, earlier))


def _summary(run: Run, stages: Sequence[str], dtype: str) -> str:
    c = run.shape_of(stages[-1])
    came = read_state(run.store(stages[0]).final).get("imported")
    history = [f"imported ({came})" if came and stage == FIRST else stage for stage in stages]
    kind = "language" if c.head == WRITES else "reward"
    what = f"A {kind} model of {parameter_count(c):,} parameters ({model_type_of(c)})"
    rounded = "" if dtype == "float32" else "; the measurements below are from before that"
    lines = [
        f"{what}, made with MiniGPT {__version__}: {' → '.join(history)}. Weights are stored as {dtype}{rounded}.",
        _table(
            ["layers", "width", "heads", "key/value heads", "feed-forward width", "context", "vocabulary"],
            [[f"{x:,}" for x in (c.n_layer, c.d_model, c.n_head, c.n_kv_head, c.d_ff, c.context, c.vocab_size)]],
        ),
        f"Tokenizer: {run.tokenizer.kind}, {run.tokenizer.vocab_size:,} tokens.",
    ]
    return "\n\n".join(lines)


def _training(run: Run, stages: Sequence[str]) -> str:
    rows = []
    for stage in stages:
        state = read_state(run.store(stage).final)
        if "imported" in state:
            rows.append([FIRST, "not known: the model came from elsewhere", "–", "–", "–"])
            continue
        settings = run.config.of(stage).model_dump()
        settings["steps"] = min(settings["steps"], state.get("trained") or settings["steps"])  # patience may end it
        shown = ", ".join(f"{name} {settings[name]}" for name in SETTINGS if settings.get(name))
        best = state.get("step")
        rows.append([stage, _sources(run, stage), _amount(run, stage), shown, f"{best:,}" if best else "–"])
    table = _table(["stage", "data", "training data", "settings", "weights of step"], rows)
    return f"{table}\n\nSeed {run.config.seed}; a row has up to {run.config.model.context:,} tokens.{_environment(run)}"


def _sources(run: Run, stage: str) -> str:
    return ", ".join(Path(source).name for source in run.config.sources(stage).train) or "–"


def _amount(run: Run, stage: str) -> str:
    """Tokens and examples of a stage's training data, where it is still there."""
    meta = _json(run.data(stage) / "train" / "meta.json")
    if not meta:
        return "–"
    form = STAGES[stage].form
    examples = "" if form.stream else f", {meta['sequences'] // form.sequences:,} {form.unit}s"
    return f"{meta['tokens']:,} tokens{examples}"


def _environment(run: Run) -> str:
    found = _json(run.directory / "env.json")
    names = [f"{name} {found[name]}" for name in ("torch", "mlx", "device", "platform") if name in found]
    return f" Trained with {', '.join(names)}." if names else ""


def _measured(run: Run, stages: Sequence[str]) -> str:
    rows = []
    for stage in stages:
        metrics = read_state(run.store(stage).final).get("metrics", {})
        shown = [f"{label} {metrics[name]:.4f}" for name, label in MEASURES.items() if name in metrics]
        size = next((f"{metrics[name]:,} {name}" for name in ("tokens", "pairs") if name in metrics), "–")
        rows.append([stage, ", ".join(shown) or "no measurement was kept", size])
    return "On data that was held out from training, at the end of each stage:\n\n" + _table(
        ["stage", "result", "measured on"], rows
    )


def _tasks(run: Run, stages: Sequence[str]) -> Iterable[str]:
    """The demo's questions, where they were asked."""
    measured = _json(run.directory / "demo.json").get("measured", {})
    known = [stage for stage in stages if stage in measured]
    names = dict.fromkeys(name for stage in known for name in measured[stage])
    rows = [[name.replace("_", " "), *(_figure(measured[stage].get(name)) for stage in known)] for name in names]
    if rows:
        yield "On the held-out questions of MiniGPT's built-in world (shares of 1, but for bits per byte):"
        yield _table(["", *(f"after {stage}" for stage in known)], rows)


def _readers(checks: Sequence[Check]) -> Iterable[str]:
    """What other tools found in these very files."""
    rows = [[c.reader, c.quantity, f"{c.found:.2g}", f"{c.bound:g}"] for c in checks if c.found is not None]
    if rows:
        yield "These files were read back by other tools and held against the run:"
        yield _table(["reader", "difference in", "found", "bound"], rows)


def _limits(run: Run, stage: str) -> str:
    lines = [
        f"It sees {run.config.model.context:,} tokens at once, and knows only what its training data holds.",
        STAGES[stage].taught,
        "Nothing was measured but what is written above: not its safety, not its biases, not its knowledge.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '∣') for cell in line)} |" for line in lines)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _json(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(path.read_text("utf-8"))
        return found if isinstance(found, dict) else {}
    return {}
