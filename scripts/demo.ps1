# Sets up a bare Windows machine and trains a small model from nothing: tokenizer -> pretrain -> SFT -> DPO.
#   powershell -ExecutionPolicy Bypass -File scripts\demo.ps1 [the flags of minigpt demo]
$ErrorActionPreference = "Stop"
$root = Split-Path -Parent $PSScriptRoot
$venv = Join-Path $root ".venv"
$python = Join-Path $venv "Scripts\python.exe"
$stamp = Join-Path $venv ".minigpt-installed"
$wanted = (Get-FileHash (Join-Path $root "pyproject.toml")).Hash

function Stop-OnError($what) {
    if ($LASTEXITCODE -ne 0) {
        [Console]::Error.WriteLine("minigpt: $what failed with exit code $LASTEXITCODE.")
        exit $LASTEXITCODE
    }
}

function Find-Python {
    foreach ($candidate in @(@("py", "-3"), @("python"), @("python3"))) {
        $command, $arguments = $candidate
        if (-not (Get-Command $command -ErrorAction SilentlyContinue)) { continue }
        & $command @arguments -c "import sys, venv; sys.exit(sys.version_info < (3, 11) or sys.maxsize < 2**32)" 2>$null
        if ($LASTEXITCODE -eq 0) { return ,$candidate }
    }
    [Console]::Error.WriteLine("minigpt: a 64-bit Python 3.11 or newer is needed (https://www.python.org/downloads/).")
    exit 1
}

if (-not (Test-Path $stamp) -or (Get-Content $stamp -Raw).Trim() -ne $wanted) {
    if (-not (Test-Path $python)) {
        $command, $arguments = Find-Python
        & $command @arguments -m venv $venv
        Stop-OnError "Making .venv"
    }
    & $python -m pip install --quiet --disable-pip-version-check -e $root
    Stop-OnError "Installing MiniGPT"
    Set-Content -Path $stamp -Value $wanted
}
& $python -m minigpt demo @args
exit $LASTEXITCODE
