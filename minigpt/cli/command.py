"""A command of the app: a function that takes groups of flags as objects, and its help in sections with examples."""

import copy
import functools
import inspect
import os
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from typer.core import TyperCommand

# Spellings of older versions and of other programs.
ALIASES = {
    "--guesses": "--draft-tokens", "--temp": "--temperature", "--max-new-tokens": "--max-tokens",
    "--learning-rate": "--lr", "--n-predict": "--max-tokens",
}  # fmt: skip


def command(*examples: str) -> Callable[[Callable], Callable]:
    """Makes a command of a function: each parameter that is a dataclass becomes the flags that are its fields.

    The function gets one object per group. `~` at the beginning of a path is the home directory. The `examples` end
    the command's help.
    """

    def made(function: Callable) -> Callable:
        parameters = inspect.signature(function).parameters
        groups = {name: one.annotation for name, one in parameters.items() if is_dataclass(one.annotation)}
        flat: list[inspect.Parameter] = []
        for name, one in parameters.items():
            flat += _flags(groups[name]) if name in groups else [one]

        @functools.wraps(function)
        def called(**values: Any) -> Any:
            values = {name: expanded(value) for name, value in values.items()}
            for name, group in groups.items():
                values[name] = group(**{one.name: values.pop(one.name) for one in fields(group)})
            return function(**values)

        flat = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in flat]
        called.__signature__ = inspect.Signature(flat)
        called.__annotations__ = {one.name: one.annotation for one in flat}
        called.examples = examples
        return called

    return made


def _flags(group: type) -> Iterator[inspect.Parameter]:
    """The fields of a group as parameters that the group's title stands above in the help."""
    for one in fields(group):
        kind, info = get_args(one.type)
        info = copy.copy(info)
        info.rich_help_panel = group.title
        default = inspect.Parameter.empty if one.default is MISSING else one.default
        kind = Annotated[kind, info]
        yield inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def expanded(value: Any) -> Any:
    """A path, or each text of a list of sources, with the home directory in place of a `~` at its beginning."""
    if isinstance(value, Path):
        return Path(os.path.expanduser(value))
    if isinstance(value, list | tuple):
        return [os.path.expanduser(one) if isinstance(one, str) else expanded(one) for one in value]
    return value


def add(
    app: typer.Typer, function: Callable, name: str | None = None, hidden: bool = False, others: bool = False
) -> None:
    """Put a command into the app (or a group of it). One with `others` takes any words and flags in its context."""
    settings = {"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False}
    shown = {"hidden": hidden, "epilog": "\n".join(function.examples), "context_settings": settings if others else None}
    app.command(name, cls=Command, **shown)(function)


class Command(TyperCommand):
    """Takes the `ALIASES`; its help shows the options under the titles of their groups, and examples at the end."""

    def make_parser(self, ctx: Any) -> Any:
        parser = super().make_parser(ctx)
        for other, name in ALIASES.items():
            if name in parser._long_opt:
                parser._long_opt.setdefault(other, parser._long_opt[name])
        return parser

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            argument = parameter.param_type_name == "argument"
            title = "Arguments" if argument else getattr(parameter, "rich_help_panel", None) or "Options"
            sections.setdefault(title, []).append(record)
        last = sections.pop("Options", [])
        for title, records in [*sections.items(), ("Options", last)]:
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        if self.epilog:
            lines = self.epilog.splitlines()
            with formatter.section("Example" if len(lines) == 1 else "Examples"):
                for line in lines:
                    formatter.write_text(line)
