"""The limits of one request."""

from typing import Final

from stockpulse.errors import TooLarge

MAX_ROWS: Final = 100_000
MAX_BODY_BYTES: Final = 64 * 1024 * 1024
MAX_FRAME_BYTES: Final = 1024 * 1024
"""The maximum size of a WebSocket message from a client."""
MAX_UNPACKED_BYTES: Final = 256 * 1024 * 1024


def too_many_rows() -> TooLarge:
    """Return the error for more rows than `MAX_ROWS`."""
    return TooLarge(f"one request takes at most {MAX_ROWS:,} rows: send several requests")


def too_many_bytes() -> TooLarge:
    """Return the error for a body that unpacks to more than `MAX_UNPACKED_BYTES`, or repeats long texts."""
    return TooLarge(
        f"one request may unpack to at most {MAX_UNPACKED_BYTES:,} bytes, less if a dictionary repeats"
        " long texts: send several requests"
    )
