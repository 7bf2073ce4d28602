"""The conversation with a client, without input and output: its messages, and their answers."""

from collections.abc import Mapping
from typing import Final

from stockpulse.api.alpaca.stream.errors import StreamError
from stockpulse.api.alpaca.stream.subscriptions import Subscriptions

CONNECTED: Final[Mapping[str, object]] = {"T": "success", "msg": "connected"}
AUTHENTICATED: Final[Mapping[str, object]] = {"T": "success", "msg": "authenticated"}


class Session:
    """The state of a conversation."""

    def __init__(self, channels: tuple[str, ...], *, authenticated: bool) -> None:
        self.authenticated = authenticated
        self.subscriptions = Subscriptions(channels)

    def take(self, message: object) -> Mapping[str, object]:
        """Return the answer to a message of the client. Raises StreamError."""
        if not isinstance(message, dict) or not isinstance(message.get("action"), str):
            raise StreamError(400)
        match message["action"]:
            case "auth":
                return self._authenticate(message)
            case "subscribe" | "unsubscribe" if not self.authenticated:
                raise StreamError(401)
            case "subscribe" | "unsubscribe" as action:
                self.subscriptions = self.subscriptions.changed(message, add=action == "subscribe")
                return self.subscriptions.message()
        raise StreamError(400)

    def _authenticate(self, message: Mapping[str, object]) -> Mapping[str, object]:
        """Accept any key and secret: StockPulse has no keys yet."""
        if self.authenticated:
            raise StreamError(403)
        if not all(isinstance(message.get(name), str) and message[name] for name in ("key", "secret")):
            raise StreamError(402)
        self.authenticated = True
        return AUTHENTICATED
