"""The answers to connections that reach a limit. The server closes the connection after each of them."""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import orjson


@dataclass(frozen=True)
class Refusal:
    """An answer that ends a connection."""

    reason: str
    """The name in the metrics."""
    status: HTTPStatus
    code: str
    message: str
    retry_after: int | None = None

    def answer(self) -> bytes:
        """Return the whole HTTP answer."""
        body = orjson.dumps({"error": {"code": self.code, "message": self.message, "details": None}})
        head = [
            f"HTTP/1.1 {self.status.value} {self.status.phrase}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            "cache-control: no-store",
            "connection: close",
        ]
        if self.retry_after is not None:
            head.append(f"retry-after: {self.retry_after}")
        return "\r\n".join([*head, "", ""]).encode() + body


LARGE_HEADER: Final = Refusal(
    "header_size",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    "HEADER_TOO_LARGE",
    "the header of the request is larger than STOCKPULSE_MAX_HEADER_KB",
)
SLOW_HEADER: Final = Refusal(
    "header_time",
    HTTPStatus.REQUEST_TIMEOUT,
    "REQUEST_TIMEOUT",
    "the header of the request took longer than STOCKPULSE_HEADER_SECONDS",
)
SLOW_BODY: Final = Refusal(
    "body_time",
    HTTPStatus.REQUEST_TIMEOUT,
    "REQUEST_TIMEOUT",
    "the body of the request stopped for longer than STOCKPULSE_BODY_SECONDS, or arrives too slowly",
)
MADE_ROOM: Final = Refusal(
    "made_room",
    HTTPStatus.REQUEST_TIMEOUT,
    "REQUEST_TIMEOUT",
    "the server has no room for more connections, and this one sent nothing: send the request without a pause",
    retry_after=1,
)
MANY_OF_PEER: Final = Refusal(
    "per_peer",
    HTTPStatus.TOO_MANY_REQUESTS,
    "TOO_MANY_CONNECTIONS",
    "your address has as many connections as STOCKPULSE_MAX_CONNECTIONS_PER_PEER allows: close some, or try again",
    retry_after=1,
)
MANY: Final = Refusal(
    "total",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "TOO_MANY_CONNECTIONS",
    "the server has as many connections as STOCKPULSE_MAX_CONNECTIONS allows: try again shortly",
    retry_after=1,
)
REFUSALS: Final = (LARGE_HEADER, SLOW_HEADER, SLOW_BODY, MADE_ROOM, MANY_OF_PEER, MANY)
STALLED: Final = "stalled_answer"
REASONS: Final = (*(one.reason for one in REFUSALS), STALLED)
"""The reasons for which the server refuses or closes a connection; a client that reads nothing gets no answer."""
