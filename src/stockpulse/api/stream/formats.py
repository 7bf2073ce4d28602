"""The messages of the stream as JSON and as MessagePack."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import msgpack
import orjson

from stockpulse.errors import InvalidInput
from stockpulse.hub.messages import Channel, Format, Message, Missed

SHOWN: Final = {Channel.FORMING: Channel.BARS, Channel.PREVIEWS: Channel.INDICATORS}
"""Channels that clients know under the name of another one."""

_OF_BARS: Final = frozenset({Channel.BARS, Channel.FORMING, Channel.INDICATORS, Channel.PREVIEWS})
_LONGEST_FAULT: Final = 200


class WireFormat(Format, Protocol):
    """A format of messages in both directions."""

    @property
    def is_text(self) -> bool:
        """True if messages are text frames."""
        ...

    def dumps(self, message: Mapping[str, Any]) -> bytes:
        """Return any message as bytes."""
        ...

    def loads(self, data: bytes | str) -> object:
        """Read a message. Raises InvalidInput."""
        ...

    def frame(self, messages: Sequence[bytes]) -> bytes:
        """Join messages to an array."""
        ...


class Json:
    """JSON in text frames; times are RFC 3339."""

    name: Final = "json"
    is_text: Final = True

    def dumps(self, message: Mapping[str, Any]) -> bytes:
        """Return a message as JSON."""
        return orjson.dumps(message, option=orjson.OPT_UTC_Z)

    def loads(self, data: bytes | str) -> object:
        """Read JSON."""
        if isinstance(data, bytes):
            raise InvalidInput("frame", "this connection takes text frames with JSON, and got a binary frame")
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError as fault:
            raise InvalidInput("frame", f"is not JSON: {fault}"[:_LONGEST_FAULT]) from None

    def frame(self, messages: Sequence[bytes]) -> bytes:
        """Join messages to a JSON array."""
        return b"[" + b",".join(messages) + b"]"

    def encode(self, message: Message) -> bytes:
        """Return rows as a message."""
        return self.dumps(described(message))


class MessagePack:
    """MessagePack in binary frames; times are its timestamps (extension type -1)."""

    name: Final = "msgpack"
    is_text: Final = False

    def dumps(self, message: Mapping[str, Any]) -> bytes:
        """Return a message as MessagePack."""
        packed: bytes = msgpack.packb(message, datetime=True)
        return packed

    def loads(self, data: bytes | str) -> object:
        """Read MessagePack."""
        if isinstance(data, str):
            raise InvalidInput("frame", "this connection takes binary frames with MessagePack, and got a text frame")
        try:
            return msgpack.unpackb(data, timestamp=3)
        except (ValueError, TypeError, OverflowError) as fault:  # the library has no common type for its faults
            raise InvalidInput("frame", f"is not MessagePack: {fault!r}"[:_LONGEST_FAULT]) from None

    def frame(self, messages: Sequence[bytes]) -> bytes:
        """Join messages to a MessagePack array."""
        head: bytes = msgpack.Packer().pack_array_header(len(messages))
        return head + b"".join(messages)

    def encode(self, message: Message) -> bytes:
        """Return rows as a message."""
        return self.dumps(described(message))


FORMATS: Final[dict[str, WireFormat]] = {"json": Json(), "msgpack": MessagePack()}


def described(message: Message) -> dict[str, Any]:
    """Return a message as clients see it."""
    head = data_head(message.channel, message.interval, message.detail)
    if message.channel in _OF_BARS:
        head["change"] = str(message.change)
    if message.seq:
        head["seq"] = message.seq
    return head | {"rows": message.rows}


def data_head(channel: Channel, interval: str, detail: str) -> dict[str, Any]:
    """Return the fields of a message with rows that come before them."""
    head: dict[str, Any] = {"type": "data", "channel": str(SHOWN.get(channel, channel))}
    if interval:
        head["interval"] = interval
    if detail:
        head["minutes" if channel is Channel.MOVERS else "indicators"] = (
            int(detail) if channel is Channel.MOVERS else detail
        )
    return head


def told_missed(missed: Missed) -> dict[str, Any]:
    """Return a gap as clients see it."""
    return {
        "type": "missed",
        "channel": str(missed.channel),
        "rows": missed.rows,
        "after": missed.after,
        "through": missed.through,
    }
