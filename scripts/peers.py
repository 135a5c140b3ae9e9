#!/usr/bin/env python
"""Shows that other programs open what minigpt exports, with their own commands, and compute the same.

    python scripts/peers.py                     everything, a few minutes on two cores
    python scripts/peers.py --only tokens,server
    python scripts/peers.py --scale 0.1         a tenth of the texts and conversations

Prints what was compared, how often it was the same and each difference; exits with 1 when there is one. Run it in
the environment that scripts/test makes.
"""

import argparse
import json
import os
import platform
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
os.environ.setdefault("MLX_DISABLE_COMPILE", "1")  # on CPUs it runs a C++ compiler for each kernel: minutes
os.environ.setdefault("OMP_NUM_THREADS", "1")  # a tiny model: more threads only wait for each other
from exchange import llama, mlx_commands, tokens
from ordeals.ordeal import campaign, known, show

# name -> function(directory to work in, share of the full counts) -> outcomes
CHECKS = {
    "tokens": tokens.same_tokens,
    "llama": llama.read_gguf,
    "generate": mlx_commands.generate,
    "server": mlx_commands.server,
    "lora": mlx_commands.lora_and_fuse,
}
PACKAGES = ("transformers", "tokenizers", "mlx-lm", "mlx", "torch", "gguf", "xllamacpp")


def main() -> int:
    arguments = _arguments()
    outcomes = campaign(
        arguments.only, lambda name, directory: CHECKS[name](directory, arguments.scale), "peers", "different"
    )
    if arguments.json:
        print(json.dumps([vars(outcome) for outcome in outcomes], indent=1))
    else:
        show(outcomes, "Peers", ["what was compared", "compared", "the same", "different", "note"], "different")
        packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES if find_spec(name.replace("-", "_")))
        print(f"{platform.platform()}, Python {platform.python_version()}, {packages}")
    return 1 if any(outcome.lost for outcome in outcomes) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(CHECKS), metavar="NAMES", help=f"of {', '.join(CHECKS)}")
    parser.add_argument("--scale", type=float, default=1.0, metavar="X", help="share of the full number of texts")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    arguments.only = known(arguments.only, CHECKS, parser)
    return arguments


if __name__ == "__main__":
    sys.exit(main())
