"""Keys and values of texts that were read before, for prompts that begin like them.

A radix tree (Zheng et al. 2023, SGLang): an edge is a stretch of tokens with its keys and values; texts that begin
alike share the stretches up to where they part. When the memory is full, the ends of the texts that were used least
recently go first.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from backends.base import Array, Backend

Piece = list[Array]  # keys and values of all layers, (1, K, tokens, …) each
LEAST = 8  # tokens that are worth an entry of their own


@dataclass(eq=False)
class Stretch:
    """Tokens that follow each other in all texts that have them, and what follows them."""

    tokens: list[int]
    piece: Piece
    used: int
    parent: "Stretch | None" = None
    followers: dict[int, "Stretch"] = field(default_factory=dict)  # by their first token


Stretches = list[tuple[Stretch, int]]  # stretches from the tree's root on, each with the number of tokens that agree


@dataclass(frozen=True)
class Beginning:
    """The longest known beginning of a text of `asked` tokens: the stretches that it runs through."""

    path: Stretches
    asked: int

    @property
    def length(self) -> int:
        """How many tokens are known."""
        return sum(same for _, same in self.path)


NOTHING = Beginning([], 0)


class Prefixes:
    """The beginnings that are known, in at most `limit` bytes."""

    def __init__(self, backend: Backend, limit: int):
        self.backend, self.limit = backend, limit
        self.bytes = 0
        self.queries = self.hits = 0  # tokens of prompts that were looked up, and of those the known ones
        self._root = Stretch([], [], 0)
        self._clock = 0

    def find(self, tokens: list[int]) -> Beginning:
        """What is known of the beginning of `tokens`. Asking alone changes nothing; `use` counts."""
        return Beginning(list(self._path(tokens)), len(tokens))

    def use(self, found: Beginning, unit: int = 1) -> list[tuple[Piece, int]]:
        """(piece, how many of its tokens count) of what was found, in order; no text was kept since.

        In all they are a multiple of `unit` tokens.
        """
        self._touch(found.path)
        pieces, left = [], found.length // unit * unit
        self.queries += found.asked
        self.hits += left
        for stretch, same in found.path:
            pieces.append((stretch.piece, min(same, left)))
            left -= min(same, left)
        return [(piece, count) for piece, count in pieces if count]

    def keep(self, tokens: list[int], cut: Callable[[int, int], Piece], token_bytes: int) -> None:
        """Keep a text; cut(start, stop) has the keys and values of its tokens, `token_bytes` large each."""
        path, end = list(self._path(tokens)), self._root
        self._touch(path)
        known = sum(same for _, same in path)
        if len(tokens) - known < LEAST or len(tokens) * token_bytes > self.limit:
            return
        if path:
            end, same = path[-1]
            if same < len(end.tokens):
                self._part(end, same)
        piece = cut(known, len(tokens))
        self.backend.sync(piece)
        end.followers[tokens[known]] = Stretch(tokens[known:], piece, self._clock, end)
        self.bytes += (len(tokens) - known) * token_bytes
        while self.bytes > self.limit:
            self._forget(token_bytes)

    def _path(self, tokens: list[int]) -> Iterator[tuple[Stretch, int]]:
        """The stretches from the beginning of `tokens` on, each with the number of tokens that agree."""
        at, place = self._root, 0
        while place < len(tokens) and (following := at.followers.get(tokens[place])) is not None:
            at = following
            same = agreeing(at.tokens, tokens[place : place + len(at.tokens)])
            yield at, same
            place += same
            if same < len(at.tokens):
                return

    def _touch(self, path: Stretches) -> None:
        """These stretches are the ones that were used last."""
        self._clock += 1
        for stretch, _ in path:
            stretch.used = self._clock

    def _part(self, stretch: Stretch, place: int) -> None:
        """Make two stretches of one, at a place within it."""
        rest = Stretch(stretch.tokens[place:], self._sliced(stretch.piece, place, None), stretch.used, stretch)
        rest.followers = stretch.followers
        for follower in rest.followers.values():
            follower.parent = rest
        stretch.piece = self._sliced(stretch.piece, 0, place)
        stretch.tokens = stretch.tokens[:place]
        stretch.followers = {rest.tokens[0]: rest}
        self.backend.sync(rest.piece, stretch.piece)

    def _sliced(self, piece: Piece, start: int, stop: int | None) -> Piece:
        first = self.backend.arange(0, 1)  # taking copies: a slice would keep the whole array
        return [self.backend.take(x[:, :, start:stop], first) for x in piece]

    def _forget(self, token_bytes: int) -> None:
        """Give up the end of a text that was used least recently."""
        oldest = min((one for one in self._all() if not one.followers), key=lambda one: one.used)
        del oldest.parent.followers[oldest.tokens[0]]
        self.bytes -= len(oldest.tokens) * token_bytes

    def _all(self) -> Iterator[Stretch]:
        waiting = list(self._root.followers.values())
        while waiting:
            waiting.extend((one := waiting.pop()).followers.values())
            yield one


def agreeing(a: list[int], b: list[int]) -> int:
    """How many tokens both begin with."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
