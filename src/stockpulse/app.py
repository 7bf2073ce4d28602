"""The application over HTTP: `create_app`, and `app` for uvicorn."""

import functools
import logging
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, TypedDict

import structlog
from fastapi import APIRouter, FastAPI
from fastapi.middleware import Middleware
from prometheus_client import CollectorRegistry
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from stockpulse import __version__
from stockpulse.api import (
    analytics,
    bars,
    data,
    dead_letters,
    docs,
    document,
    error_responses,
    forget,
    health,
    signals,
    symbols,
    ticks,
)
from stockpulse.api.admission.callers import Callers
from stockpulse.api.admission.hosts import Hosts
from stockpulse.api.admission.middleware import Admission
from stockpulse.api.browser_headers import BrowserHeaders
from stockpulse.api.context import Context
from stockpulse.api.patience import Patience
from stockpulse.api.request_log import RequestLog
from stockpulse.api.time_params import accepted_zones
from stockpulse.errors import CannotStart
from stockpulse.market.calendar_names import accepted_names
from stockpulse.node.lifecycle import running
from stockpulse.settings import Settings, load_settings
from stockpulse.telemetry.logs import RequestMetrics, configure_logging

_REQUEST_SECONDS: Final = 4
_PREFIX: Final = "/api/v1"

log = structlog.get_logger(__name__)

_READING: Final = (symbols, ticks, bars, data, analytics, signals, dead_letters)
_ROUTERS: Final[dict[str, tuple[APIRouter, ...]]] = {
    "all": (health.router, ticks.intake, forget.router, dead_letters.retries, *(part.router for part in _READING)),
    "ingest": (health.router, ticks.intake, forget.router, dead_letters.router, dead_letters.retries),
    "process": (health.router,),
    "api": (health.router, *(part.router for part in _READING)),
}
"""The routes that each role answers."""


class AppState(TypedDict):
    """The state that the lifespan hands to the requests."""

    context: Context


def create_app(settings: Settings) -> FastAPI:
    """Return the application. Nothing starts before its lifespan."""
    registry = CollectorRegistry()
    hosts = Hosts(settings.hosts, settings.origins)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[AppState]:
        # uvicorn has configured logging by now; from here on the lines are ours.
        configure_logging(settings.log_format, debug=settings.debug)
        _stop_without_slow_clients()
        _leave_proxies_to_us()
        _say_who_is_answered(settings, hosts)
        try:
            async with running(settings, registry) as context:
                yield {"context": context}
                failed = context.supervisor.failed
        except CannotStart as refusal:
            _say_plainly(refusal)
            raise
        if not failed:
            _end_with_status_zero()

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
    return app


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
        if scope["type"] != "http" or path == scope["path"]:
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


def _leave_proxies_to_us() -> None:
    """Remove uvicorn's middleware that replaces the address of the peer by an address of X-Forwarded-For.

    With `--forwarded-allow-ips '*'` it trusts every peer. `Callers` reads the header of trusted proxies only.
    """
    config: Any = getattr(_server(), "config", None)
    outermost = getattr(config, "loaded_app", None)
    if isinstance(outermost, ProxyHeadersMiddleware):
        config.loaded_app = outermost.app


def _say_plainly(refusal: CannotStart) -> None:
    """Log one line with the remedy, instead of uvicorn's traceback."""
    log.critical("cannot start", reason=str(refusal))
    logging.getLogger("uvicorn.error").addFilter(lambda record: "Traceback" not in record.getMessage())


def _stop_without_slow_clients() -> None:
    """Limit the time that a stop waits for current requests, unless uvicorn's own setting limits it.

    Otherwise a client that does not send the rest of its body would block the stop.
    """
    config: Any = getattr(_server(), "config", None)
    if getattr(config, "timeout_graceful_shutdown", 0) is None:
        config.timeout_graceful_shutdown = _REQUEST_SECONDS


def _end_with_status_zero() -> None:
    """End the process with status 0 after a clean stop.

    uvicorn raises the signal that stopped it once more at the very end, which would make it 143. It has no
    setting for that.
    """
    captured = getattr(_server(), "_captured_signals", None)
    if isinstance(captured, list) and signal.SIGINT not in captured:
        captured.clear()


def _server() -> Any:
    """Return uvicorn's server, which owns the signal handler; None if something else runs the app."""
    return getattr(signal.getsignal(signal.SIGTERM), "__self__", None)


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
