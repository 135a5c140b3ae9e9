"""Text that comes in pieces, broken into lines at words, for terminals."""

from collections.abc import Callable

from rich.cells import cell_len

CLOSING = set("，。、；：！？）】》」』”’…,.;:!?)]}%")  # no line begins with one of these


class Wrapped:
    """Writes pieces of text through `write` in lines of at most `width` columns.

    Breaks stand at spaces and beside wide characters (CJK), which have no spaces between words. A word is held back
    until it is whole. Words that are longer than a line are cut.
    """

    def __init__(self, write: Callable[[str], object], width: int):
        self._write, self._width = write, max(width, 4)
        self._column, self._spaces, self._word = 0, "", ""

    def __call__(self, piece: str) -> None:
        for character in piece:
            if character == "\n":
                self._place()
                self._write(self._spaces + "\n")
                self._column, self._spaces = 0, ""
            elif character in " \t":
                self._place()
                self._spaces += character
            else:
                if self._word and self._breaks_before(character):
                    self._place()
                self._word += character

    def end(self) -> None:
        """Write what was held back."""
        self._place()
        self._write(self._spaces)
        self._spaces = ""

    def _breaks_before(self, character: str) -> bool:
        if character in CLOSING or cell_len(character) == 0:
            return False
        return cell_len(character) == 2 or cell_len(self._word[-1]) == 2

    def _place(self) -> None:
        if not self._word:
            return
        room, length = cell_len(self._spaces.expandtabs(8)), cell_len(self._word)
        if self._column and self._column + room + length > self._width:
            self._write("\n")
            self._column, self._spaces, room = 0, "", 0
        self._write(self._spaces)
        self._column += room
        for character in self._word:
            if self._column + cell_len(character) > self._width:
                self._write("\n")
                self._column = 0
            self._write(character)
            self._column += cell_len(character)
        self._spaces = self._word = ""
