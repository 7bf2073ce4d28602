"""The faults of Alpha Vantage's replies.

Errors come with any status, often 200, as a sentence under `Information`, `Note` or `Error Message`. The key of the
sentence says nothing; only its words do. The order of the tests matters: the text on bursts ends with an advertisement
of premium endpoints, and the text on the day's limit may name a premium plan.
"""

from typing import Any, Final

import orjson

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
from stockpulse.providers.transport.rest_client import Reply

_NAME: Final = "alpha_vantage"
_SENTENCES: Final = ("Information", "Note", "Error Message")

#: Words of a sentence, and what it says; the first match counts.
_MEANINGS: Final[tuple[tuple[str, type[ProviderFault], str], ...]] = (
    ("spreading out", RateLimited, "too many requests"),
    ("burst pattern", RateLimited, "too many requests"),
    ("minute-level", RateLimited, "too many requests"),
    ("call frequency", RateLimited, "too many requests"),
    ("detected your api key", QuotaUsedUp, "the requests of the day are used up"),
    ("premium", NotEntitled, "the plan of the key does not include this request"),
    ("apikey is invalid", WrongKey, "the key is missing or wrong"),
    ("api key is invalid", WrongKey, "the key is missing or wrong"),
    ("demo purposes", WrongKey, "the key `demo` is for its own examples only"),
    ("does not exist", BadRequest, "it has no such function"),
    ("invalid api call", UnknownSymbol, "it does not know the symbol, or has no such data of it"),
)
_SERVER_ERROR: Final = 500
_TOO_MANY: Final = 429
_CLIENT_ERROR: Final = 400
_LONGEST_TEXT: Final = 300


def read_fault(reply: Reply) -> ProviderFault | None:
    """Return the fault that a reply states; None for data."""
    if reply.status < _SERVER_ERROR and (said := _sentence(reply.body)):
        return fault_of(said)
    if reply.status == 200 and reply.body.lstrip()[:1] != b"<":  # noqa: PLR2004 - OK
        return None
    return _by_status(reply)


def fault_of(said: str) -> ProviderFault:
    """Return the fault that a sentence of Alpha Vantage states."""
    text = said.lower()
    for words, kind, meaning in _MEANINGS:
        if words in text:
            if kind is QuotaUsedUp and "per day" not in text:
                kind, meaning = RateLimited, "too many requests"  # noqa: PLW2901
            return kind(f"{_NAME}: {meaning}: {_shown(said)}")
    return ProviderFault(f"{_NAME} says: {_shown(said)}")


def _by_status(reply: Reply) -> ProviderFault:
    """Return the fault of a reply that is neither data nor a sentence."""
    about = f"(HTTP {reply.status}): {reply.text}"
    if reply.status >= _SERVER_ERROR:
        return Unreachable(f"{_NAME} has a fault of its own {about}")
    if reply.status == _TOO_MANY:
        return RateLimited(f"{_NAME}: too many requests {about}")
    if reply.status in (401, 403):
        return WrongKey(f"{_NAME} refuses the key {about}")
    if reply.status >= _CLIENT_ERROR:
        return BadRequest(f"{_NAME} refuses the request {about}")
    return BadReply(f"{_NAME} sent a page instead of data {about}")


def _shown(said: str) -> str:
    return repr(said if len(said) <= _LONGEST_TEXT else f"{said[:_LONGEST_TEXT]}…")


def _sentence(body: bytes) -> str:
    """Return the sentence of a reply without data; an empty text for any other reply."""
    try:
        content: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    if not isinstance(content, dict) or any(isinstance(value, dict | list) for value in content.values()):
        return ""
    return " ".join(str(content[name]) for name in _SENTENCES if content.get(name))
