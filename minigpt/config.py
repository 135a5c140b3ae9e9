"""The configuration of a run: how preset, file and flags become one, and what each stage is told of it.

Precedence: preset < the run's own < file < flags. Unknown or ill-typed keys are errors with a suggestion.
"""

import difflib
import re
import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, create_model

from minigpt.data.forms import WORLD
from minigpt.data.reader import Sources
from minigpt.errors import UsageError, check_name
from minigpt.sections import ModelConfig, Section, StageConfig, TokenizerConfig, with_new_names
from minigpt.stages.stage import Stage
from minigpt.stages.table import STAGES

PRESETS = ("tiny", "small", "medium")


class _DataConfig(Section):
    """Sources of each stage: files, directories, globs or names (`world`, `python-docs`, `tinyshakespeare`, …)."""

    validation_fraction: float = Field(0.05, gt=0, lt=1, description="share of the rows that is held out")
    pretrain_copies: int = Field(1, ge=1, description="times the text is in its training data; see bpe_dropout")
    bpe_dropout: float = Field(0.1, gt=0, lt=1, description="share of merges that every second copy does without")
    skip_bad: bool = Field(False, description="omit bad rows and count them instead of stopping")

    def of(self, stage: Stage) -> Sources:
        """What the stage is to learn from."""
        world = stage.form.world
        beside = world.beside if world else None
        return Sources(
            getattr(self, stage.name), getattr(self, f"{stage.name}_validation"), self.validation_fraction,
            self.skip_bad, getattr(self, world.setting) if world else 0,
            self.pretrain_copies if stage.form.stream else 1, self.bpe_dropout,
            getattr(self, beside.setting) if beside else 0,
        )  # fmt: skip

    def keys_of(self, stage: Stage) -> list[str]:
        """The settings that decide what the stage's prepared data is."""
        keys = ["validation_fraction", stage.name, f"{stage.name}_validation"]
        keys += ["pretrain_copies", "bpe_dropout"] * stage.form.stream
        sources = getattr(self, stage.name) + getattr(self, f"{stage.name}_validation")
        worlds = [stage.form.world, stage.form.world.beside] if WORLD in sources else []
        return keys + [world.setting for world in worlds if world]


def _data_fields() -> dict[str, Any]:
    own = "own sources for validation instead of a held-out part"
    fields: dict[str, Any] = {}
    for stage in STAGES.values():
        fields[stage.name] = (list[str], Field([], description=f"sources of {stage.form.needs} for {stage.name}"))
    for stage in STAGES.values():
        fields[f"{stage.name}_validation"] = (list[str], Field([], description=own))
    for world in (stage.form.world for stage in STAGES.values() if stage.form.world):
        fields.setdefault(world.setting, (int, Field(world.count, ge=1, description=world.describes)))
        if beside := world.beside:
            fields.setdefault(beside.setting, (int, Field(beside.count, ge=0, description=beside.describes)))
    return fields


DataConfig = create_model("DataConfig", __base__=_DataConfig, __doc__=_DataConfig.__doc__, **_data_fields())


class _Config(Section):
    """A whole run: the model, its tokenizer, its data, and a section for each stage."""

    seed: int = Field(1, ge=0, lt=2**63, description="of everything random")
    start: str = Field("", description="RUN or RUN/STAGE whose model and tokenizer it begins with; none: new ones")
    model: ModelConfig = ModelConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    data: DataConfig = DataConfig()

    def of(self, stage: str) -> StageConfig:
        """The section of a stage."""
        return getattr(self, stage)

    def sources(self, stage: str) -> Sources:
        """What a stage is to learn from."""
        return self.data.of(STAGES[stage])

    def with_section(self, name: str, **changes: Any) -> "Config":
        """The same with other values of one section; they are not checked again."""
        section = getattr(self, name)
        assert changes.keys() <= type(section).model_fields.keys(), (name, changes)
        return self.model_copy(update={name: section.model_copy(update=changes)})


Config = create_model(
    "Config", __base__=_Config, __doc__=_Config.__doc__,
    **{name: (stage.config, stage.config()) for name, stage in STAGES.items()},
)  # fmt: skip


def load_config(
    preset: str = "tiny", file: Path | None = None, sets: Sequence[str] = (), saved: dict | None = None,
    *flags: dict | None,
) -> Config:
    """A preset (or a run's `saved` configuration instead), then `file`, then `flags`, then `a.b=c` settings.

    Raises UsageError that names the key, where it stands and the nearest known key.
    """
    values = preset_values(preset) if saved is None else with_new_names(saved)
    layers = [(f"in {file}", read_toml(file))] if file is not None else []
    layers += [("in the flags", layer or {}) for layer in flags]
    layers += [(f"in --set {one}", _parse_setting(one)) for one in sets]
    layers = [(where, with_new_names(layer)) for where, layer in layers]
    for _, layer in layers:
        values = _merge(values, layer)
    return build_config(values, layers if saved is None else [("in the run's config.toml", saved), *layers])


