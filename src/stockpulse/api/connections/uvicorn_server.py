"""uvicorn's own objects: all that StockPulse changes in the server that runs it. No other module knows them.

The user starts `uvicorn stockpulse.app:app`, so its options are not ours. The lifespan starts after uvicorn has read
its options and before it listens; `Server.startup` then makes each connection with `config.http_protocol_class`.
"""

import signal
from collections.abc import Callable
from typing import Any, Final

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from stockpulse.api.connections.guard import Guard, H11Guard, HttpToolsGuard, WebSocketGuard
from stockpulse.api.connections.open_connections import OpenConnections

_GUARDS: Final[dict[str, type[Guard]]] = {
    "uvicorn.protocols.http.httptools_impl": HttpToolsGuard,
    "uvicorn.protocols.http.h11_impl": H11Guard,
}
"""The guard for each module of uvicorn's protocols."""
_NEEDED: Final[dict[type[Guard], tuple[str, ...]]] = {
    HttpToolsGuard: ("on_response_complete", "on_headers_complete", "on_body", "on_message_complete"),
    H11Guard: ("on_response_complete", "handle_events"),
}
_DEFAULT_KEEP_ALIVE_SECONDS: Final = 5


class UvicornServer:
    """The running server of uvicorn. Without one, all methods do nothing, or say why they cannot."""

    def __init__(self, server: Any = None) -> None:
        """Take this server, or find the one that handles the signals of this process."""
        self._server = server or getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
        self._config: Any = getattr(self._server, "config", None)

    def guard(self, connections: OpenConnections) -> str | None:
        """Keep all later connections within limits. Return the reason if that is not possible, else None."""
        present = getattr(self._config, "http_protocol_class", None)
        if present is None:
            return "the server is not uvicorn"
        guard = next((guard for one in present.__mro__ if (guard := _GUARDS.get(one.__module__))), None)
        if guard is None:
            return f"{present.__module__}.{present.__name__} is not a known protocol of uvicorn; use httptools or h11"
        if lacking := [name for name in _NEEDED[guard] if not hasattr(present, name)]:
            return f"{present.__name__} of this version of uvicorn has no {', '.join(lacking)}"
        mine = {"open_connections": connections}
        self._config.http_protocol_class = type(f"Guarded{present.__name__}", (guard, present), mine)
        websocket = getattr(self._config, "ws_protocol_class", None)
        if websocket is not None:
            name = f"Guarded{websocket.__name__}"
            self._config.ws_protocol_class = type(name, (WebSocketGuard, websocket), mine)
        if self._config.timeout_keep_alive == _DEFAULT_KEEP_ALIVE_SECONDS:  # not set by an option
            self._config.timeout_keep_alive = connections.limits.idle_seconds
        return None

    def leave_proxies_to_us(self) -> None:
        """Remove uvicorn's middleware that replaces the address of the peer by an address of X-Forwarded-For.

        With `--forwarded-allow-ips '*'` it trusts every peer. `Callers` reads the header of trusted proxies only.
        """
        outermost = getattr(self._config, "loaded_app", None)
        if isinstance(outermost, ProxyHeadersMiddleware):
            self._config.loaded_app = outermost.app

    def limit_websockets(self, frame_bytes: int) -> None:
        """Limit the size of a message from a client, and send without compression.

        Compression would cost memory and time for each client, where all clients get the same bytes.
        """
        if self._config is not None:
            self._config.ws_max_size = min(self._config.ws_max_size, frame_bytes)
            self._config.ws_per_message_deflate = False

    def call_at_stop(self, stopping: Callable[[], None]) -> None:
        """Call this when the stop begins, before the server waits for open connections."""
        server: Any = self._server
        shutdown = getattr(server, "shutdown", None)
        if shutdown is None:
            return

        async def stop_first(*arguments: Any, **options: Any) -> None:
            stopping()
            await shutdown(*arguments, **options)

        server.shutdown = stop_first

    def stop_without_slow_clients(self, seconds: int) -> None:
        """Limit the time that a stop waits for current requests, unless uvicorn's own setting limits it.

        Otherwise a client that does not send the rest of its body would block the stop.
        """
        if getattr(self._config, "timeout_graceful_shutdown", 0) is None:
            self._config.timeout_graceful_shutdown = seconds

    def end_with_status_zero(self) -> None:
        """End the process with status 0 after a clean stop.

        uvicorn raises the signal that stopped it once more at the very end, which would make it 143. It has no
        setting for that.
        """
        captured = getattr(self._server, "_captured_signals", None)
        if isinstance(captured, list) and signal.SIGINT not in captured:
            captured.clear()
