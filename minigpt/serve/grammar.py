"""From a JSON schema to what the engine holds an answer to."""

import json
from typing import Any

from minigpt.errors import UsageError
from minigpt.generate.request import Constraint
from minigpt.text.tokenizer import Tokenizer

LARGEST = 65_536  # characters of a schema: reading one takes time that others wait for


def grammar_of(tokenizer: Tokenizer, schema: dict[str, Any]) -> Constraint:
    """Answers must be JSON of that schema. Raises UsageError for a schema that is none, or too large."""
    from minigpt.generate.constraint import json_schema

    if len(json.dumps(schema)) > LARGEST:
        raise UsageError(f"The JSON schema is larger than {LARGEST:,} characters.")
    return json_schema(tokenizer, schema)