def build_config(values: dict, layers: Sequence[tuple[str, dict]] = ()) -> Config:
    """Validate nested values. Raises UsageError that names each wrong key and the last of the `layers` that has it."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UsageError("; ".join(_explain(e) + _place(e, layers) for e in error.errors()) + ".") from None


def preset_values(name: str) -> dict:
    """The values of presets/NAME.toml."""
    check_name("preset", name, PRESETS)
    return tomllib.loads(_presets_directory().joinpath(f"{name}.toml").read_text("utf-8"))


def _presets_directory() -> Any:
    packaged = resources.files("minigpt").joinpath("presets")
    return packaged if packaged.is_dir() else Path(__file__).resolve().parent.parent / "presets"


def read_toml(path: Path) -> dict:
    """The values of a configuration file; UsageError names the file and line of a mistake."""
    try:
        return tomllib.loads(Path(path).read_text("utf-8"))
    except FileNotFoundError:
        message = f"The configuration file {path} does not exist."
        raise UsageError(message, "Check the path given to --config.") from None
    except OSError as error:
        message = f"The configuration file {path} cannot be read: {error.strerror}."
        raise UsageError(message, "Check the path given to --config.") from None
    except UnicodeDecodeError as error:
        message = f"The configuration file {path} is not valid TOML: byte {error.start} is not UTF-8."
        raise UsageError(message, "Save it as UTF-8.") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"The configuration file {path} is not valid TOML: {error}.", "Correct that line.") from None


def to_toml(config: Config) -> str:
    """The complete configuration as TOML text; `build_config` reads it back unchanged."""
    import tomli_w

    return tomli_w.dumps(config.model_dump())


def flattened(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by their dotted names."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        found |= flattened(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return found


def differences(old: dict, new: dict, prefix: str = "") -> list[str]:
    """Dotted keys at which two nested dicts differ, as `key: old -> new`."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            lines.append(f"{prefix}{key}: {a} -> {b}")
    return lines


def _parse_setting(setting: str) -> dict:
    key, equals, text = setting.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set {setting!r} has no value.", "Write it as --set section.key=value.")
    text = re.sub(r'"([A-Za-z]:\\[^"]*)"', _windows_path, text.strip())
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word: --set pretrain.optimizer=muon
    for part in reversed(key.strip().split(".")):
        value = {part: value}
    return value


def _windows_path(found: re.Match) -> str:
    """A path such as "C:\\texts" in quotes, whose backslashes TOML would read as escapes, as TOML wants it."""
    path = found[1].replace("\\\\", "\\")
    return '"' + path.replace("\\", "\\\\") + '"'


def _merge(low: dict, high: dict) -> dict:
    merged = dict(low)
    for key, value in high.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _explain(error: Any) -> str:
    path = [str(part) for part in error["loc"]]
    name = ".".join(path) or "configuration"
    if error["type"] == "extra_forbidden":
        known = _keys_beside(path)
        near = difflib.get_close_matches(path[-1], known, n=1) or _sections_with(path[-1])
        return f"unknown key {name}" + (f" (did you mean {near[0]}?)" if near else f" (known: {', '.join(known)})")
    if error["type"] == "value_error":  # from a check of this module, which names the values itself
        return f"{name}: {error['ctx']['error']}"
    if error["type"] in ("model_type", "model_attributes_type"):
        return f"{name}: must be a section with keys of its own (got {error['input']!r})"
    return f"{name}: {error['msg'].replace('Input should be', 'must be')} (got {error['input']!r})"[:300]


def _place(error: Any, layers: Sequence[tuple[str, dict]]) -> str:
    """Where a wrong value was given. A rule about several values is broken by no single one of them."""
    for where, layer in reversed(layers if error["type"] != "value_error" else []):
        found: Any = layer
        for part in error["loc"]:
            found = found.get(part, layers) if isinstance(found, dict) else layers  # layers: not here
        if found is not layers:
            return f", {where}"
    return ""


def _sections_with(key: str) -> list[str]:
    sections = {name: field.annotation for name, field in Config.model_fields.items()}
    return [f"{name}.{key}" for name, kind in sections.items() if key in getattr(kind, "model_fields", {})]


def _keys_beside(path: list[str]) -> list[str]:
    section: Any = Config
    for part in path[:-1]:
        section = section.model_fields[part].annotation
    return sorted(section.model_fields)
