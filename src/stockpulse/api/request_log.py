"""One log line and one metric for every request."""

import time
from typing import Final

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stockpulse.telemetry.logs import RequestMetrics

_SWITCHING_PROTOCOLS: Final = 101
_FORBIDDEN: Final = 403
_FAULT: Final = 500
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

log = structlog.get_logger("stockpulse.requests")


class RequestLog:
    """Wraps the app, so that it sees every answer, also those to unknown paths."""

    def __init__(self, app: ASGIApp, metrics: RequestMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request, then log it."""
        if scope["type"] == "websocket":
            await self._serve_websocket(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = _FAULT
        # HEAD is answered like GET; the server leaves the body out.
        inner = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(inner, receive, watched)
        finally:
            self._note(scope, inner.get("route"), status, time.perf_counter() - started)

    async def _serve_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a WebSocket; its metric counts the handshake, its log line comes at the end."""
        started = time.perf_counter()
        status, code, frames = _FAULT, 0, 0

        async def sending(message: Message) -> None:
            nonlocal status, code, frames
            await send(message)
            match message["type"]:
                case "websocket.accept":
                    status = _SWITCHING_PROTOCOLS
                case "websocket.send":
                    frames += 1
                case "websocket.http.response.start":
                    status = message["status"]
                case "websocket.close":
                    code, status = message.get("code", 1000), _FORBIDDEN if status == _FAULT else status

        async def receiving() -> Message:
            nonlocal code
            message = await receive()
            if message["type"] == "websocket.disconnect":
                code = code or message.get("code", 1005)
            return message

        inner = dict(scope)
        try:
            await self._app(inner, receiving, sending)
        finally:
            route = getattr(inner.get("route"), "path", "(none)")
            self._metrics.requests.labels("WEBSOCKET", route, status).inc()
            seconds = round(time.perf_counter() - started, 3)
            log.info("websocket", path=scope["path"], status=status, code=code, frames=frames, seconds=seconds)

    def _note(self, scope: Scope, found: object, status: int, seconds: float) -> None:
        # Without the query string: it may hold a key.
        say = log.error if status >= _FAULT else log.info
        say("request", method=scope["method"], path=scope["path"], status=status, ms=round(seconds * 1000, 2))
        # The template, not the path: clients can invent any number of paths, and of methods.
        route = getattr(found, "path_format", "(none)")
        method = scope["method"] if scope["method"] in _METHODS else "(other)"
        self._metrics.requests.labels(method, route, status).inc()
        self._metrics.seconds.labels(method, route).observe(seconds)
