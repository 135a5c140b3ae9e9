"""The commands that use a model: generate, chat and evaluate."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from minigpt.cli import common, flags
from minigpt.cli.speculating import check_speculation, speculation_of, tell_speculation
from minigpt.errors import DataError, UsageError

if TYPE_CHECKING:
    from minigpt.generate.engine import Answer, Engine
    from minigpt.generate.sampling import Sampling
    from minigpt.generate.speculate import Speculation


def generate(
    run: flags.RunArgument = None,
    run_option: flags.RunOption = None,
    prompt: flags.Prompt = None,
    prompts: flags.Prompts = None,
    stage: flags.StageOption = None,
    max_tokens: flags.MaxTokens = 128,
    temperature: flags.Temperature = 0.8,
    top_k: flags.TopK = 0,
    top_p: flags.TopP = 1.0,
    min_p: flags.MinP = 0.05,
    repetition_penalty: flags.Penalty = 1.0,
    seed: flags.Seed = None,
    samples: flags.Samples = 1,
    chat: flags.AsChat = False,
    bits: flags.Bits = 0,
    kv_bits: flags.KVBits = 0,
    draft: flags.Draft = None,
    lookup: flags.Lookup = False,
    guesses: flags.Guesses = 8,
    backend: flags.BackendName = "auto",
    device: flags.Device = "auto",
    json: flags.AsJson = False,
) -> None:
    """Continue a text, or answer one message with --chat.

    Without a prompt the text begins from nothing.
    """
    from minigpt.cli import console
    from minigpt.generate.sampling import Sampling, with_seeds

    if prompt is not None and prompts is not None:
        raise UsageError("--prompt and --prompts exclude each other.", "Give one of them.")
    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty, seed or 0)
    texts = _prompts(prompt, prompts)
    if chat and not all(text.strip() for text in texts):
        raise UsageError("The message is empty.", "Give it with --prompt.")
    check_speculation(draft, lookup, len(texts) * samples)
    engine, _ = common.engine_at(common.either(run, run_option), stage, backend, device, bits, kv_bits)
    speculation = speculation_of(engine, draft, lookup, guesses)
    ids = [_prompt_ids(engine, text, chat) for text in texts]
    if one := len(ids) == samples == 1:
        if not json:
            console.write("" if chat else texts[0])
        answers = [_stream(engine, ids[0], sampling, max_tokens, speculation, write=not json)]
    else:
        answers = engine.answer_each(
            [prompt for prompt in ids for _ in range(samples)], with_seeds(sampling, samples) * len(ids), max_tokens
        )
    tell_speculation(speculation)
    rows = [
        {"prompt": texts[i // samples], "answer": answer.text, "tokens": len(answer.ids), "reason": answer.reason}
        for i, answer in enumerate(answers)
    ]
    if json:
        console.print_json(rows)
    elif not one:
        for row in rows:
            console.write(f"{'' if chat else row['prompt']}{row['answer']}\n\n")


def chat(
    run: flags.RunArgument = None,
    run_option: flags.RunOption = None,
    stage: flags.StageOption = None,
    system: flags.System = None,
    max_tokens: flags.MaxTokens = 128,
    temperature: flags.Temperature = 0.0,
    top_k: flags.TopK = 0,
    top_p: flags.TopP = 1.0,
    min_p: flags.MinP = 0.05,
    repetition_penalty: flags.Penalty = 1.0,
    seed: flags.Seed = None,
    bits: flags.Bits = 0,
    kv_bits: flags.KVBits = 0,
    draft: flags.Draft = None,
    lookup: flags.Lookup = False,
    guesses: flags.Guesses = 8,
    backend: flags.BackendName = "auto",
    device: flags.Device = "auto",
) -> None:
    """Talk to a model.

    /reset forgets the conversation, /exit or the end of the input ends it.
    """
    from minigpt.cli import console
    from minigpt.generate.engine import chat_prompt
    from minigpt.generate.sampling import Sampling
    from minigpt.stages.table import answers

    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty, seed or 0)
    check_speculation(draft, lookup)
    opening = [{"role": "system", "content": common.valid(system, "--system")}] if system else []
    engine, stage = common.engine_at(common.either(run, run_option), stage, backend, device, bits, kv_bits)
    speculation = speculation_of(engine, draft, lookup, guesses)
    if not answers(stage) and engine.tokenizer.kind != "imported":
        console.note("This model is only pretrained: it continues texts, it was not taught to answer.")
    console.note("/reset forgets the conversation, /exit ends it.")
    messages = list(opening)
    while (text := console.ask("you> ")) is not None:
        if text in ("/exit", "/quit"):
            break
        if text == "/reset":
            messages = list(opening)
            continue
        if not text.strip():
            continue
        try:
            common.valid(text, "your message")
        except DataError as error:
            console.note(str(error))
            continue
        messages.append({"role": "user", "content": text})
        context = engine.model.config.context
        ids, dropped = chat_prompt(engine.tokenizer, messages, context, min(max_tokens, 64))
        if len(ids) >= context:
            console.note(f"That message has {len(ids)} tokens; the model sees {context}. Shorten it.")
            messages.pop()
            continue
        if dropped:
            console.note(f"(The context is full: the oldest {dropped} messages are forgotten.)")
        answer = _stream(engine, ids, sampling, max_tokens, speculation)
        messages.append({"role": "assistant", "content": answer.text})
    tell_speculation(speculation)


def evaluate(
    run: flags.RunArgument = None,
    run_option: flags.RunOption = None,
    stage: flags.StageOption = None,
    data: flags.Data = None,
    rows: flags.Rows = None,
    tests: flags.Tests = 300,
    bits: flags.Bits = 0,
    backend: flags.BackendName = "auto",
    device: flags.Device = "auto",
    json: flags.AsJson = False,
) -> None:
    """Measure a model on held-out data.

    Loss (nats per token), perplexity and bits per byte; after DPO how often the chosen answer is the likelier
    one; exact match for a model of the built-in world. With --data these files are measured instead.
    """
    from minigpt.cli import console, tables
    from minigpt.evaluate.report import evaluate_run

    opened, stage = common.open_at(common.either(run, run_option), stage)
    framework = common.backend_of(backend, device)
    result = evaluate_run(opened, stage, framework, data or [], rows, tests, bits, lambda e: console.note(e.text))
    if json:
        console.print_json(result)
    else:
        tables.show_evaluation(result)


def _prompts(prompt: str | None, file: Path | None) -> list[str]:
    if file is None:
        return [common.valid(sys.stdin.read(), "stdin") if prompt == "-" else common.valid(prompt or "", "--prompt")]
    try:
        text = file.read_text("utf-8-sig", "surrogateescape")
    except OSError as error:
        message = f"The prompts in {file} cannot be read: {error.strerror}."
        raise UsageError(message, "Check the path given to --prompts.") from None
    lines = [common.valid(line, f"{file}:{number}") for number, line in enumerate(text.split("\n"), 1)]
    if not any(lines):
        raise UsageError(f"{file} has no prompts.", "Write one per line.")
    return [line for line in lines if line]


def _prompt_ids(engine: "Engine", text: str, chat: bool) -> list[int]:
    from minigpt.generate.engine import chat_prompt

    if chat:
        messages = [{"role": "user", "content": text}]
        return chat_prompt(engine.tokenizer, messages, engine.model.config.context, 0)[0]
    return engine.tokenizer.prompt(text)


def _stream(
    engine: "Engine", ids: list[int], sampling: "Sampling", max_tokens: int, speculation: "Speculation | None",
    write: bool = True,
) -> "Answer":  # fmt: skip
    """An answer, printed while it is made if `write` says so."""
    from minigpt.cli import console

    began = time.perf_counter()
    answer = engine.streamed(ids, sampling, max_tokens, speculation, console.write if write else str)
    if write:
        console.write("\n")
    if speculation is not None:
        speculation.seconds += time.perf_counter() - began
    return answer
