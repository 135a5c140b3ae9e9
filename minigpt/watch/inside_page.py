"""What `look_inside` found, as a page without scripts and as blocks for a terminal."""

import base64
import struct
import zlib

import numpy as np

from minigpt.pages.html import Html, page, table, tag
from minigpt.pages.texts import words
from minigpt.watch.inside import Inside

SHADES = " ░▒▓█"


def inside_page(found: Inside, title: str, language: str = "en") -> str:
    """Attention maps per layer and head, the logit lens, probabilities and neighbours."""
    say = words(language)
    numbered = [f"{number} {visible(token)}" for number, token in enumerate(found.tokens)]
    blocks = [
        tag("h2", say["probabilities"]),
        table([say["token"], say["probability"]], [[visible(t), share(p)] for t, p in found.following],
              say["probabilities"]),
        _read(found, say),
        tag("h2", say["lens"]),
        table([say["token"], *(f"{say['layer']} {n}" for n in range(len(found.lens)))], _lens_rows(found, numbered),
              say["lens"], text=True),
        tag("h2", say["attention"]),
        _maps(found, say),
        tag("h2", say["neighbours"]),
        table([say["token"], ""], [[visible(token), "  ".join(f"{visible(t)} {c:.2f}" for t, c in near)]
              for token, near in found.neighbours.items()], say["neighbours"], text=True),
    ]  # fmt: skip
    head = tag("header", tag("h1", f"{say['inspect']}: {title}"))
    return page(say["inspect"], head + tag("main", blocks), language=language)


def _read(found: Inside, say: dict[str, str]) -> Html:
    """The prompt's tokens, each with the probability that the model gave it."""
    pairs = zip(found.tokens, found.surprise, strict=True)
    rows = [[f"{n} {visible(token)}", "–" if p is None else share(p)] for n, (token, p) in enumerate(pairs)]
    label = f"{say['prompt']}: {say['probability']}"
    inner = table([say["prompt"], say["probability"]], rows, label)
    return tag("details", tag("summary", label), inner)


def _lens_rows(found: Inside, numbered: list[str]) -> list[list[str]]:
    return [
        [name, *(f"{visible(layer[t][0])} {layer[t][1]:.2f}" for layer in found.lens)]
        for t, name in enumerate(numbered)
    ]


def _maps(found: Inside, say: dict[str, str]) -> Html:
    figures = []
    for layer, heads in enumerate(found.attention):
        for head, shares in enumerate(heads):
            name = f"{say['layer']} {layer + 1}, {say['head']} {head + 1}"
            best = np.argsort(-shares[-1], kind="stable")[:3]
            last = ", ".join(f"{int(i)} {visible(found.tokens[i])} {shares[-1, i]:.2f}" for i in best)
            image = tag("img", src=picture(shares), alt=f"{name}: {last}", class_="map")
            image = Html(image.removesuffix("</img>"))
            figures.append(tag("figure", tag("figcaption", name), image, tag("output", f"→ {last}", class_="values")))
    return tag("div", figures, class_="charts maps")


def picture(shares: np.ndarray) -> str:
    """Shares (T, T) from 0 to 1 as a grey PNG in a data URI, one pixel each: black is all of a row's attention."""
    grey = (255 * (1 - np.clip(shares, 0, 1) ** 0.5)).astype(np.uint8)  # small shares can be seen, too
    rows = b"".join(b"\0" + row.tobytes() for row in grey)
    size = struct.pack(">II", grey.shape[1], grey.shape[0])
    chunks = [(b"IHDR", size + b"\x08\0\0\0\0"), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def share(p: float) -> str:
    """A probability with four digits, a very small one as a power of ten."""
    return f"{p:.4f}" if p >= 5e-5 or p == 0 else f"{p:.0e}"


def blocks_of(found: Inside, layer: int, width: int = 80) -> list[str]:
    """The heads of a layer as blocks side by side, as many as fit; each row is a token, each column what it sees."""
    heads, size = found.attention[layer], len(found.tokens)
    together = max(1, (width - 10) // (size + 2))
    lines = []
    for first in range(0, len(heads), together):
        group = heads[first : first + together]
        names = [(f"head {first + n + 1}" if size > 7 else f"{first + n + 1}").ljust(size) for n in range(len(group))]
        lines.append(" " * 10 + "  ".join(names).rstrip())
        for t, token in enumerate(found.tokens):
            cells = ["".join(shade(share) for share in shares[t]) for shares in group]
            lines.append(f"{visible(token)[:8]:>8}  " + "  ".join(cells).rstrip())
        lines.append("")
    return lines


def shade(share: float) -> str:
    """A share from 0 to 1 as one of five blocks."""
    return SHADES[min(4, int(np.sqrt(max(0.0, share)) * 5))]


def visible(token: str) -> str:
    """A token with its blanks and line ends to be seen, so that two that look alike differ."""
    shown = token.replace("\n", "⏎").replace("\t", "⇥")
    return "␣" + shown[1:] if shown.startswith(" ") else shown or "∅"
