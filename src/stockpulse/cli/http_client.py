"""Requests of the commands to the running server."""

from typing import Final

import httpx2

TIMEOUT: Final = httpx2.Timeout(10, read=310)  # a server may be set to wait 300 seconds for durability

CHANGES: Final = {"content-type": "application/json"}
"""The headers of a request that changes something and has no body."""


def message_of(response: httpx2.Response) -> str:
    """Return the message of an error response."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"status {response.status_code}"
