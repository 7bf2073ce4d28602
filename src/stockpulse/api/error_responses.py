"""The format of every error over HTTP: `{"error": {"code", "message", "details"}}`."""

from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, Final

import orjson
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match

from stockpulse import errors
from stockpulse.api.browser_headers import BROWSER_HEADERS
from stockpulse.errors import shown
from stockpulse.postgres.connect import TRANSIENT, is_outage

_log = structlog.get_logger(__name__)

_RETRY_SOON: Final = {"Retry-After": "1"}
_METHODS: Final = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
_REFERENCE: Final = "#/components/schemas/"
_LONGEST_MESSAGE: Final = 2_000
_MOST_DETAILS: Final = 20

#: Error codes that differ from the customary name of the status.
_CODES: Final = {413: "TOO_LARGE", 422: "INVALID_INPUT", 500: "INTERNAL", 503: "UNAVAILABLE"}

_KINDS: Final[dict[type[errors.StockPulseError], tuple[int, str]]] = {
    errors.Forbidden: (403, "FORBIDDEN"),
    errors.NotFound: (404, "NOT_FOUND"),
    errors.TooLarge: (413, "TOO_LARGE"),
    errors.Misdirected: (421, "MISDIRECTED_REQUEST"),
    errors.InvalidInput: (422, "INVALID_INPUT"),
    errors.OutcomeUnknown: (503, "OUTCOME_UNKNOWN"),
    errors.Unavailable: (503, "UNAVAILABLE"),
}
"""Status and code of each kind of error; the first that fits holds."""


class ErrorBody(BaseModel):
    """An error."""

    code: str = Field(examples=["NOT_FOUND"], description="The kind of error, stable, for programs.")
    message: str = Field(examples=["no such symbol: 'ACME'"], description="The cause, for people.")
    details: Any = Field(default=None, description="More about the cause, or null.")


class ErrorResponse(BaseModel):
    """The shape of every error."""

    error: ErrorBody


