"""Commands that train many runs: what a signal leaves."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from minigpt.errors import Interrupted


@contextmanager
def many_runs(directory: Path) -> Iterator[None]:
    """In the block Ctrl-C, SIGTERM and SIGHUP end with a sentence that says what is kept in `directory`.

    Raises Interrupted; whoever runs the trials has asked those under way to save and stop by then.
    """
    from minigpt.train.stop import Stop

    try:
        with Stop():
            yield
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"Stopped. The finished runs are kept in {directory}; those under way have saved what they have done.",
            "",
            getattr(error, "number", signal.SIGINT),
        ) from None
