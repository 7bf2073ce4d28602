"""Requests that change something must be of a kind that a browser does not send for a page of another site.

A page may send other requests without our consent: a form, an image, `fetch` with `no-cors`, `sendBeacon`. These carry
no content type, or one of three. With any other type the browser asks first (a preflight), and we allow nothing. The
Fetch standard has the list: CORS-safelisted request headers.
"""

from typing import Final

from starlette.datastructures import Headers

from stockpulse.api.admission.hosts import Hosts
from stockpulse.errors import Forbidden, InvalidInput, StockPulseError, shown

_READING: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_SENT_WITHOUT_ASKING: Final = frozenset({"", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"})
_OTHER_SITES: Final = frozenset({"cross-site", "same-site"})
"""Values of Sec-Fetch-Site. Another port of this machine is the same site."""


def is_change(method: str) -> bool:
    """Return True if requests with this method may change something."""
    return method not in _READING


def refusal_of_change(headers: Headers, hosts: Hosts) -> StockPulseError | None:
    """Return the reason why a request that changes something is refused; None if it is accepted."""
    types = [value.partition(";")[0].strip().lower() for value in headers.getlist("content-type")] or [""]
    for one in types:
        if one in _SENT_WITHOUT_ASKING:
            return InvalidInput(
                "Content-Type",
                f"got {shown(one)}; a request that changes something takes application/json, also without a body,"
                " or the type of its body",
            )
    return refusal_of_page(headers, hosts)


def refusal_of_page(headers: Headers, hosts: Hosts) -> StockPulseError | None:
    """Return the reason why the web page that sent a request is refused; None if it is ours or there is no page."""
    origins = headers.getlist("origin")
    for origin in origins:
        if not hosts.is_our_origin(origin, headers.get("host", "")):
            return Forbidden(
                f"the request comes from a page of {shown(origin)}, which is not a page of this server:"
                " set STOCKPULSE_ORIGINS if it belongs to you"
            )
    if not origins and headers.get("sec-fetch-site") in _OTHER_SITES:
        return Forbidden("the request comes from a page of another site")
    return None
