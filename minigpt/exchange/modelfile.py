"""A Modelfile, with which `ollama create NAME -f Modelfile` takes a GGUF file as it is."""

from minigpt.tokenizer import END_OF_TEXT, IM_END, SPECIALS

# ChatML in Go's template language. Unlike our own renderings it cannot tell the name of a special token that a user
# wrote from the token itself.
TEMPLATE = """{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""


def modelfile(file: str, context: int) -> str:
    """The text of a Modelfile for a GGUF `file` beside it, for a model that sees `context` tokens."""
    stops = "".join(f'PARAMETER stop "{SPECIALS[token]}"\n' for token in (IM_END, END_OF_TEXT))
    return f'FROM ./{file}\nTEMPLATE """{TEMPLATE}"""\n{stops}PARAMETER num_ctx {context}\n'
