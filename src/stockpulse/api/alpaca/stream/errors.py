"""The errors of Alpaca's stream."""

from typing import Final

_MESSAGES: Final = {
    400: "invalid syntax",
    401: "not authenticated",
    402: "auth failed",
    403: "already authenticated",
    404: "auth timeout",
    405: "symbol limit exceeded",
    407: "slow client",
    410: "invalid subscribe action for this feed",
    500: "internal error",
}


class StreamError(Exception):
    """A message of the client, or its connection, is refused."""

    def __init__(self, code: int) -> None:
        super().__init__(_MESSAGES[code])
        self.code = code

    def message(self) -> dict[str, object]:
        """Return the message for the client."""
        return {"T": "error", "code": self.code, "msg": str(self)}
