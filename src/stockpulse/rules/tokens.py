"""The words of a text, and where in it they stand."""

import re
import reprlib
from collections.abc import Iterator
from typing import Final, NamedTuple

_WORDS: Final = ("and", "or", "not")
_TOKEN: Final = re.compile(
    r"""\s*(?:
        (?P<number> (?:[0-9]+\.?[0-9]*|\.[0-9]+) (?:[eE][-+]?[0-9]+)? (?![\w.]) )
      | (?P<name>   [A-Za-z_][A-Za-z0-9_]* (?!\w) )
      | (?P<symbol> [<>=!]= | [-+*/<>=(),] )
      | (?P<end>    \Z )
      | (?P<alien>  && | \|\| | \.?\w[\w.]* | . )  # the reader says what it expected instead
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
    """A word, a number or a sign."""

    kind: str
    text: str
    start: int

    @property
    def key(self) -> str:
        """What is looked up: case does not matter."""
        return self.text.lower()

    @property
    def shown(self) -> str:
        """As an error shows it."""
        return _SHORT.repr(self.text) if self.text else "the end"


def tokens(text: str) -> Iterator[Token]:
    """The words of a text, and a last one that says that it is over."""
    for match in _TOKEN.finditer(text.rstrip()):
        kind = str(match.lastgroup)
        token = Token(kind, match[kind], match.start(kind))
        yield token._replace(kind="symbol") if token.key in _WORDS else token


def place_of(text: str, spot: int) -> str:
    """The spot as people count."""
    lines = text[:spot].split("\n")
    column = f"column {len(lines[-1]) + 1}"
    return f"line {len(lines)}, {column}" if "\n" in text else column


def pointed(text: str, spot: int) -> str:
    """The line of the spot, or what stands around it there, with a caret below."""
    start, stop = text.rfind("\n", 0, spot) + 1, text.find("\n", spot)
    stop = len(text) if stop < 0 else stop
    first = max(start, min(spot - _WINDOW // 2, stop - _WINDOW))
    last = min(first + _WINDOW, stop)
    before, after = "…" * (first > start), "…" * (last < stop)
    # A tab, or half a surrogate pair, would shift the caret or break the message.
    line = "".join(one if one.isprintable() else " " if one.isspace() else "\ufffd" for one in text[first:last])
    return f"  {before}{line}{after}\n  {' ' * (len(before) + spot - first)}^"
