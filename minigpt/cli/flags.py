"""The flags and arguments of the commands: their names, types and help, each written once."""

from pathlib import Path
from typing import Annotated

import typer

Preset = Annotated[
    str | None,
    typer.Option(
        "--preset", metavar="NAME", help="tiny, small, medium, or auto: what fits. Default: the run's own, else tiny."
    ),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="A TOML file with values that replace the preset's.")
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="One value, such as pretrain.steps=200. Repeatable."),
]
BackendName = Annotated[str, typer.Option("--backend", metavar="NAME", help="auto, mlx or torch.")]
Device = Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu or gpu.")]
RunDirectory = Annotated[Path, typer.Option("--run", metavar="DIR", help="The run directory.")]
RunArgument = Annotated[
    Path | None,
    typer.Argument(metavar="RUN", help="A run directory, or one of its stages. Default: the newest in runs/."),
]
RunOption = Annotated[Path | None, typer.Option("--run", metavar="DIR", help="The same as RUN.")]
StageOption = Annotated[
    str | None, typer.Option("--stage", metavar="STAGE", help="pretrain, sft or dpo. Default: the last finished.")
]
Data = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        metavar="SOURCE",
        help="A file, directory, glob or name (world, python-docs, tinyshakespeare, …). Repeatable.",
    ),
]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", min=0, help="The seed of everything random.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts on stdout.")]
PlanPreset = Annotated[
    str, typer.Option("--preset", metavar="NAME", help="tiny, small, medium, all, or auto: the largest that fits.")
]
PlanStages = Annotated[
    str | None, typer.Option("--stages", metavar="NAMES", help="Such as pretrain,sft. Default: those of a whole run.")
]
Time = Annotated[
    str | None, typer.Option("--time", metavar="TIME", help="What training may take in all, such as 20m or 1h30m.")
]
Share = Annotated[bool, typer.Option("--share", help="Print a block to paste, without personal data.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave bad rows out and count them instead of stopping.")]
MaxTokens = Annotated[int, typer.Option("--max-tokens", metavar="N", min=1, help="Longest answer.")]
Temperature = Annotated[float, typer.Option("--temperature", metavar="T", help="0 always takes the likeliest token.")]
TopK = Annotated[int, typer.Option("--top-k", metavar="K", help="Keep the K likeliest tokens; 0 keeps all.")]
TopP = Annotated[float, typer.Option("--top-p", metavar="P", help="Keep the likeliest tokens that together reach P.")]
MinP = Annotated[
    float,
    typer.Option("--min-p", metavar="P", help="Drop tokens below this share of the likeliest one's probability."),
]
Penalty = Annotated[
    float, typer.Option("--repetition-penalty", metavar="X", help="Above 1: tokens of the text so far get rarer.")
]
Bits = Annotated[
    int, typer.Option("--bits", metavar="N", help="4 or 8: use the weights in so many bits (see minigpt quantize).")
]
KVBits = Annotated[
    int, typer.Option("--kv-bits", metavar="N", help="4 or 8: keep keys and values in so many bits while answering.")
]
Draft = Annotated[
    Path | None,
    typer.Option("--draft", metavar="RUN", help="A smaller model with the same tokenizer, to guess tokens ahead."),
]
Lookup = Annotated[bool, typer.Option("--lookup", help="Guess tokens ahead from what stood in the text before.")]
Guesses = Annotated[
    int, typer.Option("--guesses", metavar="N", min=1, help="With --draft or --lookup: most guesses at a time.")
]
IntoBits = Annotated[int, typer.Option("--bits", metavar="N", help="4 or 8.")]
GroupSize = Annotated[
    int,
    typer.Option("--group-size", metavar="N", help="32 or 64 numbers share a scale. Default: 64 where that divides."),
]
Method = Annotated[
    str, typer.Option("--method", metavar="NAME", help="plain, or gptq, which makes up for its own errors.")
]
Stage = Annotated[str, typer.Argument(metavar="STAGE", help="pretrain, sft or dpo.")]
Prompt = Annotated[
    str | None, typer.Option("--prompt", "-p", metavar="TEXT", help="The text to continue; - reads stdin.")
]
Prompts = Annotated[Path | None, typer.Option("--prompts", metavar="FILE", help="A file with one prompt per line.")]
Samples = Annotated[
    int, typer.Option("--samples", metavar="N", min=1, help="Answers per prompt, with different seeds.")
]
AsChat = Annotated[bool, typer.Option("--chat", help="Treat the prompt as a user's message.")]
System = Annotated[str | None, typer.Option("--system", metavar="TEXT", help="A system message.")]
Rows = Annotated[int | None, typer.Option("--rows", metavar="N", min=1, help="Only so many rows, spread evenly.")]
Tests = Annotated[int, typer.Option("--tests", metavar="N", min=1, help="Questions per test of the built-in world.")]
Files = Annotated[list[str], typer.Argument(metavar="FILE…", help="Files, directories, globs or names.")]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="The directory to write.")]
Kind = Annotated[str, typer.Option("--kind", metavar="KIND", help="bpe, char or byte.")]
VocabSize = Annotated[
    int, typer.Option("--vocab-size", metavar="N", min=300, help="Tokens, with special tokens and bytes.")
]
TextArgument = Annotated[str, typer.Argument(metavar="TEXT", help="A text to split; - reads stdin.")]
TokenizerRun = Annotated[
    Path | None, typer.Option("--run", metavar="DIR", help="A run or tokenizer directory. Default: the newest run.")
]
CheckedStage = Annotated[
    str | None, typer.Option("--stage", metavar="STAGE", help="pretrain, sft or dpo. Default: what the rows fit.")
]
CheckedRun = Annotated[
    Path | None, typer.Option("--run", metavar="DIR", help="A run whose tokenizer and settings are used.")
]
Backends = Annotated[str, typer.Option("--backends", metavar="NAMES", help="Which; each is compared with NumPy, too.")]
Quick = Annotated[bool, typer.Option("--quick", help="Leave out the 20-step training trajectories.")]
Supervise = Annotated[
    bool,
    typer.Option(
        "--supervise/--no-supervise", help="Train in a process of its own that is started again when it dies."
    ),
]
Restarts = Annotated[int, typer.Option("--restarts", metavar="N", min=0, help="How often, at most.")]
AllowChanges = Annotated[
    bool, typer.Option("--allow-changes", help="Let a trained stage go on with other training settings.")
]
ExportTo = Annotated[
    str,
    typer.Option(
        "--to",
        metavar="FORMAT",
        help="hf (Hugging Face), mlx (mlx-lm) or gguf (llama.cpp, ollama); peft or mlx-adapter: an adapter alone.",
    ),
]
ExportOut = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="PATH", help="A directory, or with gguf a .gguf file. Default: RUN/export/FORMAT."
    ),
]
ExportDtype = Annotated[
    str,
    typer.Option(
        "--dtype", metavar="NAME", help="float32, float16, bfloat16; mlx also int8 and int4, gguf q8_0 and q4_0."
    ),
]
MaxCPU = Annotated[
    str | None,
    typer.Option("--max-cpu", metavar="PERCENT", help="Share of all cores that training may use on average."),
]
MaxMemory = Annotated[
    str | None,
    typer.Option("--max-memory", metavar="LIMIT", help="Most memory: a size like 4GB, or a share like 50%."),
]
Power = Annotated[
    str | None,
    typer.Option(
        "--power",
        metavar="LEVEL",
        help="quiet (half of the CPU), balanced (others go first) or full. Default: quiet on battery, else balanced.",
    ),
]
Source = Annotated[Path, typer.Argument(metavar="DIR", help="A Hugging Face directory: config.json, safetensors, …")]
NewRun = Annotated[
    Path | None, typer.Option("--run", metavar="DIR", help="The run to make. Default: runs/ and the directory's name.")
]
AdapterStage = Annotated[
    str | None, typer.Option("--stage", metavar="STAGE", help="What an adapter becomes. Default: sft.")
]
Context = Annotated[
    int | None,
    typer.Option("--context", metavar="N", min=2, help="Tokens per training row. Default: the model's, at most 2048."),
]
Verify = Annotated[
    bool, typer.Option("--verify/--no-verify", help="Let the tools that are installed read it again and compare.")
]
Version = Annotated[bool, typer.Option("--version", help="Print the version.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the full traceback of an error.")]
