"""Headers that limit an answer in browsers; a handler that needs more sets its own."""

from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_POLICY: Final = "Content-Security-Policy"
_NOTHING: Final = dict.fromkeys(("base-uri", "form-action", "frame-ancestors"), "'none'")


def policy(**sources: str) -> dict[str, str]:
    """Return the header of a page that may load something: `policy(script_src="'self'")`."""
    allowed = {name.replace("_", "-"): source for name, source in sources.items()}
    directives = {"default-src": "'none'"} | allowed | {name: allowed.get(name, no) for name, no in _NOTHING.items()}
    return {_POLICY: "; ".join(f"{name} {source}" for name, source in directives.items())}


BROWSER_HEADERS: Final = policy() | {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class BrowserHeaders:
    """Wraps the app, and adds these headers to all its answers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request with the headers."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in BROWSER_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, with_headers)
