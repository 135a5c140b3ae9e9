#!/usr/bin/env python
"""Proves the promises of several processes: the same model, nothing that hangs, and how long a step takes.

    python scripts/parallel.py equality                   50 steps of every stage by 1, 2 and 4 processes: minutes
    python scripts/parallel.py kills --times 100          SIGKILL and SIGSTOP of either of two processes
    python scripts/parallel.py efficiency                 tokens per second by 1, 2 and 4 processes
    sudo python scripts/parallel.py link                  predicted and measured over throttled links (Linux, as root)
    python scripts/parallel.py hang --calls 3000          MLX's all_sum by three processes (mlx issue 4475)
    python scripts/parallel.py outer --steps 1000         an exchange in 50 steps: traffic and loss against each step
    python scripts/parallel.py memory --backends torch    what each process holds when moments or all are shared out
    python scripts/parallel.py overlap                    torch: sums that begin while the backward pass computes
    python scripts/parallel.py manifests --schemas DIR    Kubernetes files against Kubeflow's definitions in a directory

Prints tables and exits with 1 when a promise is broken. Run it in the environment that scripts/test makes.
"""

import argparse
import os
import platform
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from several import equality, kills, local, manifests, memory, overlap, speed

from backends import BACKENDS
from minigpt.cli import tables
from minigpt.stages.table import STAGES


def main() -> int:
    arguments = _arguments()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models, and as many processes as cores
    ways = {"equality": _equality, "kills": _kills, "efficiency": _efficiency, "link": _link, "hang": _hang,
            "outer": _outer, "overlap": _overlap, "memory": _memory, "manifests": _manifests}  # fmt: skip
    with tempfile.TemporaryDirectory() as directory:
        broken = ways[arguments.what](Path(directory), arguments)
    print(f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores")
    return 1 if broken else 0


def _equality(directory: Path, arguments: argparse.Namespace) -> int:
    broken = 0
    for backend in arguments.backends:
        (directory / backend).mkdir()
        cases = [case for case in equality.CASES if case.stage in arguments.stages and backend in case.backends]
        cases = [case for case in cases if arguments.ways in case.name]
        gaps, told = equality.compared(directory / backend, backend, arguments.processes, arguments.steps, cases)
        cells = [[gap.case.stage, gap.case.name, gap.way, f"{gap.losses:.1e}", f"{gap.weights:.1e}",
                  gap.verdict] for gap in gaps]  # fmt: skip
        title = (f"{backend}, {arguments.steps} steps, against one process: losses within {equality.LOSS:g}, weights "
                 f"within {equality.WEIGHTS:g}, or both as {equality.ROUNDING}")  # fmt: skip
        tables.kept_table(title, ("stage", "way", "processes", "loss", "weights", ""), cells, wrap=(0, 1, 2))
        print("\n".join(told))
        broken += sum(not gap.equal for gap in gaps) + sum("same bits" not in line for line in told)
    return broken


def _kills(directory: Path, arguments: argparse.Namespace) -> int:
    words = arguments.times, arguments.seed, arguments.shard
    found = [kills.campaign(directory, backend, *words) for backend in arguments.backends]
    cells = [[one.backend, one.tried, len(one.lost), f"{one.slowest:.1f} s", "; ".join(one.lost)] for one in found]
    tables.kept_table("Killed and stopped", ("backend", "hits", "lost", "noticed in at most", "what"), cells)
    return sum(len(one.lost) for one in found)


def _efficiency(directory: Path, arguments: argparse.Namespace) -> int:
    rows = []
    for backend in arguments.backends:
        for count in (1, *arguments.processes):
            rows.append([backend, count, *speed.cells(directory, backend, count, arguments.steps)])
    cores = f"{os.cpu_count()} cores, one thread each"
    tables.kept_table(f"Speed ({cores})", ("backend", "processes", "ms a step", "tokens/s", "to one process"), rows)
    return 0


def _link(directory: Path, arguments: argparse.Namespace) -> int:
    rows = speed.links(directory, arguments.bandwidths, arguments.steps)
    cells = [row.cells() for row in rows]
    tables.kept_table("Two machines over a throttled link (network namespaces)", speed.COLUMNS, cells)
    return sum(row.apart > speed.NEAR for row in rows)


def _hang(directory: Path, arguments: argparse.Namespace) -> int:
    done, seconds = speed.exchanges(directory, 3, arguments.calls)
    print(f"mlx, 3 processes: {done:,} of {arguments.calls:,} exchanges done in {seconds:.0f} s")
    return done < arguments.calls


def _outer(directory: Path, arguments: argparse.Namespace) -> int:
    rows = [row for name in arguments.backends for row in local.compared(directory, name, arguments.steps)]
    title = f"Outer steps, 2 processes, {arguments.steps} steps"
    tables.kept_table(title, local.COLUMNS, [row.cells() for row in rows])
    return sum(not row.good for row in rows)


def _overlap(directory: Path, arguments: argparse.Namespace) -> int:
    cells = overlap.compared(directory, arguments.bandwidths, arguments.steps)
    tables.kept_table("torch, 2 processes: a step whose sums begin early", overlap.COLUMNS, cells)
    return 0


def _memory(directory: Path, arguments: argparse.Namespace) -> int:
    rows = [row for name in arguments.backends for row in memory.compared(directory, name, arguments.processes)]
    tables.kept_table("What is shared out, and the peak of each process", memory.COLUMNS, rows)
    return 0


def _manifests(directory: Path, arguments: argparse.Namespace) -> int:
    broken = 0
    for name in manifests.SCHEMAS:
        found = manifests.faults(manifests.DEPLOY / name, arguments.schemas)
        print("\n".join([f"{name}: {'fits' if not found else 'WRONG'}", *found]))
        broken += len(found)
    return broken


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["equality", "kills", "efficiency", "link", "hang", "outer", "overlap",
                                          "memory", "manifests"])  # fmt: skip
    parser.add_argument("--backends", default=",".join(BACKENDS), type=lambda text: text.split(","), metavar="NAMES")
    parser.add_argument("--processes", default=[2, 4], metavar="N,N",
                        type=lambda text: [int(n) for n in text.split(",")])  # fmt: skip
    parser.add_argument("--steps", type=int, default=50, metavar="N")
    parser.add_argument("--times", type=int, default=100, metavar="N", help="hits of kills")
    parser.add_argument("--calls", type=int, default=3000, metavar="N", help="exchanges of hang")
    parser.add_argument("--bandwidths", default="25,50,100", metavar="MBIT,…", help="of link",
                        type=lambda text: [float(n) for n in text.split(",")])  # fmt: skip
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--stages", default=list(STAGES), metavar="NAMES", help="of equality",
                        type=lambda text: text.split(","))  # fmt: skip
    parser.add_argument("--shard", default="none", metavar="WHAT", help="of kills: what processes share out")
    parser.add_argument("--ways", default="", metavar="TEXT", help="of equality: those with this in their name")
    parser.add_argument("--schemas", type=Path, metavar="DIR", help="with Kubeflow's custom resource definitions")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
