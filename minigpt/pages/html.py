"""Pages of one file each: style and scripts inside, a strict content security policy, nothing fetched."""

import base64
import hashlib
import html
import json
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from typing import Any

# What a server of a page sends with every answer.
HEADERS = {
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY",
    "Content-Security-Policy": "frame-ancestors 'none'", "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}  # fmt: skip


class Html(str):
    """Text that is HTML already. All other text is escaped where it is put into a page."""


def tag(name: str, *children: Any, **attributes: Any) -> Html:
    """An element. Children are Html, text, None, or lists of them; `class_` is class, `aria_label` aria-label."""
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}' + ("" if value is True else f'="{html.escape(str(value))}"')
        for key, value in attributes.items() if value is not None and value is not False
    )  # fmt: skip
    return Html(f"<{name}{shown}>{_inner(children)}</{name}>")


def _inner(children: Iterable[Any]) -> str:
    parts = []
    for child in children:
        if isinstance(child, Html):
            parts.append(child)
        elif isinstance(child, list | tuple):
            parts.append(_inner(child))
        elif child is not None:
            parts.append(html.escape(str(child), quote=False))
    return "".join(parts)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], caption: str, text: bool = False) -> Html:
    """A table whose first column names its rows; the others are numbers, or with `text` texts that wrap."""
    kind = "text" if text else "number"
    heads = [
        tag("th", name, scope="col", class_=None if text or not i else kind) if name else tag("td")
        for i, name in enumerate(columns)
    ]
    lines = [
        tag("tr", tag("th", row[0], scope="row"), [tag("td", cell, class_=kind) for cell in row[1:]]) for row in rows
    ]
    body = tag("table", tag("thead", tag("tr", heads)) if any(columns) else None, tag("tbody", lines))
    return tag("div", body, class_="scroll", tabindex=0, role="region", aria_label=caption)


@cache
def part(name: str, package: str = "minigpt.pages") -> str:
    """A file of a room's static/: style.css and chart.js are shared, a page's own script lies in its room."""
    return (resources.files(package) / "static" / name).read_text("utf-8")


def page(
    title: str, body: str, scripts: Sequence[str] = (), data: Any = None, language: str = "en", style: str = ""
) -> str:
    """A whole page. `scripts` are texts that run in their order, `data` is JSON that they find under the id "data".

    `style` comes after the one that all pages share.
    """
    style, script = part("style.css") + style, "\n".join(scripts)
    block = ""
    if data is not None:
        text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
        block = f'<script type="application/json" id="data">{text}</script>\n'
    running = f"<script>{script}</script>\n" if script else ""
    lines = [
        "<!doctype html>",
        f'<html lang="{"zh-Hans" if language == "zh" else "en"}">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy(style, script)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="referrer" content="no-referrer">',
        f"<title>{html.escape(title)}</title>",
        f"<style>{style}</style>",
        f"</head>\n<body>\n{body}\n{block}{running}</body>\n</html>\n",
    ]
    return "\n".join(lines)


def policy(style: str, script: str) -> str:
    """A content security policy: this very style, this very script, and requests to the own server for a script."""
    scripts = f"script-src '{_digest(script)}'; connect-src 'self'; " if script else ""
    rest = "img-src data:; base-uri 'none'; form-action 'none'"
    return f"default-src 'none'; {scripts}style-src '{_digest(style)}'; {rest}"


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
