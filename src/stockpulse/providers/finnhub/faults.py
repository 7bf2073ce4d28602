"""The faults of Finnhub's replies: `{"error": "…"}` with a status, or a page of HTML."""

import re
from datetime import datetime, timedelta
from typing import Any, Final

from stockpulse.errors import shown
from stockpulse.providers.faults import (
    BadReply,
    BadRequest,
    NotEntitled,
    ProviderFault,
    RateLimited,
    UnknownSymbol,
    Unreachable,
    WrongKey,
)
from stockpulse.providers.transport.live_socket import Refusal
from stockpulse.providers.transport.rest_client import Reply

NAME: Final = "finnhub"
_OK, _REDIRECT, _BAD, _NO_KEY, _FORBIDDEN, _TOO_MANY, _SERVER = 200, 300, 400, 401, 403, 429, 500
_LONGEST_PAUSE: Final = 61.0
"""Limits are per minute, whatever a header says."""
_MILLIS_ABOVE: Final = 1e11
_EPOCH_ABOVE: Final = 1e9
_NUMBER: Final = re.compile(r"\d{1,15}(\.\d{1,9})?", re.ASCII)


def read_fault(reply: Reply) -> ProviderFault | None:
    """Return the fault that a reply states; None for data."""
    if reply.status == _TOO_MANY:
        pause = pause_seconds(reply)
        until = reply.received_at + timedelta(seconds=pause) if pause else None
        return RateLimited(f"{NAME}: {_said(reply)}", until)
    if reply.status >= _SERVER or _REDIRECT <= reply.status < _BAD or reply.body.lstrip()[:1] == b"<":
        return Unreachable(f"{NAME} sent no data (HTTP {reply.status}): {reply.text}")
    try:
        body = reply.json()
    except BadReply as fault:
        return fault if reply.status < _BAD else fault_of(reply.text, reply.status)
    if error_in(body) is None and reply.status == _OK:
        return None
    return fault_of(_said(reply), reply.status)


def read_refusal(refusal: Refusal) -> ProviderFault:
    """Return the fault of a handshake that opens no stream."""
    if refusal.status in (_NO_KEY, _FORBIDDEN, _TOO_MANY):
        return fault_of(refusal.text, refusal.status)
    return Unreachable(f"{NAME} refuses the stream (HTTP {refusal.status}): {refusal.text}")


def error_in(body: Any) -> str | None:
    """Return the text of an error; None for data."""
    if not isinstance(body, dict) or body.get("error") in (None, ""):
        return None
    error = body["error"]
    return " ".join(error.split())[:300] if isinstance(error, str) else shown(error)


def fault_of(text: str, status: int = _OK) -> ProviderFault:
    """Return the fault of the text of an error and its status. The text counts first: statuses have changed."""
    words = text.lower()
    if "have access" in words or "premium" in words:
        return NotEntitled(f"{NAME}: the plan of the key does not include this: {text}")
    if "limit reached" in words or "too many requests" in words or status == _TOO_MANY:
        return RateLimited(f"{NAME}: {text}")
    if "api key" in words or "api token" in words or status == _NO_KEY:
        return WrongKey(f"{NAME} refuses the key: {text}")
    if status == _FORBIDDEN:
        return NotEntitled(f"{NAME}: the plan of the key does not include this: {text}")
    if "symbol" in words:
        return UnknownSymbol(f"{NAME}: {text}")
    return BadRequest(f"{NAME} does not understand the request: {text}")


def pause_seconds(reply: Reply) -> float:
    """Return the seconds to wait after a reply, if its headers say that no request is left."""
    headers = reply.headers
    if (after := _number(headers.get("retry-after"))) is not None:
        return min(after, _LONGEST_PAUSE)
    if reply.status != _TOO_MANY and headers.get("x-ratelimit-remaining", "").strip() != "0":
        return 0.0
    reset = _number(headers.get("x-ratelimit-reset"))
    return 0.0 if reset is None else min(max(_until(reset, reply.received_at), 0.0), _LONGEST_PAUSE)


def _until(reset: float, now: datetime) -> float:
    """Return the seconds until a reset. Its unit is not documented: seconds or milliseconds since 1970, or from now."""
    if reset >= _MILLIS_ABOVE:
        reset /= 1000
    return reset - now.timestamp() if reset >= _EPOCH_ABOVE else reset


def _number(text: str | None) -> float | None:
    found = _NUMBER.fullmatch((text or "").strip())
    return float(found[0]) if found else None


def _said(reply: Reply) -> str:
    """Return the text of the error in a reply; else the beginning of its body."""
    try:
        return error_in(reply.json()) or reply.text
    except BadReply:
        return reply.text
