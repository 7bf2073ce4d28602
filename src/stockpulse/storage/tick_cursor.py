"""The place in several symbols' ticks where one page ends and the next begins."""

import base64
import binascii
from dataclasses import dataclass

from stockpulse.errors import InvalidInput, shown
from stockpulse.market.times import EARLIEST, LATEST


@dataclass(frozen=True)
class TickCursor:
    """The last tick of a page: the next page begins after it."""

    symbol: str
    ts: int
    """Event time in UTC microseconds."""
    seq: int

    def encode(self) -> str:
        """Return the cursor as text that needs no quoting in a URL."""
        return base64.urlsafe_b64encode(f"{self.symbol}|{self.ts}|{self.seq}".encode()).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str, field: str = "page_token") -> "TickCursor":
        """Read what `encode` made. Raises InvalidInput for `field` otherwise."""
        try:
            padded = text + "=" * (-len(text) % 4)
            symbol, ts, seq = base64.b64decode(padded, b"-_", validate=True).decode("ascii").split("|")
            cursor = cls(symbol, int(ts), int(seq))
        except (binascii.Error, ValueError):  # also UnicodeError
            cursor = cls("", 0, 0)
        if cursor.encode() != text or not cursor.symbol or not EARLIEST <= cursor.ts <= LATEST or cursor.seq >= 2**63:
            raise InvalidInput(field, f"got {shown(text)}; takes the token of the page before")
        return cursor
