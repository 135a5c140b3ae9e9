"""In which language people are spoken to: pages, the menu and the story of a training. What scripts read is English."""

import os
import sys
from typing import Annotated

import typer

Language = Annotated[
    str | None, typer.Option("--lang", metavar="NAME", help="en or zh, for pages and the story. Default: the system's.")
]


def language(lang: str | None) -> str:
    """The language that --lang names, else the system's. Raises UsageError for one that there is not."""
    from minigpt.errors import check_name
    from minigpt.pages.texts import LANGUAGES, system_language

    if lang is None:
        return system_language(_environment())
    check_name("language", lang, LANGUAGES)
    return lang


def spoken(lang: str | None) -> str:
    """The language of what goes to the terminal: English where it is piped, unless --lang asks for another one."""
    return language(lang if lang is not None or sys.stderr.isatty() else "en")


def _environment() -> dict[str, str]:
    """The variables that name a locale; Windows has none, but a language of its own."""
    if os.name == "nt" and not any(os.environ.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG")):
        import ctypes
        import locale

        return {"LANG": locale.windows_locale.get(ctypes.windll.kernel32.GetUserDefaultUILanguage(), "")}
    return dict(os.environ)