def install(app: FastAPI) -> None:
    """Make every error of `app` an `ErrorResponse`, in its answers and in its OpenAPI."""
    app.add_exception_handler(errors.StockPulseError, _on_stockpulse_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_exception)
    for fault in TRANSIENT:
        app.add_exception_handler(fault, _on_possible_outage)
    app.add_exception_handler(ClientDisconnect, _on_client_gone)
    app.add_exception_handler(Exception, _on_fault)
    app.openapi = _with_our_422(app.openapi)  # type: ignore[method-assign]


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the `responses=` of a route whose errors with these statuses are an `ErrorResponse`."""
    return {status: {"model": ErrorResponse, "description": HTTPStatus(status).phrase} for status in statuses}


def unavailable(error: errors.Unavailable | errors.OutcomeUnknown) -> Response:
    """Return the answer to a request that was given up."""
    code = "OUTCOME_UNKNOWN" if isinstance(error, errors.OutcomeUnknown) else "UNAVAILABLE"
    return _answer(503, code, str(error), headers=_RETRY_SOON)


# --- the answer to each exception --------------------------------------------------------------


async def _on_stockpulse_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.StockPulseError)  # noqa: S101  # it is registered for these
    response = error_response(error)
    return await _on_fault(request, error) if response.status_code == HTTPStatus.INTERNAL_SERVER_ERROR else response


def error_response(error: errors.StockPulseError) -> Response:
    """Return the response that says this."""
    for kind, (status, code) in _KINDS.items():
        if isinstance(error, kind):
            details = {"field": error.field} if isinstance(error, errors.InvalidInput) else None
            headers = _RETRY_SOON if status == HTTPStatus.SERVICE_UNAVAILABLE else None
            return _answer(status, code, str(error), details, headers=headers)
    return _fault()


def described_error(error: errors.StockPulseError) -> dict[str, Any]:
    """Return the fields of the error: code, message, details."""
    fields: dict[str, Any] = orjson.loads(error_response(error).body)["error"]
    return fields


async def _on_invalid_request(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101  # it is registered for these
    details = [{"field": field, "message": complaint} for field, complaint in complaints_of(error)]
    message = "; ".join(f"{one['field']}: {one['message']}" for one in details)
    return _answer(422, "INVALID_INPUT", message, details)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  # it is registered for these
    status = error.status_code
    if status < 200 or status in (204, 304):  # noqa: PLR2004  # these have no body
        return Response(status_code=status, headers=error.headers)
    headers = {"Allow": _allowed(request)} if status == HTTPStatus.METHOD_NOT_ALLOWED else error.headers
    if isinstance(error.detail, str):
        return _answer(status, _code(status), _http_message(request, error), headers=headers)
    return _answer(status, _code(status), HTTPStatus(status).phrase, error.detail, headers=error.headers)


def _allowed(request: Request) -> str:
    """Return the methods of all routes of a path. Starlette names those of the first one only."""
    routes = request.app.router.routes
    scopes = {method: {**request.scope, "method": method} for method in _METHODS}
    return ", ".join(
        method for method, scope in scopes.items() if any(route.matches(scope)[0] is Match.FULL for route in routes)
    )


async def _on_possible_outage(request: Request, error: Exception) -> Response:
    if not is_outage(error):
        return await _on_fault(request, error)
    _log.warning("request_met_an_outage", path=request.url.path, fault=repr(error))
    return _answer(503, "UNAVAILABLE", str(errors.Unavailable()), headers=_RETRY_SOON)


async def _on_client_gone(_: Request, __: Exception) -> Response:
    return Response(status_code=400)  # no client reads it, and nothing is wrong here


async def _on_fault(request: Request, error: Exception) -> Response:
    method = request.scope.get("method", "WEBSOCKET")
    _log.error("request_failed", method=method, path=request.url.path, exc_info=error)
    return _fault()


def _fault() -> Response:
    # These answers are made outside of the middleware that adds the headers to all others.
    return _answer(500, "INTERNAL", "Something went wrong here; it has been logged.", headers=BROWSER_HEADERS)


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
    except TypeError:  # half a surrogate pair, or an integer beyond 64 bits
        body = orjson.dumps({"error": {**error, "details": shown(details)}})
    return Response(body, status, headers=headers, media_type="application/json")


def _encodable(text: str) -> str:
    """Escape half a surrogate pair: JSON and file names can contain one, and UTF-8 cannot."""
    return text.encode("utf-8", "backslashreplace").decode()


def _code(status: int) -> str:
    if status in _CODES:
        return _CODES[status]
    try:
        return HTTPStatus(status).name
    except ValueError:
        return f"HTTP_{status}"


def _http_message(request: Request, error: HTTPException) -> str:
    """Name the path that was not found, unless the handler has its own message."""
    path = shown(request.url.path)
    match error.status_code:
        case 404 if error.detail == HTTPStatus.NOT_FOUND.phrase:
            return f"nothing is served at {path}"
        case 405 if error.detail == HTTPStatus.METHOD_NOT_ALLOWED.phrase:
            return f"{request.method} is not taken at {path}"
        case _:
            return error.detail


def complaints_of(error: RequestValidationError) -> list[tuple[str, str]]:
    """Return the name of each wrong parameter, and what is wrong with it."""
    faults = error.errors()[:_MOST_DETAILS]  # every item of a long list can be wrong
    # Two dependencies of a route may read the same parameter: its fault is reported once.
    return list(dict.fromkeys((_field(fault), _complaint(fault)) for fault in faults))


def _field(fault: Mapping[str, Any]) -> str:
    """Return the name of the wrong parameter, or the path to the wrong part of the body."""
    place, *path = fault["loc"]
    if fault["type"] == "json_invalid":  # here the path is the position in the text
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
    """Replace FastAPI's own shape of a 422 by ours."""

    def ours() -> dict[str, Any]:
        document = openapi()
        schemas = document.get("components", {}).get("schemas", {})
        if schemas.pop("HTTPValidationError", None) is not None:  # otherwise it is done already
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
