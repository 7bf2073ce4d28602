"""One shape for every error that leaves over HTTP: `{"error": {"code", "message", "details"}}`."""

import socket
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, Final

import asyncpg
import orjson
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from stockpulse import errors
from stockpulse.errors import shown

_log = structlog.get_logger(__name__)

_RETRY_SOON: Final = {"Retry-After": "1"}
_REFERENCE: Final = "#/components/schemas/"
_LONGEST_MESSAGE: Final = 2_000
_MOST_DETAILS: Final = 20

#: Where the customary name of a status is not what our clients should have to match on.
_CODES: Final = {413: "TOO_LARGE", 422: "INVALID_INPUT", 500: "INTERNAL", 503: "UNAVAILABLE"}

#: What the database says when it is away, starting, stopping or full: all of it passes.
_DATABASE_AWAY: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.InternalClientError,  # the driver, when a dying server's last words come before the next query
    asyncpg.InsufficientResourcesError,  # TooManyConnectionsError among them
    asyncpg.OperatorInterventionError,  # CannotConnectNowError and AdminShutdownError among them
)


class ErrorBody(BaseModel):
    """What went wrong."""

    code: str = Field(examples=["NOT_FOUND"], description="Which kind of error: stable, for programs.")
    message: str = Field(examples=["no such symbol: 'ACME'"], description="What happened: for people.")
    details: Any = Field(default=None, description="More about it, where there is more; else null.")


class ErrorResponse(BaseModel):
    """Every error has this shape."""

    error: ErrorBody


def install(app: FastAPI) -> None:
    """Make every error of `app` an `ErrorResponse`, in what it answers and in its OpenAPI."""
    app.add_exception_handler(errors.StockPulseError, _on_stockpulse_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_exception)
    for fault in (*_DATABASE_AWAY, asyncpg.InterfaceError, OSError):
        app.add_exception_handler(fault, _on_possible_outage)
    app.add_exception_handler(ClientDisconnect, _on_client_gone)
    app.add_exception_handler(Exception, _on_fault)
    app.openapi = _with_our_422(app.openapi)  # type: ignore[method-assign]


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For `responses=` of a route: these statuses come as an `ErrorResponse`."""
    return {status: {"model": ErrorResponse, "description": HTTPStatus(status).phrase} for status in statuses}


# --- what each exception becomes ---------------------------------------------------------------


async def _on_stockpulse_error(request: Request, error: Exception) -> Response:
    match error:
        case errors.InvalidInput():
            return _answer(422, "INVALID_INPUT", str(error), {"field": error.field})
        case errors.NotFound():
            return _answer(404, "NOT_FOUND", str(error))
        case errors.TooLarge():
            return _answer(413, "TOO_LARGE", str(error))
        case errors.OutcomeUnknown():
            return _answer(503, "OUTCOME_UNKNOWN", str(error), headers=_RETRY_SOON)
        case errors.Unavailable():
            return _answer(503, "UNAVAILABLE", str(error), headers=_RETRY_SOON)
        case _:
            return await _on_fault(request, error)


async def _on_invalid_request(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101  # what it is registered for
    faults = error.errors()[:_MOST_DETAILS]  # a long list can be wrong in every item
    details = [{"field": _field(fault), "message": _complaint(fault)} for fault in faults]
    message = "; ".join(f"{one['field']}: {one['message']}" for one in details)
    return _answer(422, "INVALID_INPUT", message, details)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  # what it is registered for
    status = error.status_code
    if status < 200 or status in (204, 304):  # noqa: PLR2004  # these carry no body
        return Response(status_code=status, headers=error.headers)
    if isinstance(error.detail, str):
        return _answer(status, _code(status), _http_message(request, error), headers=error.headers)
    return _answer(status, _code(status), HTTPStatus(status).phrase, error.detail, headers=error.headers)


async def _on_possible_outage(request: Request, error: Exception) -> Response:
    if not _is_outage(error):
        return await _on_fault(request, error)
    _log.warning("request_met_an_outage", path=request.url.path, fault=repr(error))
    return _answer(503, "UNAVAILABLE", str(errors.Unavailable()), headers=_RETRY_SOON)


async def _on_client_gone(_: Request, __: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it, and nothing is wrong here


async def _on_fault(request: Request, error: Exception) -> Response:
    method = request.scope.get("method", "WEBSOCKET")
    _log.error("request_failed", method=method, path=request.url.path, exc_info=error)
    return _answer(500, "INTERNAL", "Something went wrong here; it has been logged.")


# --- is it the database? -----------------------------------------------------------------------


def _is_outage(error: Exception) -> bool:
    """Whether this says that something which we need does not answer, rather than that we are wrong."""
    if isinstance(error, _DATABASE_AWAY):
        return True
    if isinstance(error, asyncpg.InterfaceError):
        # One class for "the connection is gone" and for every misuse of asyncpg: only the words differ.
        return any(word in str(error) for word in ("is closed", "is closing", "was closed"))
    # A bare OSError may be a full disk. It is the database when asyncpg was connecting as it rose.
    return isinstance(error, ConnectionError | TimeoutError | socket.gaierror) or _went_through_asyncpg(error)


def _went_through_asyncpg(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] == "asyncpg":
            return True
        trace = trace.tb_next
    return False


# --- words ---------------------------------------------------------------------------------------


def _answer(
    status: int,
    code: str,
    message: str,
    details: object = None,
    *,
    headers: Mapping[str, str] | None = None,
) -> Response:
    if len(message) > _LONGEST_MESSAGE:
        message = message[:_LONGEST_MESSAGE] + "…"
    error = {"code": code, "message": _encodable(message), "details": details}
    try:
        body = orjson.dumps({"error": error}, default=shown)
    except TypeError:  # half a surrogate pair, an integer beyond 64 bits: what JSON cannot say
        body = orjson.dumps({"error": {**error, "details": shown(details)}})
    return Response(body, status, headers=headers, media_type="application/json")


def _encodable(text: str) -> str:
    """Half a surrogate pair, which JSON and odd file systems can smuggle in, has no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def _code(status: int) -> str:
    if status in _CODES:
        return _CODES[status]
    try:
        return HTTPStatus(status).name
    except ValueError:
        return f"HTTP_{status}"


