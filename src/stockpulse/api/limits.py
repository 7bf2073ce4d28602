"""How much one request may carry."""

from typing import Final

from stockpulse.errors import TooLarge

MAX_ROWS: Final = 100_000
MAX_BODY_BYTES: Final = 64 * 1024 * 1024
MAX_UNPACKED_BYTES: Final = 256 * 1024 * 1024


def too_many_rows() -> TooLarge:
    """More rows than `MAX_ROWS`."""
    return TooLarge(f"one request takes {MAX_ROWS:,} rows at most: send several")


def too_many_bytes() -> TooLarge:
    """More than `MAX_UNPACKED_BYTES` once it is unpacked."""
    return TooLarge(f"one request unpacks to {MAX_UNPACKED_BYTES:,} bytes at most: send several")
