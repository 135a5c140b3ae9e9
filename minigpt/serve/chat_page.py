"""The chat page: one file, served at `/`."""

from functools import cache

from minigpt.pages import html, texts


@cache
def chat_page() -> str:
    """The page itself, with the style and the functions that all pages share."""
    scripts = [html.part("common.js"), html.part("chat.js", "minigpt.serve")]
    body, style = (html.part(name, "minigpt.serve") for name in ("chat.html", "chat.css"))
    return html.page("MiniGPT", body, scripts, texts.both("chat"), style=style)
