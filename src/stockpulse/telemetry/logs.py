"""Configuration of logging and of the metrics about requests."""

import logging
import sys
from typing import Final, Literal

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram

#: Libraries that log too much at the level INFO.
_QUIET: Final = ("uvicorn.access", "asyncio", "alembic", "httpx2", "httpcore2", "aiokafka")

_REPEAT_SECONDS: Final = 10.0


def configure_logging(log_format: Literal["auto", "console", "json"] = "auto", *, debug: bool = False) -> None:
    """Log readable lines to a terminal and JSON to anything else, for uvicorn and all other libraries too."""
    pretty = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        if pretty
        else structlog.processors.JSONRenderer()
    )
    # Tracebacks leave out local variables, because one of them may hold a secret.
    frames = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    traces = [] if pretty else [structlog.processors.ExceptionRenderer(frames)]
    level = logging.DEBUG if debug else logging.INFO
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *traces, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = True
    logging.getLogger("uvicorn.error").addFilter(_is_not_about_a_websocket)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    handler.addFilter(_Repeats("aiokafka"))


def _is_not_about_a_websocket(record: logging.LogRecord) -> bool:
    """Return False for uvicorn's lines about a WebSocket: they show the query, which may hold a key.

    Our own line for each WebSocket comes at its end.
    """
    return not str(record.msg).startswith(('%s - "WebSocket', "connection open", "connection closed"))


class _Repeats(logging.Filter):
    """Drops a message that a library repeats within ten seconds: a client that reconnects repeats itself often."""

    def __init__(self, library: str) -> None:
        super().__init__()
        self._library = library
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith(self._library):
            return True
        now, message = record.created, str(record.msg)
        if now - self._said.get(message, 0.0) < _REPEAT_SECONDS:
            return False
        self._said[message] = now
        return True


class RequestMetrics:
    """Metrics about HTTP requests. The label is the route's path template, so there are few time series."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "stockpulse_http_requests", "Requests answered", ["method", "route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "stockpulse_http_request_seconds",
            "Time to the answer",
            ["method", "route"],
            registry=registry,
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0),
        )