def _http_message(request: Request, error: HTTPException) -> str:
    """Starlette says "Not Found"; say what was not found, unless the handler said it better."""
    path = shown(request.url.path)
    match error.status_code:
        case 404 if error.detail == HTTPStatus.NOT_FOUND.phrase:
            return f"nothing is served at {path}"
        case 405 if error.detail == HTTPStatus.METHOD_NOT_ALLOWED.phrase:
            return f"{request.method} is not taken at {path}"
        case _:
            return error.detail


def _field(fault: Mapping[str, Any]) -> str:
    """The name of the parameter, or the path to the part of the body, that is wrong."""
    place, *path = fault["loc"]
    if fault["type"] == "json_invalid":  # there, the path is the position in the text
        path = []
    return _encodable(".".join(str(step)[:100] for step in path) or str(place))


def _complaint(fault: Mapping[str, Any]) -> str:
    if fault["type"] == "missing":
        return "is required"
    if fault["type"] == "json_invalid":
        return f"not JSON: {fault['ctx']['error']} at character {fault['loc'][-1]}"
    # "Input should be a valid integer, unable to parse string as an integer"
    said = str(fault["msg"]).partition(", unable to ")[0].removeprefix("Value error, ")
    takes = said.replace("Input should be ", "takes ", 1)
    return _encodable(f"{takes}; got {shown(fault['input'])}")


# --- OpenAPI -----------------------------------------------------------------------------------


def _with_our_422(openapi: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """FastAPI documents its own shape of a 422; ours replaces it wherever it stands."""

    def ours() -> dict[str, Any]:
        document = openapi()
        schemas = document.get("components", {}).get("schemas", {})
        if schemas.pop("HTTPValidationError", None) is not None:  # else done, or nothing to do
            schemas.pop("ValidationError", None)
            schemas.update(_error_schemas())
            for schema in _schemas_of_422(document):
                if schema.get("$ref") == f"{_REFERENCE}HTTPValidationError":
                    schema["$ref"] = f"{_REFERENCE}ErrorResponse"
        return document

    return ours


def _error_schemas() -> dict[str, Any]:
    schema = ErrorResponse.model_json_schema(ref_template=f"{_REFERENCE}{{model}}")
    return {**schema.pop("$defs"), "ErrorResponse": schema}


def _schemas_of_422(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for path in document.get("paths", {}).values():
        for operation in path.values():
            if isinstance(operation, dict):
                answer = operation.get("responses", {}).get("422", {})
                yield from (content["schema"] for content in answer.get("content", {}).values())
