"""The running server, as the commands ask it."""

from typing import Final

import httpx2

TIMEOUT: Final = httpx2.Timeout(10, read=310)  # a server may wait for durability for 300 seconds


def message_of(response: httpx2.Response) -> str:
    """What it says is wrong."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"status {response.status_code}"
