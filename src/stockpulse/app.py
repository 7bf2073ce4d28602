"""The application over HTTP: `create_app`, and `app` for uvicorn."""

import functools
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, TypedDict

import structlog
from fastapi import APIRouter, FastAPI
from fastapi.middleware import Middleware
from prometheus_client import CollectorRegistry
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from stockpulse import __version__
from stockpulse.api import (
    analytics,
    backfill,
    bars,
    corrections,
    coverage,
    data,
    dead_letters,
    docs,
    document,
    error_responses,
    forget,
    health,
    prices,
    providers,
    signals,
    symbols,
    ticks,
)
from stockpulse.api.admission.callers import Callers
from stockpulse.api.admission.hosts import Hosts
from stockpulse.api.admission.middleware import Admission
from stockpulse.api.alpaca.application import AlpacaPaths, alpaca_app
from stockpulse.api.browser_headers import BrowserHeaders
from stockpulse.api.connections.limits import ConnectionLimits, needed_descriptors, raise_descriptor_limit
from stockpulse.api.connections.open_connections import OpenConnections
from stockpulse.api.connections.uvicorn_server import UvicornServer
from stockpulse.api.context import Context
from stockpulse.api.limits import MAX_FRAME_BYTES
from stockpulse.api.patience import Patience
from stockpulse.api.request_log import RequestLog
from stockpulse.api.stream import asyncapi
from stockpulse.api.stream import routes as stream
from stockpulse.api.time_params import accepted_zones
from stockpulse.errors import CannotStart
from stockpulse.market.calendar_names import accepted_names
from stockpulse.node.lifecycle import running
from stockpulse.settings import Settings, load_settings
from stockpulse.telemetry.logs import RequestMetrics, configure_logging

_REQUEST_SECONDS: Final = 4
_PREFIX: Final = "/api/v1"

log = structlog.get_logger(__name__)

_READING: Final = (
    symbols,
    providers,
    prices,
    ticks,
    bars,
    data,
    coverage,
    analytics,
    signals,
    dead_letters,
    stream,
    asyncapi,
)
_TAKING: Final = (
    ticks.intake,
    corrections.router,
    forget.router,
    prices.jobs_router,
    backfill.router,
    dead_letters.retries,
)
_ROUTERS: Final[dict[str, tuple[APIRouter, ...]]] = {
    "all": (health.router, *_TAKING, *(part.router for part in _READING)),
    "ingest": (health.router, *_TAKING, providers.router, dead_letters.router),
    "process": (health.router,),
    "api": (health.router, *(part.router for part in _READING)),
}
"""The routes that each role answers."""
_READS: Final = ("all", "api")
"""The roles that answer Alpaca's clients."""


class AppState(TypedDict):
    """The state that the lifespan hands to the requests."""

    context: Context
    connections: OpenConnections


def create_app(settings: Settings) -> FastAPI:
    """Return the application. Nothing starts before its lifespan."""
    registry = CollectorRegistry()
    hosts = Hosts(settings.hosts, settings.origins)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[AppState]:
        # uvicorn has configured logging by now; from here on the lines are ours.
        configure_logging(settings.log_format, debug=settings.debug)
        raise_descriptor_limit()
        server = UvicornServer()
        server.stop_without_slow_clients(_REQUEST_SECONDS)
        server.leave_proxies_to_us()
        _say_who_is_answered(settings, hosts)
        try:
            async with running(settings, registry) as context:
                connections = _guarded_connections(settings, server)
                server.limit_websockets(MAX_FRAME_BYTES)
                server.call_at_stop(context.hub.end)
                registry.register(connections)
                async with context.supervisor.running("connections", connections.watch):
                    yield {"context": context, "connections": connections}
                failed = context.supervisor.failed
        except CannotStart as refusal:
            _say_plainly(refusal)
            raise
        if not failed:
            server.end_with_status_zero()

    app = FastAPI(
        title=settings.app_name,
        version=__version__,
        summary="Live and historical prices, bars, indicators and signals.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirect would name the host that the caller names
        middleware=[
            Middleware(RequestLog, metrics=RequestMetrics(registry)),
            Middleware(BrowserHeaders),
            Middleware(Admission, callers=Callers(settings.networks), hosts=hosts),
            Middleware(
                Patience, read_seconds=settings.read_timeout_seconds, write_seconds=settings.durable_timeout_seconds
            ),
        ],
    )
    _answer_customary_paths(app)
    error_responses.install(app)
    document.install(app, {"TimeZone": accepted_zones, "CalendarName": accepted_names})
    docs.install(app)
    app.router.routes.extend(_routes(settings.role))
    if settings.role in _READS:
        app.router.routes.append(_alpaca_paths())
    return app


