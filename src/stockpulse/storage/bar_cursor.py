"""The place in several symbols' bars where one page ends and the next begins."""

import base64
import binascii
from dataclasses import dataclass

from stockpulse.errors import InvalidInput, shown
from stockpulse.market.times import EARLIEST, LATEST


@dataclass(frozen=True)
class Cursor:
    """The last bar of a page: the next page begins after it."""

    symbol: str
    ts: int
    """Start of the bar in UTC microseconds."""

    def encode(self) -> str:
        """Return the cursor as text that needs no quoting in a URL."""
        return base64.urlsafe_b64encode(f"{self.symbol}|{self.ts}".encode()).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str, field: str = "page_token") -> "Cursor":
        """Read what `encode` made. Raises InvalidInput for `field` otherwise."""
        try:
            padded = text + "=" * (-len(text) % 4)
            symbol, separator, ts = base64.b64decode(padded, b"-_", validate=True).decode("ascii").rpartition("|")
            cursor = cls(symbol, int(ts))
        except (binascii.Error, ValueError):  # also UnicodeError
            cursor, separator = cls("", 0), ""
        if not separator or cursor.encode() != text or not EARLIEST <= cursor.ts <= LATEST:
            raise InvalidInput(field, f"got {shown(text)}; takes the token of the page before")
        return cursor
