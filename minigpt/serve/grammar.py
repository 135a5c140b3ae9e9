"""From a JSON schema to what the engine holds an answer to."""

from functools import lru_cache
from typing import Any

from minigpt.generate.request import Constraint
from minigpt.text.tokenizer import Tokenizer


def grammar_of(tokenizer: Tokenizer, schema: dict[str, Any]) -> Constraint:
    """Answers must be JSON of that schema. Raises MiniGPTError for a schema that is none."""
    from minigpt.generate.constraint import json_schema

    return json_schema(tokenizer, schema)
