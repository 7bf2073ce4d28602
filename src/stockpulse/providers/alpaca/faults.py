"""Alpaca's error replies as faults: of REST requests, of the stream's handshake, of messages in the stream."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from stockpulse.providers.faults import (
    BadRequest,
    NotEntitled,
    ProviderFault,
    RateLimited,
    TooManyConnections,
    UnknownSymbol,
    Unreachable,
    WrongKey,
)
from stockpulse.providers.transport.live_socket import Refusal
from stockpulse.providers.transport.rest_client import Reply

CHECK_THE_KEY: Final = "check STOCKPULSE_ALPACA_KEY and STOCKPULSE_ALPACA_SECRET"
CHECK_THE_PLAN: Final = "use a plan that includes it, or another STOCKPULSE_ALPACA_FEED (iex is free)"

_INVALID_SYMBOL: Final = re.compile(r"invalid symbol(?:s|\(s\))?:\s*([^\s,\"]+)")
_GATEWAY_ERRORS: Final = 500


def read_fault(reply: Reply) -> ProviderFault | None:
    """Return the fault that a REST reply states; None for a good reply."""
    if reply.status < 300:  # noqa: PLR2004 - the class of good replies
        return None
    text = _message(reply)
    said = f"alpaca answers {reply.path} with HTTP {reply.status}: {text}"
    if reply.status in (401, 403) and not _is_about_the_plan(text):
        return WrongKey(f"alpaca refuses the key (HTTP {reply.status}); {CHECK_THE_KEY}")
    if reply.status in (400, 403, 422) and _is_about_the_plan(text):
        return NotEntitled(f"{said}; {CHECK_THE_PLAN}")
    if reply.status == 400 and (found := _INVALID_SYMBOL.search(text)):  # noqa: PLR2004
        return UnknownSymbol(f"alpaca does not know the symbol {found[1]}", found[1])
    if reply.status == 429:  # noqa: PLR2004
        return RateLimited(f"{said}; the limit is STOCKPULSE_ALPACA_PER_MINUTE", _reset(reply.headers))
    return Unreachable(said) if reply.status >= _GATEWAY_ERRORS else BadRequest(said)


def pause_seconds(reply: Reply) -> float:
    """Return the seconds to hold requests back: the reply says that the limit of the minute is used up."""
    headers = reply.headers
    retry_after = headers.get("retry-after", "")
    if reply.status == 429 and retry_after.isdigit():  # noqa: PLR2004
        return float(retry_after)
    if headers.get("x-ratelimit-remaining") != "0" and reply.status != 429:  # noqa: PLR2004
        return 0.0
    reset = _reset(headers)
    return 0.0 if reset is None else max(0.0, (reset - reply.received_at).total_seconds())


def read_refusal(refusal: Refusal) -> ProviderFault:
    """Return the fault of a refused handshake."""
    if refusal.status in (401, 403):
        return WrongKey(f"alpaca refuses the key of the stream (HTTP {refusal.status}); {CHECK_THE_KEY}")
    said = f"alpaca refuses the stream with HTTP {refusal.status}: {refusal.text}"
    if refusal.status == 429:  # noqa: PLR2004 - seen when a program reconnects too fast
        return RateLimited(said)
    if 400 <= refusal.status < _GATEWAY_ERRORS:  # noqa: PLR2004
        return BadRequest(f"{said}; check STOCKPULSE_ALPACA_STREAM_URL and STOCKPULSE_ALPACA_FEED")
    return Unreachable(said)


#: Codes of the stream's error messages; all others pass by themselves.
_STREAM_FAULTS: Final[Mapping[int, tuple[type[ProviderFault], str]]] = {
    400: (BadRequest, "a symbol may be badly formed"),
    402: (WrongKey, CHECK_THE_KEY),
    405: (NotEntitled, "the plan allows fewer symbols: name fewer, or use another plan"),
    406: (
        TooManyConnections,
        "another program uses the stream with this key, or alpaca still holds a connection that broke (up to 90 s)",
    ),
    408: (NotEntitled, CHECK_THE_PLAN),
    409: (NotEntitled, CHECK_THE_PLAN),
    410: (BadRequest, "the feed lacks a channel: check STOCKPULSE_ALPACA_CHANNELS"),
    411: (NotEntitled, CHECK_THE_PLAN),
    412: (BadRequest, "the feed takes MessagePack only: set STOCKPULSE_ALPACA_ENCODING=msgpack"),
    413: (BadRequest, "the feed takes no `*`: name the symbols"),
}
ALREADY_AUTHENTICATED: Final = 403
INVALID_SYNTAX: Final = 400
SYMBOL_LIMIT: Final = 405


def stream_fault(code: int, text: str) -> ProviderFault:
    """Return the fault that an error message of the stream states."""
    kind, remedy = _STREAM_FAULTS.get(code, (Unreachable, ""))
    return kind(f"alpaca ends the stream with error {code}: {text}" + (f"; {remedy}" if remedy else ""))


def _is_about_the_plan(text: str) -> bool:
    return "subscription" in text.lower()


def _message(reply: Reply) -> str:
    """Return the message of an error body; the beginning of a body that has none, such as a proxy's HTML."""
    try:
        body: Any = orjson.loads(reply.body)
    except orjson.JSONDecodeError:
        return reply.text
    message = body.get("message") if isinstance(body, dict) else None
    return message[:400] if isinstance(message, str) else reply.text


def _reset(headers: Mapping[str, str]) -> datetime | None:
    text = headers.get("x-ratelimit-reset", "")
    return datetime.fromtimestamp(int(text), UTC) if text.isdigit() and len(text) <= 10 else None  # noqa: PLR2004
