"""`python -m backends.torch.launch …`: torchrun without its own report of a process that failed.

Each process has told its user what is wrong; torchrun would print a traceback of its own after that.
"""

import logging


def main() -> int:
    """torchrun with the arguments of this process; returns an exit code."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.disable(logging.CRITICAL)
    try:
        run.main()
    except ChildFailedError as failed:
        return next(iter(failed.failures.values())).exitcode or 1
    except SignalException as stopped:
        return 128 + stopped.sigval
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
