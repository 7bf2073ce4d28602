"""Topics, the messages of a topic, and formats, which turn a message into bytes."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Protocol, TypeAlias

import polars as pl

ALL: Final = "*"
"""The symbol of a topic that has all symbols."""


class Channel(StrEnum):
    """The kinds of topics."""

    TICKS = "ticks"
    """Every tick."""
    PRICES = "prices"
    """The newest tick of a symbol. Conflated."""
    BARS = "bars"
    """Bars that have closed, were revised, or were removed."""
    FORMING = "forming"
    """Bars that form. Conflated."""
    INDICATORS = "indicators"
    """Indicators of closed bars; `detail` lists them."""
    PREVIEWS = "previews"
    """Indicators of bars that form. Conflated."""
    SIGNALS = "signals"
    """The results of the rules for closed bars."""
    MOVERS = "movers"
    """The largest moves; `detail` is the length of the window in minutes. Conflated."""


class Change(StrEnum):
    """The event that a message tells."""

    NEW = "new"
    """Rows that were not there before: ticks, signals."""
    FORMING = "forming"
    """Rows of bars that are not final."""
    CLOSED = "closed"
    """Rows of bars that have just become final."""
    REVISED = "revised"
    """Rows that had been final before and have changed."""
    REMOVED = "removed"
    """Rows that exist no longer; the message has their last values."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A stream of messages that can be subscribed to."""

    channel: Channel
    symbol: str = ALL
    interval: str = ""
    """Of bars and indicators: the name of an interval."""
    detail: str = ""

    @property
    def family(self) -> "Family":
        """The topics that differ from this one only by their symbol."""
        return self.channel, self.interval, self.detail


Family: TypeAlias = tuple[Channel, str, str]
"""Channel, interval and detail."""


class Batch:
    """Rows that are published together; they are converted to dictionaries once, when someone needs them."""

    __slots__ = ("_frame", "_rows")

    def __init__(self, frame: pl.DataFrame, rows: list[dict[str, Any]] | None = None) -> None:
        """Pass the `rows` of the frame if they are known."""
        self._frame = frame
        self._rows = rows

    def __len__(self) -> int:
        return len(self._frame)

    @property
    def symbols(self) -> list[str]:
        """The symbol of each row."""
        symbols: list[str] = self._frame["symbol"].to_list()
        return symbols

    def each(self) -> "list[Batch]":
        """Return a batch for each row, which does not keep the others in memory."""
        return [Batch(self._frame[place], [row]) for place, row in enumerate(self.rows)]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows; times are datetimes in UTC."""
        if self._rows is None:
            self._rows = self._frame.to_dicts()
        return self._rows


class Format(Protocol):
    """The bytes of messages, for one kind of client."""

    @property
    def name(self) -> str:
        """The name, unique among all formats: a message keeps its bytes under it."""
        ...

    def encode(self, message: "Message") -> bytes:
        """Return a message as bytes; nothing if this kind of client does not get it."""
        ...


class Message:
    """Rows of one topic. All subscribers of the topic share it, and its bytes in each format."""

    __slots__ = ("_bytes", "_places", "batch", "change", "channel", "detail", "interval", "seq")

    def __init__(
        self, family: Family, change: Change, seq: int, batch: Batch, places: Sequence[int] | None = None
    ) -> None:
        """`places` are the rows of the batch that belong to the message; None means all."""
        self.channel, self.interval, self.detail = family
        self.change = change
        self.seq = seq
        """The number of the message in its channel; 0 for conflated messages."""
        self.batch = batch
        self._places = places
        self._bytes: dict[str, bytes] = {}

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.batch) if self._places is None else len(self._places)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows, as dictionaries that are shared: do not change them."""
        rows = self.batch.rows
        return rows if self._places is None else [rows[place] for place in self._places]

    def encoded(self, format: Format) -> bytes:
        """Return the message in this format; it is encoded once."""
        found = self._bytes.get(format.name)
        if found is None:
            found = self._bytes[format.name] = format.encode(self)
        return found


@dataclass(frozen=True, slots=True)
class Missed:
    """Messages of a channel that a subscriber missed, because its buffer was full."""

    channel: Channel
    rows: int
    after: int
    """The number of the last message before the gap."""
    through: int
    """The number of the last message in the gap."""
