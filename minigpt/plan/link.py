"""What several processes would make of a step: each computes its share, and the gradients go around in a ring.

In a ring every process sends 2 (N-1)/N times the gradients, in 2 (N-1) turns (Patarasuk & Yuan 2009): that hardly
grows with N, and the turns' latency does.
"""

import re
from dataclasses import dataclass

from minigpt.errors import UsageError

BITS = {"k": 1e3, "m": 1e6, "g": 1e9}
PAYLOAD = 0.95  # of what a link carries; the rest are the headers of Ethernet, IP and TCP
LATENCY = 1e-4  # seconds of one message in a local network
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
PAYS = 0.5  # efficiency below which data parallel does not pay any more


@dataclass(frozen=True)
class Link:
    """What joins two machines: bytes per second of payload, and seconds of latency."""

    rate: float
    latency: float = LATENCY

    def ring(self, size: float, processes: int) -> float:
        """Seconds in which `size` bytes of gradients are summed over the processes."""
        return sent(size, processes) / self.rate + 2 * (processes - 1) * self.latency


def sent(size: float, processes: int) -> float:
    """Bytes that each process sends, and receives, to sum `size` bytes over all."""
    return 2 * (processes - 1) / processes * size


@dataclass(frozen=True)
class Together:
    """A step of `processes`: seconds of computing and of exchanging, bytes sent, tokens, and the efficiency: the
    tokens per second to `processes` times those of one process.
    """

    processes: int
    computing: float
    exchanging: float
    traffic: float
    tokens: int
    efficiency: float

    @property
    def seconds(self) -> float:
        return self.computing + self.exchanging


def together(
    tokens: int, step: float, update: float, size: float, link: Link, processes: int, every: int = 1
) -> Together:
    """A step of `tokens` for each process: `step` and `update` seconds for its gradients and the update, `size` bytes
    that are exchanged after `every` steps: gradients, or what was learned since the last exchange.
    """
    exchanging = link.ring(size, processes) / every
    alone = step + update
    return Together(processes, alone, exchanging, sent(size, processes) / every, tokens * processes,
                    alone / (alone + exchanging))  # fmt: skip


def shared(
    tokens: int, step: float, update: float, size: float, link: Link, processes: int, every: int = 1
) -> Together:
    """The same batch shared out: each process computes 1/N of the `tokens`, and all of the update."""
    exchanging, computing = link.ring(size, processes) / every, step / processes + update
    efficiency = (step + update) / (processes * (computing + exchanging))
    return Together(processes, computing, exchanging, sent(size, processes) / every, tokens, efficiency)


def parse_link(text: str, latency: float = LATENCY) -> Link:
    """The link that "1Gbit", "100Mbit/s" or "25Gbps" means. Raises UsageError for what is none."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg])(?:bit(?:/s)?|bps|b/s)?", text.strip(), re.IGNORECASE)
    if found is None or float(found[1]) == 0:
        raise UsageError(f"--link {text!r} is not the speed of a link.", "Give it such as 1Gbit, 100Mbit or 25Gbit.")
    return Link(float(found[1]) * BITS[found[2].lower()] / 8 * PAYLOAD, latency)


def advice(rows: list[Together]) -> str:
    """Where data parallel stops paying, and what comes next."""
    paying = [row.processes for row in rows if row.efficiency >= PAYS]
    last = max(paying)
    if last == rows[-1].processes:
        return f"Data parallel pays up to {last:,} processes on this link, with a batch that grows with them."
    return (
        f"Data parallel stops paying after {last:,} processes on this link: the exchange takes longer than "
        "the computing. What comes next: more rows for each process (grad_accumulation), exchanges of many steps "
        "(outer_every), a faster link, or a model whose layers are shared out as well."
    )
