"""The two encodings of Alpaca's stream: JSON in text frames, MessagePack in binary frames."""

from typing import Any, Final, Protocol

import msgpack
import orjson

_NANOSECONDS: Final = 2  # of msgpack's `timestamp`: times become whole nanoseconds since 1970


class Encoding(Protocol):
    """Turns messages into frames and back."""

    content_type: str
    """The header of the handshake that chooses it."""

    def dumps(self, message: object) -> str | bytes:
        """Return a message as text for a text frame, or bytes for a binary one."""
        ...

    def loads(self, frame: bytes) -> Any:
        """Return the content of a frame. Raises ValueError if it is not in this encoding."""
        ...


class Json:
    """JSON; times are RFC 3339 text."""

    content_type = "application/json"

    def dumps(self, message: object) -> str:
        """Return JSON."""
        return orjson.dumps(message).decode()

    def loads(self, frame: bytes) -> Any:
        """Return parsed JSON."""
        return orjson.loads(frame)


class MessagePack:
    """MessagePack: half of the bytes of uncompressed JSON; times are whole nanoseconds."""

    content_type = "application/msgpack"

    def dumps(self, message: object) -> bytes:
        """Return MessagePack."""
        return bytes(msgpack.packb(message))

    def loads(self, frame: bytes) -> Any:
        """Return unpacked MessagePack."""
        try:
            return msgpack.unpackb(frame, timestamp=_NANOSECONDS)
        except (ValueError, msgpack.exceptions.UnpackException, RecursionError) as error:
            raise ValueError(str(error) or type(error).__name__) from None
