"""The faults of Twelve Data's replies.

An error is `{"code": 429, "message": "…", "status": "error"}`, with the same HTTP status or with 200, for a whole
request or for one symbol of a batch. Messages have ** around names.
"""

from datetime import datetime, timedelta
from typing import Any, Final

import orjson

from stockpulse.errors import shown
from stockpulse.providers.faults import (
    BadReply,
    BadRequest,
    NotEntitled,
    ProviderFault,
    QuotaUsedUp,
    RateLimited,
    UnknownSymbol,
    Unreachable,
    WrongKey,
)
from stockpulse.providers.transport.live_socket import Refusal
from stockpulse.providers.transport.rest_client import Reply

NAME: Final = "twelvedata"
_LONGEST_MESSAGE: Final = 300
_MARGIN: Final = timedelta(seconds=1)
"""The vendor's clock may be a little behind ours."""

_OK, _BAD, _NO_KEY, _FORBIDDEN, _NOT_FOUND, _TOO_MANY, _SERVER = 200, 400, 401, 403, 404, 429, 500
_NO_DATA: Final = "no data is available"
_OTHER_PLANS: Final = ("available exclusively", "available starting with")
_UNKNOWN: Final = ("symbol not found", "symbol or figi parameter is missing", "symbol parameter is missing")


def read_fault(reply: Reply) -> ProviderFault | None:
    """Return the fault that a reply to a request states; None for data, and for the statement that there is none."""
    if reply.status >= _SERVER:
        return Unreachable(f"{NAME} has a fault of its own (HTTP {reply.status}): {reply.text}")
    try:
        body = reply.json()
    except BadReply as fault:
        return _of_text(reply) or fault
    if (error := error_in(body)) is not None:
        return None if is_empty(error) else fault_of(error, reply.received_at, status=reply.status)
    return None if reply.status == _OK else fault_of({"message": reply.text}, reply.received_at, status=reply.status)


def read_refusal(refusal: Refusal, now: datetime) -> ProviderFault:
    """Return the fault of a handshake that opens no stream: its status, or an error with status 200 or 400."""
    try:
        error = error_in(orjson.loads(refusal.body))
    except orjson.JSONDecodeError:
        error = None
    if error is not None:
        return fault_of(error, now, status=refusal.status)
    return _of_status(refusal.status, refusal.text, now) or Unreachable(
        f"{NAME} refuses the stream (HTTP {refusal.status}): {refusal.text}"
    )


def error_in(body: Any) -> dict[str, Any] | None:
    """Return the error that a body, or its part for one symbol, consists of; None for data."""
    if not isinstance(body, dict):
        return None
    code = _code_of(body)
    stated = body.get("status") == "error" or (isinstance(body.get("message"), str) and code >= _BAD)
    return body if stated else None


def is_empty(error: dict[str, Any]) -> bool:
    """Return True if an error says that there are no data: that is a result, and no fault."""
    return _NO_DATA in _plain(error).lower()


def fault_of(error: dict[str, Any], at: datetime, symbol: str | None = None, status: int = _OK) -> ProviderFault:
    """Return the fault of an error of a body, for one symbol of a batch or for all."""
    message = _plain(error)
    code, words = _code_of(error) or status, message.lower()
    about = f"{NAME}, {symbol}" if symbol else NAME
    if any(text in words for text in _OTHER_PLANS):
        return NotEntitled(f"{about}: the plan of the key does not include this: {message}", symbol)
    if any(text in words for text in _UNKNOWN):
        return UnknownSymbol(f"{about}: {message}", symbol)
    if (fault := _of_status(code, message, at)) is not None:
        fault.symbol = symbol
        return fault
    if code == _NOT_FOUND:
        return UnknownSymbol(f"{about}: {message}", symbol)
    return BadRequest(f"{about} does not understand the request: {message}", symbol)


def _of_status(code: int, message: str, at: datetime) -> ProviderFault | None:
    """Return the fault of a code that means the same everywhere."""
    words = message.lower()
    if code == _TOO_MANY or "run out of api credits" in words:
        return _too_many(message, at)
    if code == _NO_KEY or "apikey parameter is incorrect" in words:
        return WrongKey(f"{NAME} refuses the key: {message}")
    if code == _FORBIDDEN:
        return NotEntitled(f"{NAME}: the plan of the key does not include this: {message}")
    if code >= _SERVER or _OK < code < _BAD:
        return Unreachable(f"{NAME} has a fault of its own ({code}): {message}")
    return None


def _too_many(message: str, at: datetime) -> RateLimited:
    if "for the day" in message.lower():
        midnight = (at + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        return QuotaUsedUp(f"{NAME}: the credits of the day are used up: {message}", midnight)
    return RateLimited(f"{NAME}: {message}", next_minute(at))


def next_minute(at: datetime) -> datetime:
    """Return the time at which the credits of the next minute are there."""
    return at.replace(second=0, microsecond=0) + timedelta(minutes=1) + _MARGIN


def pause_seconds(reply: Reply) -> float:
    """Return the seconds to wait after a reply that says that the credits of its minute are used up."""
    left = reply.headers.get("api-credits-left", "").strip()
    return (next_minute(reply.received_at) - reply.received_at).total_seconds() if left == "0" else 0.0


def _of_text(reply: Reply) -> ProviderFault | None:
    """Return the fault of a reply that is no JSON: a page of a proxy is no statement about the key."""
    if reply.status == _TOO_MANY:
        return _too_many(reply.text, reply.received_at)
    if reply.body.lstrip()[:1] == b"<" or _OK < reply.status < _BAD:
        return Unreachable(f"{NAME} sent a page instead of data (HTTP {reply.status}): {reply.text}")
    if reply.status >= _BAD:
        return fault_of({"message": reply.text}, reply.received_at, status=reply.status)
    return None


def _code_of(error: dict[str, Any]) -> int:
    """Return the code of an error, also as text; 0 without one."""
    code = error.get("code")
    if isinstance(code, str) and code.isascii() and code.isdigit():
        code = int(code[:4])
    return code if type(code) is int else 0


def _plain(error: dict[str, Any]) -> str:
    """Return the message without asterisks, short."""
    message = error.get("message")
    if not isinstance(message, str):
        return shown(error)
    text = " ".join(message.replace("**", "").split())
    return text if len(text) <= _LONGEST_MESSAGE else text[:_LONGEST_MESSAGE] + "…"
