"""From bytes to text while an answer is made: whole characters only, and nothing of a stop text."""

import codecs
from collections.abc import Sequence


class Pieces:
    """The text of one answer in pieces. What may become one of `stops` is held back until it is clear."""

    def __init__(self, stops: Sequence[str] = ()):
        self.stops = [stop for stop in stops if stop]
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""  # whole characters that may begin a stop text

    def add(self, some: bytes) -> tuple[str, str | None]:
        """(text that has become whole, the stop text that ends the answer or None)."""
        return self._released(self._decoder.decode(some))

    def end(self) -> str:
        """What was held back, and the replacement sign for a character that was cut off."""
        text = self._held + self._decoder.decode(b"", final=True)
        self._held = ""
        return text

    def _released(self, more: str) -> tuple[str, str | None]:
        text, self._held = self._held + more, ""
        if not self.stops:
            return text, None
        places = [(place + len(stop), place, stop) for stop in self.stops if (place := text.find(stop)) >= 0]
        if places:  # the first to end, wherever tokens end; of those that end together the longest
            _, place, stop = min(places)
            return text[:place], stop
        keep = max(overlap(text, stop) for stop in self.stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], None


def overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` are the beginning of `stop`, which is not in it."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
