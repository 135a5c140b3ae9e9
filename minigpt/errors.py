"""The one exception a user may see: what happened, where, and what to do next."""

RUNTIME, USAGE, DATA, RESOURCES, CORRUPT, INTERRUPTED = 1, 2, 3, 4, 5, 130


class MiniGPTError(Exception):
    """A mistake the user can mend. `hint` says what to do; `exit_code` is what the process returns."""

    exit_code = RUNTIME

    def __init__(self, message: str, hint: str = ""):
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class UsageError(MiniGPTError):
    """A wrong flag, file name or configuration value."""

    exit_code = USAGE


class DataError(MiniGPTError):
    """Unusable training data; the message names `file:line`."""

    exit_code = DATA


class ResourceError(MiniGPTError):
    """The machine has too little memory, disk or time for what was asked."""

    exit_code = RESOURCES


class CheckpointError(MiniGPTError):
    """A checkpoint that is incomplete or does not match its checksums."""

    exit_code = CORRUPT
