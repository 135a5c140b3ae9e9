"""What a line of progress says: speed, time left, the curve of the loss, and what the run takes. Prints nothing."""

import math
from collections.abc import Mapping, Sequence
from statistics import median

from minigpt.events import Step, Usage
from minigpt.units import gigabytes

BLOCKS = "▁▂▃▄▅▆▇█"
WINDOW = 50  # steps over which speed is averaged
ODD = 5.0  # a step so many times longer than the median is none of training's own: Ctrl-Z, a laptop that slept
KEPT = 256  # points of a curve
TIE = 1e-6  # a margin of rewards below which chosen and rejected answers are equal


class Pace:
    """Speed over the last steps, without evaluations, pauses and single steps that something held up."""

    def __init__(self) -> None:
        self._steps: list[tuple[int, float, float]] = []  # (tokens, seconds, of these the ones before the batch came)

    def add(self, step: Step) -> None:
        self._steps = [*self._steps[1 - WINDOW :], (step.tokens, step.seconds, step.waited)]

    @property
    def seconds(self) -> float:
        """The mean of a step, with the rests that keep the CPU limit."""
        usual = self._usual()
        return sum(seconds for _, seconds, _ in usual) / len(usual)

    @property
    def tokens_per_second(self) -> float:
        usual = self._usual()
        return sum(tokens for tokens, *_ in usual) / max(sum(seconds for _, seconds, _ in usual), 1e-9)

    @property
    def waiting(self) -> float:
        """The share of the time that steps waited for their batches, as where these are sampled."""
        usual = self._usual()
        return sum(waited for *_, waited in usual) / max(sum(seconds for _, seconds, _ in usual), 1e-9)

    def _usual(self) -> list[tuple[int, float, float]]:
        most = ODD * median(seconds for _, seconds, _ in self._steps)
        return [step for step in self._steps if step[1] <= most]


class Curve:
    """All losses of a stage in at most KEPT points, each the mean of as many steps."""

    def __init__(self) -> None:
        self.points: list[float] = []
        self._each, self._waiting = 1, []

    def add(self, loss: float) -> None:
        if not math.isfinite(loss):
            return
        self._waiting.append(loss)
        if len(self._waiting) == self._each:
            self.points.append(sum(self._waiting) / self._each)
            self._waiting = []
        if len(self.points) == KEPT:
            self.points = [(a + b) / 2 for a, b in zip(self.points[::2], self.points[1::2], strict=True)]
            self._each *= 2


def sparkline(values: Sequence[float], width: int) -> str:
    """The values as `width` blocks (fewer when there are fewer), each the mean of its part, on a logarithmic scale.

    So that the last thousand steps still show something after a first hundred that fell from 10 to 3.
    """
    count = min(width, len(values))
    edges = [i * len(values) // count for i in range(count + 1)] if count else [0]
    means = [sum(values[a:b]) / (b - a) for a, b in zip(edges, edges[1:], strict=False)]
    heights = [math.log(max(mean, 1e-6)) for mean in means]
    low, high = min(heights, default=0.0), max(heights, default=0.0)
    steps = (len(BLOCKS) - 1) / (high - low) if high - low > 1e-9 else 0.0
    return "".join(BLOCKS[round((height - low) * steps)] for height in heights)


def tied(metrics: Mapping[str, float]) -> bool:
    """Whether no answer is preferred to any other, as before a model differs from its reference: 0 % says more."""
    return "accuracy" in metrics and abs(metrics.get("margin", 1.0)) < TIE


def training_line(step: Step, pace: Pace, curve: str, usage: Usage | None, width: int) -> str:
    """Loss, its curve, speed and what the run takes, in at most `width` columns: the last parts give way first."""
    parts = [f"loss {step.loss:.4f}" + (f" {curve}" if curve else ""), f"{pace.tokens_per_second:,.0f} tokens/s"]
    if usage is not None:
        parts += [memory(usage), cpu(usage)] if usage.max_cpu is None else [cpu(usage), memory(usage)]
    if "accuracy" in step.metrics:
        parts.insert(1, "accuracy –" if tied(step.metrics) else f"accuracy {step.metrics['accuracy']:.0%}")
    if "reward" in step.metrics:
        parts[:1] = [*rewarded(step.metrics), parts[0]]
        parts.append(f"sampling {pace.waiting:.0%} of the time")
    return fitted(parts, width)


def rewarded(metrics: Mapping[str, float]) -> list[str]:
    """What a stage tells that samples: the reward ± its spread within a prompt's answers, KL, entropy, lengths."""
    spread = f" ± {metrics['reward_spread']:.3f}" if "reward_spread" in metrics else ""
    parts = [f"reward {metrics['reward']:.3f}{spread}"]
    parts += [f"{name} {metrics[key]:.3f}" for name, key in (("KL", "kl"), ("entropy", "entropy")) if key in metrics]
    parts += [f"length {metrics['length']:.0f}"] if "length" in metrics else []
    clipped = metrics.get("clip_low", 0.0) + metrics.get("clip_high", 0.0)
    shares = (("clipped", clipped), ("cut off", metrics.get("cut_off", 0.0)))
    return parts + [f"{name} {share:.0%}" for name, share in shares if share]


def cpu(usage: Usage) -> str:
    """CPU 58 of 60 %: the average share of all cores, and the limit."""
    limit = "" if usage.max_cpu is None else f" of {100 * usage.max_cpu:.0f}"
    return f"CPU {100 * usage.cpu:.0f}{limit} %"


def memory(usage: Usage) -> str:
    """412 MB of 4.0 GB: what is resident, and the ceiling."""
    return gigabytes(usage.memory) + ("" if usage.max_memory is None else f" of {gigabytes(usage.max_memory)}")


def fitted(parts: Sequence[str], width: int) -> str:
    """As many of the first parts as fit into `width` columns, two spaces apart; at least the first, cut."""
    line = ""
    for part in parts:
        longer = f"{line}  {part}" if line else part
        if len(longer) > width:
            break
        line = longer
    return line or parts[0][:width]


def lines_due(steps: int) -> int:
    """Steps between two plain lines: about twenty lines per stage, at 1, 2 or 5 times a power of ten."""
    wanted = max(steps / 20, 1.0)
    power = 10 ** math.floor(math.log10(wanted))
    return next(n * power for n in (1, 2, 5, 10) if n * power >= wanted)
