"""The flags that commands share, each written once, in groups of what travels together (see `command`).

What only one command has stands in its file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from typer import Argument, Option

from minigpt.cli.language import Language
from minigpt.errors import UsageError
from minigpt.runs.finding import is_run

AsJson = Annotated[bool, Option("--json", help="Print JSON for scripts on stdout.")]
Rows = Annotated[int | None, Option("--rows", metavar="N", min=1, help="Only so many rows, spread evenly.")]
Files = Annotated[list[str], Argument(metavar="FILE…", help="Files, directories, globs or names.")]
Data = Annotated[
    list[str] | None,
    Option(
        "--data",
        metavar="SOURCE",
        help="A file, directory, glob or name (world, python-docs, tinyshakespeare, …). Repeatable.",
    ),
]
Stage = Annotated[
    str | None, Option("--stage", metavar="STAGE", help="Such as sft. Default: the last that is finished.")
]
Verify = Annotated[
    bool, Option("--verify/--no-verify", help="Let the tools that are installed read it again and compare.")
]


@dataclass(frozen=True)
class Where:
    """The backend and its device; names that other programs have for them are understood."""

    title: ClassVar[str] = "Where it is computed"

    backend: Annotated[str, Option("--backend", metavar="NAME", help="auto, mlx or torch.")] = "auto"
    device: Annotated[str, Option("--device", metavar="NAME", help="auto, cpu or gpu.")] = "auto"

    def __post_init__(self) -> None:
        backend, device = self.backend, self.device
        for name in (backend, device):
            if name in ("mps", "metal"):
                raise UsageError(
                    f"There is no {name} here: the GPU of a Mac is used by MLX, which trains on it faster than torch.",
                    "Give --backend mlx --device gpu, or neither: on Apple Silicon that is the default.",
                )
        backend = {"pytorch": "torch", "cuda": "torch"}.get(backend, backend)
        if "cuda" in (self.backend, device):
            device = "gpu" if device in ("auto", "cuda") else device
            backend = "torch" if backend == "auto" else backend
        object.__setattr__(self, "backend", backend)
        object.__setattr__(self, "device", device)


@dataclass(frozen=True)
class Chosen:
    """The trained model that a command uses."""

    title: ClassVar[str] = "Which model"

    run: Annotated[
        Path | None,
        Argument(metavar="RUN", help="A run directory, or one of its stages. Default: the newest in runs/."),
    ] = None
    run_option: Annotated[Path | None, Option("--run", metavar="DIR", help="The same as RUN.")] = None
    stage: Stage = None

    @property
    def path(self) -> Path | None:
        """The run, which may be an argument or a flag."""
        return one_run(self.run, self.run_option)


def one_run(argument: Path | None, option: Path | None) -> Path | None:
    """The run of an argument or a flag. Raises UsageError when both are given."""
    if argument is not None and option is not None:
        raise UsageError(f"Two runs are given: {argument} and --run {option}.", "Give one of them.")
    return argument or option


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen, and how many."""

    title: ClassVar[str] = "Sampling"

    max_tokens: Annotated[int, Option("--max-tokens", metavar="N", min=1, help="Longest answer.")] = 128
    temperature: Annotated[
        float, Option("--temperature", metavar="T", help="0 always takes the likeliest token.")
    ] = 0.8
    top_k: Annotated[int, Option("--top-k", metavar="K", help="Keep the K likeliest tokens; 0 keeps all.")] = 0
    top_p: Annotated[
        float, Option("--top-p", metavar="P", help="Keep the likeliest tokens that together reach P.")
    ] = 1.0
    min_p: Annotated[
        float, Option("--min-p", metavar="P", help="Drop tokens below this share of the likeliest one's probability.")
    ] = 0.05
    repetition_penalty: Annotated[
        float, Option("--repetition-penalty", metavar="X", help="Above 1: tokens of the text so far get rarer.")
    ] = 1.0
    seed: Annotated[
        int | None,
        Option("--seed", metavar="N", min=0, help="The same seed gives the same answer. Default: a new one."),
    ] = None


@dataclass(frozen=True)
class Faster:
    """Numbers of fewer bits, and draft tokens."""

    title: ClassVar[str] = "Less memory, more speed"

    bits: Annotated[
        int, Option("--bits", metavar="N", help="4 or 8: use the weights in so many bits (see minigpt quantize).")
    ] = 0
    kv_bits: Annotated[
        int, Option("--kv-bits", metavar="N", help="4 or 8: keep keys and values in so many bits while answering.")
    ] = 0
    draft: Annotated[
        Path | None,
        Option("--draft", metavar="RUN", help="A smaller model with the same tokenizer that proposes draft tokens."),
    ] = None
    lookup: Annotated[bool, Option("--lookup", help="Propose draft tokens from the text before.")] = False
    draft_tokens: Annotated[
        int, Option("--draft-tokens", metavar="N", min=1, help="With --draft or --lookup: most draft tokens at a time.")
    ] = 8