@functools.cache
def _alpaca_paths() -> AlpacaPaths:
    return AlpacaPaths(alpaca_app())


@functools.cache
def _routes(role: str) -> list[BaseRoute]:
    """Return the routes of a role. The apps of a process share them: FastAPI takes 0.1 s to prepare them."""
    router = APIRouter(generate_unique_id_function=lambda route: route.name)
    for part in _ROUTERS[role]:
        router.include_router(part, prefix=_PREFIX)
    return router.routes


def _answer_customary_paths(app: FastAPI) -> None:
    """Serve `/symbols`, `/api/symbols` and `/symbols/` as `/api/v1/symbols`, unless another route has that address.

    Routes under further prefixes would cost each request the time to compare them too.
    """
    not_found = app.router.default

    async def at_its_full_path(scope: Scope, receive: Receive, send: Send) -> None:
        path = _full_path(scope["path"])
        if scope["type"] not in ("http", "websocket") or path == scope["path"]:
            await not_found(scope, receive, send)
        else:
            scope["path"] = path
            await app.router.app(scope, receive, send)

    app.router.default = at_its_full_path


def _full_path(path: str) -> str:
    """Return a path in the form of the routes: with the version, without slashes at its end."""
    rest = path.rstrip("/")
    if rest.startswith(_PREFIX):
        return rest
    return _PREFIX + rest.removeprefix("/api")


def _say_who_is_answered(settings: Settings, hosts: Hosts) -> None:
    log.info(
        "answers_only",
        callers=["this machine", *settings.trusted_networks],
        hosts=list(hosts.names),
        more="STOCKPULSE_TRUSTED_NETWORKS and STOCKPULSE_HOSTS name others",
    )


def _guarded_connections(settings: Settings, server: UvicornServer) -> OpenConnections:
    """Return the connections that the server will accept, within the limits of the settings."""
    wanted = ConnectionLimits(
        total=settings.max_connections,
        per_peer=settings.max_connections_per_peer,
        header_bytes=settings.max_header_kb * 1024,
        header_seconds=settings.header_seconds,
        body_seconds=settings.body_seconds,
        idle_seconds=settings.idle_seconds,
    )
    connections = OpenConnections(wanted.leaving(needed_descriptors(settings.database_pool)))
    connections.fault = server.guard(connections)
    if connections.fault is not None:
        log.warning("connections_without_limits", reason=connections.fault)
    return connections


def _say_plainly(refusal: CannotStart) -> None:
    """Log one line with the remedy, instead of uvicorn's traceback."""
    log.critical("cannot start", reason=str(refusal))
    logging.getLogger("uvicorn.error").addFilter(lambda record: "Traceback" not in record.getMessage())


def _app_for_uvicorn() -> FastAPI:
    try:
        return create_app(load_settings())
    except CannotStart as refusal:
        sys.exit(f"stockpulse: {refusal}")


def __getattr__(name: str) -> FastAPI:
    """Make `app` when uvicorn asks for it, so that importing this module reads no environment."""
    if name != "app":
        raise AttributeError(name)
    globals()["app"] = app = _app_for_uvicorn()
    return app
