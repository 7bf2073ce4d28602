"""The middleware that refuses requests and WebSockets without access."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from stockpulse.api.admission.callers import Callers
from stockpulse.api.admission.changes import is_change, refusal_of_change, refusal_of_page
from stockpulse.api.admission.hosts import Hosts
from stockpulse.api.error_responses import error_response
from stockpulse.errors import Forbidden, Misdirected, StockPulseError, shown

_POLICY_VIOLATION = 1008  # RFC 6455, section 7.4.1


class Admission:
    """Wraps the app, which receives only requests of accepted callers and pages."""

    def __init__(self, app: ASGIApp, callers: Callers, hosts: Hosts) -> None:
        self._app = app
        self._callers = callers
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request, or refuse it."""
        if scope["type"] not in ("http", "websocket") or (refusal := self._refusal(scope)) is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await error_response(refusal)(scope, receive, send)
        else:
            await _refuse_websocket(refusal, scope, receive, send)

    def _refusal(self, scope: Scope) -> StockPulseError | None:
        caller = self._callers.of(scope)
        if not caller.is_trusted:
            return Forbidden(
                "only callers on this machine and on trusted networks are accepted, and"
                f" {shown(caller.address)} is not one of them: see STOCKPULSE_TRUSTED_NETWORKS"
            )
        headers = Headers(scope=scope)
        names = headers.getlist("host")
        if len(names) != 1 or not self._hosts.is_ours(names[0]):
            return Misdirected(
                f"Host: got {shown(', '.join(names))}, which is not a name of this server:"
                " set STOCKPULSE_HOSTS to its further names"
            )
        if scope["type"] == "websocket":  # a page of any site may open one, without a preflight
            return refusal_of_page(headers, self._hosts)
        return refusal_of_change(headers, self._hosts) if is_change(scope["method"]) else None


async def _refuse_websocket(refusal: StockPulseError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer the handshake with an error, or with a bare 403 if the server cannot send more."""
    await receive()  # the request to connect
    if "websocket.http.response" in (scope.get("extensions") or {}):
        await error_response(refusal)(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": ""})
