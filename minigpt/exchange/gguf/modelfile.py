"""A Modelfile, with which `ollama create NAME -f Modelfile` takes a GGUF file as it is."""

from minigpt.text.tokenizer import END_OF_TEXT, IM_END, SPECIALS

# ChatML in Go's template language. Unlike our own renderings it cannot tell the name of a special token that a user
# wrote from the token itself.
TEMPLATE = """{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""


def modelfile(file: str, context: int, ours: bool = True) -> str:
    """The text of a Modelfile for a GGUF `file` beside it, for a model that sees `context` tokens.

    Of a tokenizer that is not `ours` ollama takes the template and the end from the GGUF file.
    """
    if not ours:
        return f"FROM ./{file}\nPARAMETER num_ctx {context}\n"
    stops = "".join(f'PARAMETER stop "{SPECIALS[token]}"\n' for token in (IM_END, END_OF_TEXT))
    return f'FROM ./{file}\nTEMPLATE """{TEMPLATE}"""\n{stops}PARAMETER num_ctx {context}\n'
