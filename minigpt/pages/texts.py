"""The one table of texts in two languages, texts.json: for pages, the menu and the demo. What scripts read is English.

A part of the table holds what one place says: {"pages": {word: [English, Chinese]}, "menu": …}.
"""

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources

from minigpt.errors import check_name

LANGUAGES = ("en", "zh")


@cache
def parts() -> dict[str, dict[str, list[str]]]:
    """The whole table: part -> word -> [English, Chinese]."""
    return json.loads((resources.files("minigpt.pages") / "texts.json").read_text("utf-8"))


def both(part: str = "pages") -> dict[str, list[str]]:
    """Word -> [English, Chinese] of a part of the table, for a page that changes its language by itself."""
    return parts()[part]


def words(language: str, part: str = "pages") -> dict[str, str]:
    """Word -> its text. Raises UsageError for a language that is not in the table."""
    check_name("language", language, LANGUAGES)
    return {name: texts[LANGUAGES.index(language)] for name, texts in both(part).items()}


def measure(name: str, language: str) -> str:
    """A measure's name for people: exact_match_story is "story" of the exact matches, `demo: …` the demo's."""
    known = words(language, "measures")
    before, _, plain = name.rpartition(": ")
    part = plain.removeprefix("exact_match_")
    shown = known.get(part, part.replace("_", " "))
    kind = f"{known['exact_match']}: " if part != plain else ""
    return (f"{before}: " if before else "") + kind + shown


def system_language(environment: Mapping[str, str]) -> str:
    """The language that the system's locale asks for: "zh" for any kind of Chinese, else "en".

    Of the variables the first that is set counts, as gettext has it.
    """
    names = ("LC_ALL", "LC_MESSAGES", "LANG")
    locale = next((environment[name] for name in names if environment.get(name)), "")
    if locale.partition(".")[0] not in ("", "C", "POSIX") and environment.get("LANGUAGE"):
        locale = environment["LANGUAGE"].split(":")[0]
    return "zh" if locale.lower().startswith("zh") else "en"
