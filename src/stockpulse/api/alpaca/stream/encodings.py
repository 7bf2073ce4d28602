"""The two encodings of the stream, and the messages of the hub in each of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Protocol, TypeAlias

import msgpack
import orjson

from stockpulse.api.alpaca.shapes import Row, bar, time_text, trade
from stockpulse.api.alpaca.stream.errors import StreamError
from stockpulse.hub.messages import Change, Channel, Message

Data: TypeAlias = Mapping[str, Any]
"""A message for the client."""

CHANNEL_OF: Final = {"t": "trades", "b": "bars", "u": "updatedBars", "d": "dailyBars"}
"""The channel of each type of data."""


class Encoding(Protocol):
    """Messages as frames, and frames as messages."""

    @property
    def is_text(self) -> bool:
        """True if the frames are text."""
        ...

    def frame(self, messages: Sequence[Data]) -> bytes:
        """Return one frame, an array of messages."""
        ...

    def read(self, data: bytes | str) -> object:
        """Return the message in a frame of the client. Raises StreamError."""
        ...

    def time(self, moment: datetime) -> object:
        """Return a time as the encoding has it."""
        ...


class Json:
    """JSON in text frames; times are RFC 3339."""

    is_text: Final = True

    def frame(self, messages: Sequence[Data]) -> bytes:
        """Return a JSON array."""
        return orjson.dumps(messages)

    def read(self, data: bytes | str) -> object:
        """Read JSON."""
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError:
            raise StreamError(400) from None

    def time(self, moment: datetime) -> object:
        """Return a text."""
        return time_text(moment)


class MessagePack:
    """MessagePack in binary frames; times are its timestamps, an extension of type -1."""

    is_text: Final = False

    def frame(self, messages: Sequence[Data]) -> bytes:
        """Return an array of maps; the library for Go needs `T` as the first key of each map."""
        packed: bytes = msgpack.packb(messages, datetime=True)
        return packed

    def read(self, data: bytes | str) -> object:
        """Read MessagePack."""
        if isinstance(data, str):
            raise StreamError(400)
        try:
            return msgpack.unpackb(data)
        except (ValueError, TypeError, OverflowError):  # the library has no common type for its faults
            raise StreamError(400) from None

    def time(self, moment: datetime) -> object:
        """Return the time: the encoder makes a timestamp of it."""
        return moment


JSON: Final = Json()
MESSAGE_PACK: Final = MessagePack()


def data_row(code: str, row: Mapping[str, Any], time: Callable[[datetime], object]) -> Row:
    """Return a served tick or bar as a message of this type."""
    shape = trade(row, time(row["event_time"])) if code == "t" else bar(row, time(row["ts"]))
    return {"T": code, "S": row["symbol"], **shape}


def code_of(message: Message) -> str | None:
    """Return the type under which Alpaca's clients know a message of the hub; None if they do not know it."""
    match message.channel, message.interval, message.change:
        case Channel.TICKS, _, _:
            return "t"
        case Channel.BARS, "1m", Change.CLOSED:
            return "b"
        case Channel.BARS, "1m", Change.REVISED:
            return "u"
        case Channel.BARS | Channel.FORMING, "1d", Change.CLOSED | Change.REVISED | Change.FORMING:
            return "d"
    return None


class HubFormat:
    """A message of the hub as one frame, which all clients of the same encoding share."""

    def __init__(self, encoding: Encoding, leads: Callable[[Mapping[str, Any]], bool]) -> None:
        """`leads` returns True for a tick of the provider from which the bars of its symbol are built."""
        self.name = "alpaca-json" if encoding.is_text else "alpaca-msgpack"
        self._encoding = encoding
        self._leads = leads

    def encode(self, message: Message) -> bytes:
        """Return all rows of a message."""
        return self.rows(message, message.rows)

    def rows(self, message: Message, rows: Iterable[Mapping[str, Any]]) -> bytes:
        """Return some rows of a message; nothing if clients do not get them."""
        code = code_of(message)
        if code is None:
            return b""
        found = [data_row(code, row, self._encoding.time) for row in rows if code != "t" or self._leads(row)]
        return self._encoding.frame(found) if found else b""
