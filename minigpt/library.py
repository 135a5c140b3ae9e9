"""MiniGPT for people who write Python: `import minigpt` gives these names. The command line calls the same functions.

    run = minigpt.train_stage("pretrain", "runs/mine", data=["story.txt"], steps=200)
    model = minigpt.load_model(run)
    print(model.generate("Once upon a time", max_tokens=50))
"""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM
from typing import Any

from backends.base import Backend
from minigpt.config import Config, load_config
from minigpt.errors import Interrupted, UsageError, check_name
from minigpt.evaluate import report as measuring
from minigpt.events import Event, Report, silent
from minigpt.exchange import exporting
from minigpt.exchange.adapters import files as adapter_files
from minigpt.exchange.adapters.adapters import export_adapter
from minigpt.exchange.importing import open_directory
from minigpt.generate.engine import Engine, chat_prompt
from minigpt.generate.sampling import Sampling
from minigpt.machine import choose_backend
from minigpt.runs import run as runs
from minigpt.runs.claim import new_run
from minigpt.runs.control import Control
from minigpt.runs.finding import is_run
from minigpt.runs.loading import load_engine
from minigpt.runs.pipeline import run_pipeline
from minigpt.runs.run import Run, saved_config
from minigpt.stages.assemble import Custom
from minigpt.stages.table import STAGES, stage_of
from minigpt.store.lock import locked
from minigpt.text.messages import Message
from minigpt.train.loop import Hook
from minigpt.train.stop import Stop


