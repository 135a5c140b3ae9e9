"""Writing an export or an import: room on the disk first, and what the disk refuses in one sentence."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from minigpt.errors import ResourceError, UsageError
from minigpt.store.checkpoint import check_room


@contextmanager
def writing(out: Path, size: int, what: str = "export", flag: str = "--out") -> Iterator[None]:
    """A block that writes about `size` bytes to `out`, a `what` whose place the user chooses with `flag`.

    Raises ResourceError when the disk is or becomes full, UsageError when nothing can be written there.
    """
    try:
        check_room(out, size, what, f"choose another {flag}.")
        out.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        message = f"The {what} {out} could not be written: {error.strerror or error}."
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceError(message, f"Free some space or choose another {flag}.") from None
        raise UsageError(message, f"Choose another {flag}, or change what is there.") from None
