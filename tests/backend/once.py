"""Which backend a test runs on, where it need not run on each.

A fact of code that no backend has a part in is tested on the quicker one. Where a test has several cases, and the
backend and the case have nothing to do with each other, the backends take turns.
"""

import itertools

import pytest

from backends import BACKENDS

once = pytest.mark.parametrize("backend", ["torch"], indirect=True)


def by_turns(names, cases, ids=None):
    """A mark: the backend and the case, which the backends take in turn."""
    turns = [(name, *(case if "," in names else (case,)))
             for name, case in zip(itertools.cycle(BACKENDS), cases, strict=False)]  # fmt: skip
    named = None if ids is None else [f"{turn[0]}-{name}" for turn, name in zip(turns, ids, strict=True)]
    return pytest.mark.parametrize(("backend", *names.split(",")), turns, indirect=["backend"], ids=named)
