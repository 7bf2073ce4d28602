"""The faults of Yahoo's replies.

Nothing is documented: errors come as JSON under `chart` or `finance`, as plain text or as a page, with any status. The
description decides, since an empty range and a wrong request share a status and a code.
"""

from typing import Any, Final

import orjson

from stockpulse.errors import shown
from stockpulse.providers.faults import (
    BadReply,
    BadRequest,
    NotEntitled,
    ProviderFault,
    RateLimited,
    UnknownSymbol,
    Unreachable,
)
from stockpulse.providers.transport.rest_client import Reply

_NAME: Final = "yahoo"
_SERVER_ERROR: Final = 500
_CLIENT_ERROR: Final = 400
_TOO_MANY: Final = 429
_OK: Final = 200

EMPTY: Final = "data doesn't exist"
"""The description of a range without data."""


class CrumbNeeded(ProviderFault):
    """Yahoo wants a cookie and the crumb that belongs to it."""


#: Words of a description, and what it says; the first match counts.
_MEANINGS: Final[tuple[tuple[str, type[ProviderFault], str], ...]] = (
    ("too many requests", RateLimited, "too many requests"),
    ("crumb", CrumbNeeded, "it wants a cookie"),
    ("cookie", CrumbNeeded, "it wants a cookie"),
    ("unauthorized", CrumbNeeded, "it wants a cookie"),
    ("no data found", UnknownSymbol, "it does not know the symbol"),
    ("not found", UnknownSymbol, "it does not know the symbol"),
    ("data are allowed to be fetched", BadRequest, "it refuses the range"),
    ("must be within the last", BadRequest, "it refuses the range"),
    ("not available", BadRequest, "it refuses the range"),
    ("invalid input", BadRequest, "it does not understand the request"),
    ("bad request", BadRequest, "it does not understand the request"),
)


_BY_STATUS: Final[dict[int, tuple[type[ProviderFault], str]]] = {
    401: (CrumbNeeded, "wants a cookie"),
    403: (NotEntitled, "does not serve this address"),
    404: (UnknownSymbol, "does not know the symbol"),
}


def read_fault(reply: Reply) -> ProviderFault | None:
    """Return the fault that a reply of the chart states; None for data, and for a range without data."""
    if reply.status == _TOO_MANY or reply.body[:100].lower().lstrip().startswith((b"too many", b"edge: too many")):
        return RateLimited(f"{_NAME} refuses requests from here for a while: {reply.text}")
    if (error := error_of(reply.body)) and EMPTY in error.lower():
        return None
    if error and reply.status < _SERVER_ERROR:
        return _fault_of(error)
    return _by_status(reply)


def error_of(body: bytes) -> str:
    """Return the code and the description of a reply with an error; an empty text for any other reply."""
    content = _parsed(body)
    for root in ("chart", "finance"):
        inner = content.get(root) if isinstance(content, dict) else None
        error = inner.get("error") if isinstance(inner, dict) else None
        if isinstance(error, dict):
            return f"{error.get('code')}: {error.get('description')}"
        if error:
            return str(error)
    return ""


def _fault_of(error: str) -> ProviderFault:
    for words, kind, meaning in _MEANINGS:
        if words in error.lower():
            return kind(f"{_NAME}: {meaning}: {shown(error)}")
    return BadRequest(f"{_NAME} says: {shown(error)}")


def _by_status(reply: Reply) -> ProviderFault | None:
    about = f"(HTTP {reply.status}): {reply.text}"
    if reply.status >= _SERVER_ERROR:
        return Unreachable(f"{_NAME} has a fault of its own {about}")
    if reply.status >= _CLIENT_ERROR:
        kind, meaning = _BY_STATUS.get(reply.status, (BadRequest, "refuses the request"))
        return kind(f"{_NAME} {meaning} {about}")
    if reply.status != _OK or _parsed(reply.body) is None:
        return BadReply(f"{_NAME} sent a page instead of data {about}")
    return None


def _parsed(body: bytes) -> Any:
    """Return the parsed body; None if it is no JSON."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
