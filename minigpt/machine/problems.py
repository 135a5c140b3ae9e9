"""Problems of a machine, in words. Pure functions of its description."""

from minigpt.machine.description import Machine
from minigpt.units import gigabytes

OLDEST_MACOS = (14, 0)  # of MLX's wheels
LITTLE_DISK, LITTLE_MEMORY = 2e9, 1e9  # bytes; a tiny run writes 0.2 GB and takes 0.6 GB


def problems(machine: Machine, installed: list[str]) -> list[str]:
    """Sentences, the most serious first; `installed` are the backends that can be imported."""
    return [sentence for sentence in _candidates(machine, installed) if sentence]


def _candidates(m: Machine, installed: list[str]) -> list[str]:
    too_old = m.apple and _version(m.version) < OLDEST_MACOS and m.version != ""
    return [
        "No backend is installed: pip install mlx on a Mac with an Apple chip, pip install torch elsewhere."
        if not installed else "",
        "This Python is built for Intel and runs under Rosetta on an Apple chip, where MLX cannot be installed. "
        "Install an arm64 Python (python.org, uv or Homebrew in /opt/homebrew) and make a new environment."
        if m.apple and m.python_architecture == "x86_64" else "",
        f"macOS {m.version} is too old for MLX, which needs macOS 14. Update macOS; until then torch trains on the CPU."
        if too_old else "",
        "This is a Mac with an Intel processor: MLX does not exist for it, and torch ended with version 2.2, which is "
        "older than MiniGPT needs. Use a Mac with an Apple chip, or Linux."
        if m.system == "macOS" and not m.apple else "",
        "MLX is not installed, so the Apple GPU stays unused: pip install mlx."
        if m.apple and not too_old and m.python_architecture == "arm64" and "mlx" not in installed else "",
        f"Only {gigabytes(m.disk_free)} of disk are free: make room, or choose another --run directory."
        if m.disk_free is not None and m.disk_free < LITTLE_DISK else "",
        f"Only {gigabytes(m.memory_available)} of memory are free: close other programs."
        if m.memory_available is not None and m.memory_available < LITTLE_MEMORY else "",
        "Low Power Mode is on: training runs at about 60 % of its speed. Turn it off in System Settings > Battery."
        if m.low_power else "",
        f"The machine is hot ({m.thermal}): it slows itself down. Let it cool first."
        if m.thermal not in ("", "nominal", "moderate") else "",
        "It runs on its battery: plug it in for a long training."
        if m.power == "battery" else "",
        "The system tells nothing about its memory, so a plan cannot say whether a run fits."
        if m.memory is None else "",
    ]  # fmt: skip


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())
