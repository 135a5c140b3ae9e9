#!/usr/bin/env bash
# The Mac's one command: checks that MLX can run here, then does what scripts/demo does.
set -euo pipefail
if [ "$(uname -s)" != Darwin ]; then
    echo "This is not a Mac: use scripts/demo." >&2
    exit 2
fi
if [ "$(sysctl -n hw.optional.arm64 2> /dev/null || echo 0)" != 1 ]; then
    echo "This Mac has an Intel processor, which MLX does not support: MiniGPT will use PyTorch on the CPU." >&2
elif [ "$(uname -m)" != arm64 ]; then
    echo "This shell runs under Rosetta (x86): open a native arm64 Terminal and try again, or MLX cannot be installed." >&2
    exit 2
elif [ "$(sw_vers -productVersion | cut -d. -f1)" -lt 14 ]; then
    echo "MLX needs macOS 14 or newer; this is $(sw_vers -productVersion)." >&2
    exit 2
fi
# caffeinate keeps the Mac awake until the demo has ended.
exec caffeinate -i "$(dirname "$0")/demo" "$@"
