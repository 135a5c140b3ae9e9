"""`minigpt config`: every key of the configuration, with its meaning."""

from dataclasses import asdict
from typing import Annotated, Any

from typer import Argument, Option

from minigpt.cli import flags
from minigpt.cli.command import command
from minigpt.errors import check_name

Section = Annotated[
    str | None, Argument(metavar="SECTION", help="A stage, or model, tokenizer, data. Default: all of them.")
]
Preset = Annotated[str | None, Option("--preset", metavar="NAME", help="Show its values in place of the defaults.")]


@command("minigpt config sft", "minigpt config model --preset medium")
def config(section: Section = None, preset: Preset = None, json: flags.AsJson = False) -> None:
    """Show every key of the configuration.

    With its meaning, its default and what it may be. A key is set with --set SECTION.KEY=VALUE, or in a TOML file
    that --config names.
    """
    from minigpt.cli import console, keys, tables
    from minigpt.config import PRESETS, load_config

    known = keys.sections()
    if section is not None:
        check_name("section", section, known[1:])
    values = {name: load_config(name).model_dump() for name in ([preset] if preset else PRESETS)}
    shown = {name: keys.keys_of(name) for name in ([section] if section else known)}
    if json:
        rows = [
            asdict(key) | {"presets": {name: _value(of, key) for name, of in values.items()}}
            for found in shown.values() for key in found
        ]  # fmt: skip
        console.print_json(rows)
        return
    for name, found in shown.items():
        rows = [(key, key.default if preset is None else _value(values[preset], key)) for key in found]
        tables.show_keys(name, rows, preset)


def _value(values: dict, key: Any) -> Any:
    for part in [*filter(None, [key.section]), *key.name.split(".")]:
        values = values[part]
    return values