@dataclass(frozen=True)
class Settings:
    """Where the settings of a run come from: preset < the run's own < file < --set."""

    title: ClassVar[str] = "Settings"

    preset: Annotated[
        str | None,
        Option(
            "--preset",
            metavar="NAME",
            help="tiny, small, medium, or auto: what fits. Default: the run's own, else tiny.",
        ),
    ] = None
    config: Annotated[
        Path | None, Option("--config", metavar="FILE", help="A TOML file with values that replace the preset's.")
    ] = None
    sets: Annotated[
        list[str] | None,
        Option(
            "--set", metavar="KEY=VALUE", help="One value, such as pretrain.steps=200 (see minigpt config). Repeatable."
        ),
    ] = None
    seed: Annotated[int | None, Option("--seed", metavar="N", min=0, help="The seed of everything random.")] = None


@dataclass(frozen=True)
class Sources:
    """The run that is trained and its data. Words without a flag are an existing run, or data."""

    title: ClassVar[str] = "Run and data"

    words: Annotated[
        list[str] | None, Argument(metavar="RUN|DATA", help="A run that goes on, or data to train on.")
    ] = None
    run: Annotated[
        Path | None, Option("--run", metavar="DIR", help="The run directory. Default: runs/default.")
    ] = None
    data: Data = None
    skip_bad: Annotated[
        bool, Option("--skip-bad", help="Omit bad rows and count them instead of stopping.")
    ] = False
    allow_changes: Annotated[
        bool, Option("--allow-changes", help="Let a trained stage go on with other training settings.")
    ] = False

    def placed(self, default: Path) -> tuple[Path, list[str]]:
        """(run directory, sources of data). A word that is the directory of a run is that run."""
        runs = [word for word in self.words or [] if is_run(Path(word))]
        if len(runs) > 1:
            raise UsageError(f"Two runs are given: {runs[0]} and {runs[1]}.", "Give one of them.")
        run = one_run(Path(runs[0]) if runs else None, self.run)
        return run or default, [*(self.data or []), *(word for word in self.words or [] if word not in runs)]


@dataclass(frozen=True)
class Share:
    """What long work may take of the machine."""

    title: ClassVar[str] = "What it may take of the machine"

    power: Annotated[
        str | None,
        Option(
            "--power",
            metavar="LEVEL",
            help="quiet (half of the CPU), balanced (others go first) or full. Default: quiet on battery, "
            "else balanced.",
        ),
    ] = None
    max_cpu: Annotated[
        str | None,
        Option("--max-cpu", metavar="PERCENT", help="Share of all cores that it may use on average."),
    ] = None
    max_memory: Annotated[
        str | None,
        Option("--max-memory", metavar="LIMIT", help="Most memory: percent of the machine's, or a size like 4GB."),
    ] = None


@dataclass(frozen=True)
class Taking(Share):
    """What training may take of the machine."""

    time: Annotated[
        str | None, Option("--time", metavar="TIME", help="What training may take in all, such as 20m or 1h30m.")
    ] = None


@dataclass(frozen=True)
class Watched:
    """How many processes train, and the one that watches them."""

    title: ClassVar[str] = "The processes that train, and when one dies"

    processes: Annotated[
        int, Option("--processes", metavar="N", min=1, help="Train with so many: each computes a share of every step.")
    ] = 1

    supervise: Annotated[
        bool,
        Option("--supervise/--no-supervise", help="Train in a process of its own that is started again when it dies."),
    ] = True
    restarts: Annotated[int, Option("--restarts", metavar="N", min=0, help="How often, at most.")] = 5


@dataclass(frozen=True)
class Follow:
    """Where the curves of a training can be followed, besides the terminal."""

    title: ClassVar[str] = "Where its curves can be followed"

    watch: Annotated[bool, Option("--watch", help="Open the live page (minigpt watch) while it trains.")] = False
    tensorboard: Annotated[bool, Option("--tensorboard", help="Write event files: tensorboard --logdir RUN.")] = False
    track: Annotated[
        str | None, Option("--track", metavar="NAME", help="Also log to wandb or trackio, where it is installed.")
    ] = None
    lang: Language = None


@dataclass(frozen=True)
class Curve:
    """One curve of one or several runs, as a picture in a file."""

    title: ClassVar[str] = "One curve as a picture"

    stage: Stage = None
    svg: Annotated[Path | None, Option("--svg", metavar="FILE", help="Write it as SVG.")] = None
    png: Annotated[Path | None, Option("--png", metavar="FILE", help="Write it as PNG (needs resvg-py).")] = None
    metric: Annotated[
        str, Option("--metric", metavar="NAME", help="Which curve: loss, accuracy, norm, …")
    ] = "loss"
    log_x: Annotated[bool, Option("--log-x", help="Its steps on a log axis.")] = False
    log_y: Annotated[bool, Option("--log-y", help="Its values on a log axis.")] = False

    def write(self, directories: Sequence[Path]) -> list[Path]:
        """Write the files that are asked for. Raises UsageError for a name with another ending."""
        from minigpt.pages.svg import write_curve
        from minigpt.watch.compare import curve_of

        written = []
        for path, suffix in ((self.svg, ".svg"), (self.png, ".png")):
            if path is not None:
                if path.suffix.lower() != suffix:
                    raise UsageError(f"{path} does not end in {suffix}.", f"Name a file such as curve{suffix}.")
                write_curve(curve_of(directories, self.stage, self.metric, self.log_x, self.log_y), path)
                written.append(path)
        return written
