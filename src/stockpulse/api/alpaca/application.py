"""The application that answers at Alpaca's paths: `/v2/…`, `/v1/…` and `/v1beta1/…`."""

from typing import Final

from fastapi import FastAPI
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from stockpulse import __version__
from stockpulse.api import docs
from stockpulse.api.alpaca import answers, bars, latest, meta, nothing, screener, trades
from stockpulse.api.alpaca.stream import routes as stream

_PREFIXES: Final = ("/v2/", "/v1/", "/v1beta1/")
_DESCRIPTION: Final = (
    "Alpaca's market-data protocol: its client libraries work with this server as their base URL."
    " How to use it: [the manual](/manual/alpaca-clients)."
)


def alpaca_app() -> FastAPI:
    """Return the application."""
    app = FastAPI(
        title="StockPulse for Alpaca's clients",
        version=__version__,
        description=_DESCRIPTION,
        openapi_url="/v2/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=answers.ERRORS,
        generate_unique_id_function=lambda route: route.name,
    )
    answers.install(app)
    docs.add_pages(app, "/v2")
    for part in (latest, bars, trades, nothing, meta, screener, stream):
        app.include_router(part.router)
    return app


class AlpacaPaths(BaseRoute):
    """A route for all of Alpaca's paths. Unlike a mount, it leaves the path as it is, with its version."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Return a full match for requests and WebSockets at these paths."""
        found = scope["type"] in ("http", "websocket") and scope["path"].startswith(_PREFIXES)
        return (Match.FULL if found else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, or serve the WebSocket."""
        await self._app(scope, receive, send)
