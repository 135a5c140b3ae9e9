"""minigpt inspect: what happens inside a model when it reads a prompt."""

from pathlib import Path
from typing import Annotated

import typer

from minigpt.cli import flags, opening
from minigpt.cli.command import command
from minigpt.cli.language import Language, language
from minigpt.errors import UsageError

Prompt = Annotated[str, typer.Option("--prompt", "-p", metavar="TEXT", help="The text that the model reads.")]
AsChat = Annotated[bool, typer.Option("--chat", help="Treat the prompt as a user's message.")]
Layer = Annotated[
    int | None, typer.Option("--layer", metavar="N", min=1, help="Whose attention is shown. Default: the last.")
]
HtmlOut = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write everything as a page.")]


@command('minigpt inspect runs/demo --prompt "The cat"', 'minigpt inspect -p "The cat" --html inside.html')
def inspect(
    prompt: Prompt,
    chosen: flags.Chosen,
    where: flags.Where,
    chat: AsChat = False,
    layer: Layer = None,
    html: HtmlOut = None,
    lang: Language = None,
    json: flags.AsJson = False,
) -> None:
    """Look inside a model.

    Attention per layer and head, the logit lens, probabilities of tokens, neighbours of embeddings.
    """
    from minigpt.cli import console, tables
    from minigpt.store.durable import write_whole
    from minigpt.text.chatml import render
    from minigpt.watch.inside import look_inside
    from minigpt.watch.inside_page import blocks_of, inside_page, share, visible

    lang = language(lang)
    text = opening.valid(prompt, "--prompt")
    engine, stage = opening.engine_at(chosen.path, chosen.stage, where, flags.Faster())
    layers = engine.model.config.depth
    if layer is not None and layer > layers:
        raise UsageError(f"There is no layer {layer}.", f"The model has {layers}.")
    tokenizer = engine.tokenizer
    ids = tokenizer.prompt(text)
    if chat:
        ids = render(tokenizer, [{"role": "user", "content": text}], generation_prompt=True)[0]
    found = look_inside(engine, ids)
    if html is not None:
        write_whole(html, inside_page(found, text[:80], lang))
        console.note(f"Page: {html}")
    if json:
        console.print_json(found.as_dict())
        return
    rows = [[visible(token), share(p), "█" * round(40 * p)] for token, p in found.following]
    tables.table("The likeliest next tokens", ["token", "probability", ""], rows, (0, 2))
    lens = [["embeddings" if n == 0 else str(n), *(f"{visible(t)} {p:.2f}" for t, p in row[-4:])]
            for n, row in enumerate(found.lens)]  # fmt: skip
    places = [visible(token) for token in found.tokens[-4:]]
    tables.table("Logit lens: the likeliest next token after each layer", ["layer", *places], lens)
    shown = layer or layers
    console.write(f"Attention in layer {shown} of {layers}: rows are tokens, columns what they look at\n")
    console.write("\n".join(blocks_of(found, shown - 1, console.out.width)) + "\n")
    near = [[visible(token), "  ".join(f"{visible(t)} {c:.2f}" for t, c in rest)] for token, rest
            in found.neighbours.items()]  # fmt: skip
    tables.table("Nearest tokens by embedding (cosine)", ["token", ""], near, (0, 1))
