"""Splits a text into tokens, and marks a place in it."""

import re
import reprlib
from collections.abc import Iterator
from typing import Final, NamedTuple

_WORDS: Final = ("and", "or", "not")
_TOKEN: Final = re.compile(
    r"""\s*(?:
        (?P<number> (?:[0-9]+\.?[0-9]*|\.[0-9]+) (?:[eE][-+]?[0-9]+)? (?![\w.]) )
      | (?P<name>   [A-Za-z_][A-Za-z0-9_]* (?!\w) )
      | (?P<symbol> [<>=!]= | [-+*/<>=(),\[\]] )
      | (?P<end>    \Z )
      | (?P<alien>  && | \|\| | \.?\w[\w.]* | . )  # the parser says what it expected instead
    )""",
    re.VERBOSE | re.DOTALL,
)
MEANT: Final = {
    "=": "==", "&": "and", "&&": "and", "|": "or", "||": "or", "!": "not",
    "\u2264": "<=", "\u2265": ">=", "\u2260": "!=",
}  # fmt: skip
_SHORT: Final = reprlib.Repr()
_SHORT.maxstring = 40
_WINDOW: Final = 80


class Token(NamedTuple):
    """A name, a number or a symbol."""

    kind: str
    text: str
    start: int

    @property
    def key(self) -> str:
        """The text for look-ups, where case does not matter."""
        return self.text.lower()

    @property
    def shown(self) -> str:
        """The text as an error message shows it."""
        return _SHORT.repr(self.text) if self.text else "the end"


def tokens(text: str) -> Iterator[Token]:
    """Yield the tokens of a text; the last one has the kind "end"."""
    for match in _TOKEN.finditer(text.rstrip()):
        kind = str(match.lastgroup)
        token = Token(kind, match[kind], match.start(kind))
        yield token._replace(kind="symbol") if token.key in _WORDS else token


def place_of(text: str, spot: int) -> str:
    """Return the line and column of a spot, counted from 1."""
    lines = text[:spot].split("\n")
    column = f"column {len(lines[-1]) + 1}"
    return f"line {len(lines)}, {column}" if "\n" in text else column


def pointed(text: str, spot: int) -> str:
    """Return the line of the spot, shortened around it, with a caret below."""
    start, stop = text.rfind("\n", 0, spot) + 1, text.find("\n", spot)
    stop = len(text) if stop < 0 else stop
    first = max(start, min(spot - _WINDOW // 2, stop - _WINDOW))
    last = min(first + _WINDOW, stop)
    before, after = "…" * (first > start), "…" * (last < stop)
    # A tab or a lone surrogate would shift the caret or break the message.
    line = "".join(one if one.isprintable() else " " if one.isspace() else "\ufffd" for one in text[first:last])
    return f"  {before}{line}{after}\n  {' ' * (len(before) + spot - first)}^"
