# Sourced by the other scripts: makes .venv in the checkout with the packages for this platform, once.
# After it, `python` and `minigpt` are those of .venv. Give the extras to install: setup_environment "test".

setup_environment() {
    local extras="$1" root stamp wanted
    root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
    cd "$root" || exit 1
    stamp=".venv/.minigpt-installed"
    wanted="$extras $(cksum < pyproject.toml)"
    if [ ! -f "$stamp" ] || ! grep -qxF -- "$wanted" "$stamp"; then
        if command -v uv > /dev/null; then
            make_with_uv "$extras"
        else
            make_with_pip "$extras"
        fi
        echo "$wanted" >> "$stamp"
    fi
    export PATH="$root/.venv/bin:$PATH"
}

make_with_uv() {
    [ -d .venv ] || uv venv --quiet --python '>=3.11' .venv
    local torch_build=()
    [ "$(uname -s)" = Linux ] && torch_build=(--torch-backend auto)
    uv pip install --quiet --python .venv/bin/python "${torch_build[@]}" -e ".${1:+[$1]}"
}

make_with_pip() {
    local python
    python="$(find_python)" || exit 1
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    # One fixed torch on Linux, so that a CPU build that the machine offers is taken and a later one never replaces it.
    if [ "$(uname -s)" = Linux ]; then
        .venv/bin/pip install --quiet --disable-pip-version-check 'torch==2.13.*'
    fi
    .venv/bin/pip install --quiet --disable-pip-version-check -e ".${1:+[$1]}"
}

find_python() {
    local candidate
    for candidate in python3.13 python3.12 python3.11 python3 python; do
        if command -v "$candidate" > /dev/null &&
            "$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "MiniGPT needs Python 3.11 or newer with venv. Install it, or uv, and try again." >&2
    return 1
}
