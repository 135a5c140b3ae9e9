"""The configuration: what each section may hold, and how preset, file and flags become one of them.

Precedence: preset < file < flags. Unknown or ill-typed keys are errors with a suggestion.
"""

import difflib
import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from minigpt.errors import UsageError, check_name

PRESETS = ("tiny", "small", "medium")
STAGES = ("pretrain", "sft", "dpo")


class Section(BaseModel):
    """A part of the configuration: no unknown keys, no silent conversions, not changed after it is built."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class RopeScaling(Section):
    """Rotary positions stretched beyond the `original_context`, as imported models have them (see model.rope)."""

    kind: Literal["none", "linear", "llama3", "yarn"] = "none"
    factor: float = Field(1.0, ge=1)
    original_context: int = Field(0, ge=0)
    low_freq_factor: float = Field(1.0, gt=0, description="llama3's")
    high_freq_factor: float = Field(4.0, gt=0, description="llama3's")
    beta_fast: float = Field(32.0, gt=0, description="yarn's")
    beta_slow: float = Field(1.0, gt=0, description="yarn's")
    attention_factor: float = Field(0.0, ge=0, description="yarn's; 0 means 0.1 ln(factor) + 1")

    @model_validator(mode="after")
    def _has_a_context(self) -> "RopeScaling":
        if self.kind in ("llama3", "yarn") and not self.original_context:
            raise ValueError(f"kind = '{self.kind}' needs original_context")
        return self


class ModelConfig(Section):
    """The decoder's shape. `vocab_size` 0 means: as many as the tokenizer has.

    The defaults behind `qk_norm` are those of our own models; other values are for models that come from elsewhere.
    """

    n_layer: int = Field(4, ge=1)
    n_head: int = Field(4, ge=1)
    n_kv_head: int = Field(2, ge=1)
    d_model: int = Field(128, ge=2)
    d_ff: int = Field(352, ge=1)
    head_dim: int = Field(0, ge=0, description="width of one head; 0 means d_model / n_head")
    context: int = Field(256, ge=2, description="tokens that the model is trained to see at once")
    vocab_size: int = Field(0, ge=0)
    rope_theta: float = Field(10000.0, gt=0)
    norm_eps: float = Field(1e-5, gt=0)
    tie_embeddings: bool = True
    qk_norm: bool = False
    norm: Literal["rms", "layer"] = "rms"
    feed_forward: Literal["swiglu", "gelu", "gelu_tanh"] = "swiglu"
    positions: Literal["rope", "learned"] = "rope"
    max_positions: int = Field(0, ge=0, description="positions that the weights have; 0 means as many as context")
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    sliding_window: int = Field(0, ge=0, description="tokens that one sees, itself included; 0 means all before it")
    rope_scaling: RopeScaling = RopeScaling()

    @model_validator(mode="before")
    @classmethod
    def _head_width(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values  # pydantic says what is wrong with it
        heads, width = values.get("n_head", 4), values.get("d_model", 128)
        if not values.get("head_dim") and isinstance(heads, int) and isinstance(width, int) and heads > 0:
            if width % heads:
                raise ValueError(f"d_model = {width} cannot be divided by n_head = {heads}; set head_dim")
            values = values | {"head_dim": width // heads}
        return values

    @model_validator(mode="after")
    def _shapes_fit(self) -> "ModelConfig":
        if self.n_head % self.n_kv_head:
            raise ValueError(f"n_head = {self.n_head} must be a multiple of n_kv_head = {self.n_kv_head}")
        if self.head_dim % 2 and self.positions == "rope":
            raise ValueError(f"head_dim = {self.head_dim} must be even for rotary positions")
        if self.max_positions and self.max_positions < self.context:
            raise ValueError(f"context = {self.context} is more than max_positions = {self.max_positions}")
        return self


class TokenizerConfig(Section):
    """`bpe` is SentencePiece BPE with byte fallback; `char` and `byte` are for comparison.

    `imported` is one that came with a model (`minigpt import`); it is never trained.
    """

    kind: Literal["bpe", "char", "byte", "imported"] = "bpe"
    vocab_size: int = Field(2048, ge=300, le=1_000_000)
    sample_mb: float = Field(16.0, gt=0, description="megabytes of text that the tokenizer is trained on")


class DataConfig(Section):
    """Sources of each stage: files, directories, globs or names (`world`, `python-docs`, `tinyshakespeare`, …)."""

    pretrain: list[str] = []
    sft: list[str] = []
    dpo: list[str] = []
    pretrain_validation: list[str] = Field([], description="own sources for validation instead of a held-out part")
    sft_validation: list[str] = []
    dpo_validation: list[str] = []
    validation_fraction: float = Field(0.05, gt=0, lt=1)
    pretrain_copies: int = Field(1, ge=1, description="times the text is in its training data; see bpe_dropout")
    bpe_dropout: float = Field(0.1, gt=0, lt=1, description="share of merges left out in every second copy")
    skip_bad: bool = False
    world_texts: int = Field(20_000, ge=1, description="texts that the built-in world writes for pretraining")
    world_instructions: int = Field(24_000, ge=1)
    world_pairs: int = Field(3_000, ge=1)


class StageConfig(Section):
    """One training stage. A step computes `batch_size` rows of tokens, in `accumulation` equal parts."""

    steps: int = Field(1000, ge=1)
    batch_size: int = Field(16, ge=1, description="rows per step; short examples share a row")
    accumulation: int = Field(1, ge=1, description="parts a step is computed in; the result is the same")
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = Field(1e-3, ge=0)
    matrix_learning_rate: float = Field(0.02, ge=0, description="for the matrices under optimizer = 'muon'")
    schedule: Literal["cosine", "linear", "hold"] = "cosine"
    warmup_steps: int = Field(20, ge=0)
    decay_fraction: float = Field(0.5, gt=0, le=1, description="last part of 'hold' in which the rate falls")
    final_fraction: float = Field(0.1, ge=0, le=1, description="rate at the last step / the highest rate")
    weight_decay: float = Field(0.1, ge=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.95, ge=0, lt=1)
    momentum: float = Field(0.95, ge=0, lt=1, description="Muon's")
    eps: float = Field(1e-8, gt=0)
    clip: float = Field(1.0, ge=0, description="largest gradient norm; 0 turns clipping off")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of each block's output that a step leaves out")
    checkpointing: bool = False
    loss_chunk: int = Field(0, ge=0, description="tokens whose logits exist at once; 0: those of a whole part")
    compile: bool = True
    repeatable: bool = Field(False, description="bit for bit the same every time on a CUDA GPU, too, at some speed")
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    eval_every: int = Field(100, ge=1)
    eval_rows: int = Field(64, ge=1, description="validation rows per evaluation during training")
    save_every: int = Field(200, ge=1)
    keep_last: int = Field(2, ge=1, description="checkpoints that are kept beside the best one")
    bad_steps: int = Field(5, ge=1, description="steps in a row without a finite loss that send training back")
    spike: float = Field(1.5, ge=0, description="a loss above spike x the median of the last 50 + 0.5; 0: never")
    log_every: int = Field(10, ge=1)

    @model_validator(mode="after")
    def _parts_are_equal(self) -> "StageConfig":
        if self.batch_size % self.accumulation:
            raise ValueError(f"batch_size = {self.batch_size} must be a multiple of accumulation = {self.accumulation}")
        return self


class TuneConfig(StageConfig):
    """A stage that tunes a model. With `lora_rank` above 0 it trains an adapter and leaves the weights as they are."""

    lora_rank: int = Field(0, ge=0, description="numbers per input and output of a layer; 0 trains all weights")
    lora_alpha: float = Field(16.0, gt=0, description="the adapter's output counts lora_alpha / lora_rank times")
    lora_targets: list[str] = Field([], description="layers, such as q_proj; none named: all in the blocks")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="share of an adapter's inputs that a step leaves out")
    lora_bits: Literal[0, 4, 8] = Field(0, description="keep the weights in so many bits (QLoRA); 0: as they are")
    dora: bool = Field(False, description="train the length of each weight row, too (Liu et al. 2024)")


class DPOConfig(TuneConfig):
    """`beta` is the strength of the tie to the reference model (Rafailov et al. 2023, eq. 7)."""

    beta: float = Field(0.1, gt=0)
    loss: Literal["sigmoid", "ipo"] = "sigmoid"


class Config(Section):
    """A whole run."""

    seed: int = Field(1, ge=0, lt=2**63)
    model: ModelConfig = ModelConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    data: DataConfig = DataConfig()
    pretrain: StageConfig = StageConfig()
    sft: TuneConfig = TuneConfig()
    dpo: DPOConfig = DPOConfig()


def load_config(
    preset: str = "tiny", file: Path | None = None, sets: Sequence[str] = (), saved: dict | None = None,
    *flags: dict | None,
) -> Config:
    """A preset (or a run's `saved` configuration instead), then `file`, then `flags`, then `a.b=c` settings.

    Raises UsageError that names the key, where it stands and the nearest known key.
    """
    values = preset_values(preset) if saved is None else saved
    layers = [(f"in {file}", read_toml(file))] if file is not None else []
    layers += [("in the flags", layer or {}) for layer in flags]
    layers += [(f"in --set {one}", _parse_setting(one)) for one in sets]
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
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # a bare word: --set pretrain.optimizer=muon
    for part in reversed(key.strip().split(".")):
        value = {part: value}
    return value


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
