"""The faults of market-data providers, by what to do about them.

Each provider turns its error replies into one of these. Messages are for people: they name the provider, say what is
wrong and what helps, and hold no key.
"""

from datetime import datetime

from stockpulse.errors import StockPulseError


class ProviderFault(StockPulseError):
    """A provider did not do what it was asked."""

    code = "fault"
    """A short word for counters and stored states."""

    def __init__(self, message: str, symbol: str | None = None) -> None:
        super().__init__(message)
        self.symbol = symbol
        """The refused symbol of a request for several, if the provider names it."""


class WrongKey(ProviderFault):
    """The provider refuses the key. Do not ask again before the key is changed."""

    code = "wrong_key"


class NotEntitled(ProviderFault):
    """The plan of the key does not include this request. Do not ask for the same again."""

    code = "not_entitled"


class BadRequest(ProviderFault):
    """The provider does not understand the request. Do not send the same again."""

    code = "bad_request"


class UnknownSymbol(BadRequest):
    """The provider does not know the symbol."""

    code = "unknown_symbol"


class RateLimited(ProviderFault):
    """Too many requests. Ask again after `until`, or with growing delays if that is unknown."""

    code = "rate_limited"

    def __init__(self, message: str, until: datetime | None = None) -> None:
        super().__init__(message)
        self.until = until


class QuotaUsedUp(RateLimited):
    """The requests of the day are used up, by the provider's word or by our own count."""

    code = "quota_used_up"


class Unreachable(ProviderFault):
    """The provider does not answer, breaks off, or has a fault of its own. Ask again with growing delays."""

    code = "unreachable"


class BadReply(Unreachable):
    """The reply of the provider is not what its protocol says."""

    code = "bad_reply"


class MuteStream(Unreachable):
    """The stream is open and alive, and sends no data, although it should."""

    code = "mute_stream"


class TooManyConnections(Unreachable):
    """The provider allows no further stream for this key: another program may use it."""

    code = "too_many_connections"


TRANSIENT = (RateLimited, Unreachable)
"""Faults that pass by themselves."""
