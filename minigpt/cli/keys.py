"""The keys of the configuration, as people look for them: with meaning, default and bounds, or by another name."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from minigpt.errors import UsageError

# What other programs call a key of ours.
OTHER_NAMES = {
    "lr": "learning_rate", "max_lr": "learning_rate", "iters": "steps", "max_iters": "steps", "max_steps": "steps",
    "num_steps": "steps", "bs": "batch_size", "wd": "weight_decay", "warmup": "warmup_steps",
    "max_grad_norm": "grad_clip", "gradient_accumulation_steps": "grad_accumulation", "grad_accum": "grad_accumulation",
    "gradient_checkpointing": "activation_checkpointing", "layers": "n_layer",
    "num_layers": "n_layer", "n_layers": "n_layer", "num_hidden_layers": "n_layer", "heads": "n_head",
    "num_heads": "n_head", "n_heads": "n_head", "hidden_size": "d_model", "dim": "d_model", "n_embd": "d_model",
    "intermediate_size": "d_ff", "block_size": "context", "seq_len": "context", "max_seq_len": "context",
    "context_length": "context", "ctx": "context", "rank": "lora_rank", "lora_r": "lora_rank", "vocab": "vocab_size",
}  # fmt: skip
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


@dataclass(frozen=True)
class Key:
    """One key of a section: what may be written, what it is without being written, and what it means."""

    section: str
    name: str
    default: Any
    allowed: str
    meaning: str


def sections() -> list[str]:
    """The sections of the configuration, and "" for the keys that are in none."""
    from minigpt.config import Config

    return ["", *(name for name, field in Config.model_fields.items() if _is_section(field.annotation))]


def keys_of(section: str) -> list[Key]:
    """The keys of a section of the configuration; nested sections are written `inner.key`."""
    from minigpt.config import Config

    kind = Config.model_fields[section].annotation if section else Config
    return _keys(section, kind, "")


def _keys(section: str, kind: Any, prefix: str) -> list[Key]:
    found = []
    for name, field in kind.model_fields.items():
        if not _is_section(field.annotation):
            default = field.get_default(call_default_factory=True)
            found.append(Key(section, prefix + name, default, allowed(field), field.description or ""))
        elif section:
            found += _keys(section, field.annotation, f"{prefix}{name}.")
    return found


def _is_section(kind: Any) -> bool:
    return hasattr(kind, "model_fields")


def allowed(field: Any) -> str:
    """What a field takes, in words: its choices, or its kind and bounds."""
    if get_origin(field.annotation) is Literal:
        return " | ".join(str(choice) for choice in get_args(field.annotation))
    if field.annotation is bool:
        return "true | false"
    kinds = {int: "whole number", float: "number", str: "text"}
    kinds |= {list[str]: "list of texts", list[float]: "list of numbers"}
    kind = kinds.get(field.annotation, "")
    found = [f"{sign} {getattr(one, name)}" for one in field.metadata for name, sign in BOUNDS.items()
             if getattr(one, name, None) is not None]  # fmt: skip
    return ", ".join([" ".join([kind, *found[:1]]).strip(), *found[1:]])


def known_as(name: str) -> list[str]:
    """`section.key` of each key that is called `name` here or elsewhere; [] when there is none."""
    name = name.strip("-").replace("-", "_").lower()
    name = OTHER_NAMES.get(name, name)
    return [f"{section}.{name}" for section in sections() for key in keys_of(section) if section and key.name == name]


def refuse_other_names(sets: Sequence[str]) -> None:
    """Raises UsageError, with the right name, for a setting whose key has its name in other programs."""
    for one in sets:
        section, _, name = one.partition("=")[0].strip().rpartition(".")
        right = OTHER_NAMES.get(name)
        if right and section in sections() and not any(key.name == name for key in keys_of(section)):
            near = f"{section}.{right}" if section else " or ".join(known_as(name))
            raise UsageError(f"unknown key {one.partition('=')[0].strip()} (did you mean {near}?), in --set {one}.")