@dataclass(frozen=True)
class Model:
    """A trained model, ready to answer. `run` is None for a directory of Hugging Face's layout."""

    engine: Engine
    stage: str
    run: Run | None = None

    def generate(self, prompt: str = "", *, max_tokens: int = 128, **sampling: Any) -> str:
        """What follows the text `prompt`. `sampling` are fields of `Sampling`: temperature, top_k, seed, ….

        Raises UsageError for a prompt that does not fit the context.
        """
        ids = self.engine.tokenizer.prompt(prompt)
        return self.engine.answer([ids], Sampling(**sampling), max_tokens)[0].text

    def stream(self, prompt: str = "", *, max_tokens: int = 128, **sampling: Any) -> Iterator[str]:
        """The same in pieces, as they are made."""
        return self.engine.stream(self.engine.tokenizer.prompt(prompt), Sampling(**sampling), max_tokens)

    def chat(self, messages: str | Sequence[Message], *, max_tokens: int = 128, **sampling: Any) -> str:
        """The answer to a message, or to a conversation of `{"role": …, "content": …}` that a user ends.

        The oldest turns are forgotten where they do not fit the context. Without settings the answer is greedy.
        """
        turns = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
        context = self.engine.model.config.context
        ids, _ = chat_prompt(self.engine.tokenizer, turns, context, min(max_tokens, context // 4))
        return self.engine.answer([ids], Sampling(**{"temperature": 0.0} | sampling), max_tokens)[0].text


def open_run(path: str | Path) -> Run:
    """The run in a directory. Raises UsageError when it is none."""
    return runs.open_run(Path(path).expanduser())


def load_model(
    path: str | Path | Run, stage: str | None = None, *, bits: int = 0, kv_bits: int = 0,
    backend: str | Backend = "auto", device: str = "auto", report: Report = silent,
) -> Model:  # fmt: skip
    """The model of a run's finished stage (default: the last), or of a directory in Hugging Face's layout.

    `bits` 4 or 8 quantizes its weights, `kv_bits` the keys and values of an answer. Raises UsageError when there is
    no such model.
    """
    framework = _framework(backend, device)
    if isinstance(path, Run):
        stage = path.chosen(stage)
        return Model(load_engine(path, stage, framework, bits, kv_bits, report), stage, path)
    path = Path(path).expanduser()
    if is_exported(path):
        if bits or stage:
            message = f"{path} is a model's directory: it has no stages, and its weights are used as they are."
            raise UsageError(message, "Omit bits and stage, or make a run of it: minigpt import.")
        return Model(open_directory(path, framework, kv_bits), "exported")
    return load_model(open_run(path), stage, bits=bits, kv_bits=kv_bits, backend=framework, report=report)


def is_exported(path: Path) -> bool:
    """Whether a directory is a model in Hugging Face's layout, and no run."""
    return (path / "config.json").exists() and not is_run(path)


def train_stage(
    stage: str, run: str | Path, *, data: Sequence[str] = (), preset: str = "tiny", settings: dict | None = None,
    loss: Callable | str | None = None, batches: Callable | None = None, hooks: Sequence[Hook] = (),
    report: Report = silent, control: Control | None = None, backend: str | Backend = "auto", device: str = "auto",
    **section: Any,
) -> Run:  # fmt: skip
    """Train one stage of a run directory, which is made if it is not there; the same call again goes on with it.

    `section` are settings of the stage (steps=200, learning_rate=1e-3, …), `settings` of other sections
    ({"model": {"n_layer": 2}}), over the run's own ones, else over the preset's. Instead of the stage's own
    `loss(model, weights, batch)` -> scalar and `batches(step)` -> dict of NumPy arrays may be given, or
    `batches(step, weights)` where they are made with the weights;
    `hooks(state, done)` are called after each step, `report(event)` with all that happens. A `loss` that is a name is
    the stage's setting (dpo's "ipo"). Raises UsageError for what does not fit together.
    """
    stage_of(stage)
    if isinstance(loss, str):
        section, loss = section | {"loss": loss}, None
    directory = Path(run).expanduser()
    values = {"data": {stage: list(data)}} if data else {}
    config = _config(directory, preset, [values, settings or {}, {stage: section} if section else {}])
    made, framework = new_run(directory, config), _framework(backend, device)
    made.make_directory()
    with locked(directory):
        return run_pipeline(
            made, framework, report, [stage], control or Control(), allow_changes=True,
            custom=Custom(loss, batches, tuple(hooks)),
        )  # fmt: skip


def training_events(stage: str, run: str | Path, **arguments: Any) -> Iterator[Event]:
    """`train_stage` as an iterator over its events. Leaving the loop stops the training, which saves its step first."""
    heard: queue.Queue = queue.Queue(maxsize=64)
    stop = Stop()

    def work() -> None:
        try:
            train_stage(stage, run, report=heard.put, control=Control(stop), **arguments)
            heard.put(None)
        except BaseException as error:  # handed over to the one who listens
            heard.put(error)

    thread = threading.Thread(target=work, name=f"train {stage}", daemon=True)
    thread.start()
    try:
        while (event := heard.get()) is not None:
            if isinstance(event, BaseException):
                raise event
            yield event
    finally:
        stop.signal = SIGTERM if thread.is_alive() else stop.signal
        while thread.is_alive():
            _drain(heard)
            thread.join(0.05)


def evaluate_run(
    run: str | Path | Run, stage: str | None = None, *, data: Sequence[str] = (), rows: int | None = None,
    tests: int = 300, bits: int = 0, backend: str | Backend = "auto", device: str = "auto", report: Report = silent,
) -> dict[str, Any]:  # fmt: skip
    """Measures of a finished stage (default: the last) on its held-out rows, or on the files `data`.

    When neither is named, "stages" has the measures of each finished stage.
    `rows` limits how many rows are read, `tests` how many questions of the built-in world are asked.
    """
    opened = run if isinstance(run, Run) else open_run(run)
    return measuring.evaluate_run(opened, stage, _framework(backend, device), list(data), rows, tests, bits, report)


def export_run(
    run: str | Path | Run, to: str = "hf", *, stage: str | None = None, out: str | Path | None = None,
    dtype: str = "float32", verify: bool = True, backend: str | Backend = "auto", device: str = "auto",
) -> exporting.Exported:  # fmt: skip
    """Write a finished stage for other tools: "hf", "mlx" or "gguf", or its adapter alone: "peft" or "mlx-adapter".

    With `verify` the tools that are installed read it again and must agree; MiniGPTError when one does not.
    """
    check_name("export target", to, (*exporting.TARGETS, *adapter_files.FORMATS))
    opened = run if isinstance(run, Run) else open_run(run)
    write = export_adapter if to in adapter_files.FORMATS else exporting.export_run
    framework = _framework(backend, device) if verify else None
    return write(opened, stage, to, Path(out).expanduser() if out is not None else None, dtype, framework)


def _config(directory: Path, preset: str, layers: Sequence[dict]) -> Config:
    saved = saved_config(directory)
    return load_config(preset, None, [], saved, *layers)


def _framework(backend: str | Backend, device: str) -> Backend:
    return choose_backend(backend, device)[0] if isinstance(backend, str) else backend


def _drain(heard: queue.Queue) -> None:
    try:
        while True:
            heard.get_nowait()
    except queue.Empty:
        pass


__all__ = [
    "STAGES", "Interrupted", "Model", "Run", "Sampling", "evaluate_run", "export_run", "load_model", "open_run",
    "train_stage", "training_events",
]  # fmt: skip
