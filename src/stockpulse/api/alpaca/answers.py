"""Answers in Alpaca's form: JSON with its headers, and errors as `{"message": …}`."""

import time
from collections.abc import Mapping
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

from stockpulse import errors
from stockpulse.aio import offload
from stockpulse.api.error_responses import complaints_of
from stockpulse.postgres.connect import TRANSIENT, is_outage

_log = structlog.get_logger(__name__)

_PER_MINUTE: Final = 10_000
_MINUTE: Final = 60

_STATUS: Final[dict[type[errors.StockPulseError], int]] = {
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.DatabaseUnavailable: 504,
    errors.Unavailable: 429,
    errors.InvalidInput: 400,
    errors.TooLarge: 400,
}
"""The status of each kind of error; the first that fits holds. Alpaca's libraries ask again after 429 and 504."""


class ErrorMessage(BaseModel):
    """The shape of every error."""

    message: str = Field(examples=["invalid symbol: '*'"])


#: The `responses=` of all routes.
ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": ErrorMessage, "description": HTTPStatus(status).phrase} for status in (400, 404, 429, 504)
}


async def answer(content: Mapping[str, Any], rows: int = 1) -> Response:
    """Return a JSON answer; a large one is encoded in a thread."""
    body = await offload.run_for_reader(rows, lambda: orjson.dumps(content))
    return Response(body, headers=_rate_headers(), media_type="application/json")


def message(status: int, text: str) -> Response:
    """Return an error."""
    body = orjson.dumps({"message": text.encode("utf-8", "backslashreplace").decode()})
    return Response(body, status, headers=_rate_headers(), media_type="application/json")


def _rate_headers() -> dict[str, str]:
    """Return the headers of Alpaca's rate limit. StockPulse has none: all requests of the minute are always left."""
    reset = int(time.time()) + _MINUTE
    return {
        "X-RateLimit-Limit": str(_PER_MINUTE),
        "X-RateLimit-Remaining": str(_PER_MINUTE),
        "X-RateLimit-Reset": str(reset),
    }


# Errors -----------------------------------------------------------------------------------------


def install(app: FastAPI) -> None:
    """Make every error of `app` an `ErrorMessage`."""
    app.add_exception_handler(errors.StockPulseError, _on_stockpulse_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_exception)
    for fault in TRANSIENT:
        app.add_exception_handler(fault, _on_possible_outage)
    app.add_exception_handler(ClientDisconnect, _on_client_gone)
    app.add_exception_handler(Exception, _on_fault)


async def _on_stockpulse_error(request: Request, error: Exception) -> Response:
    for kind, status in _STATUS.items():
        if isinstance(error, kind):
            return message(status, _text(error))
    return await _on_fault(request, error)


def _text(error: Exception) -> str:
    """Return the message of an error: "invalid symbol: …" without the name of its parameter, as Alpaca says it."""
    text = str(error)
    field, _, rest = text.partition(": ")
    return rest if isinstance(error, errors.InvalidInput) and rest.startswith("invalid ") else text or field


async def _on_invalid_request(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101  # it is registered for these
    return message(400, "; ".join(f"{field}: {complaint}" for field, complaint in complaints_of(error)))


async def _on_http_exception(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  # it is registered for these
    return message(error.status_code, str(error.detail))


async def _on_possible_outage(request: Request, error: Exception) -> Response:
    if not is_outage(error):
        return await _on_fault(request, error)
    _log.warning("request_met_an_outage", path=request.url.path, fault=repr(error))
    return message(504, str(errors.DatabaseUnavailable()))


async def _on_client_gone(_: Request, __: Exception) -> Response:
    return Response(status_code=400)  # no client reads it, and nothing is wrong here


async def _on_fault(_: Request, __: Exception) -> Response:
    # Starlette raises the error again after this answer, and the handler of the whole app logs it.
    return message(500, "internal server error")
