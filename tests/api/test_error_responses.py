import socket
from typing import Annotated

import asyncpg
import pytest
import structlog
from fastapi import Body, FastAPI, HTTPException, Query
from pydantic import BaseModel
from starlette.testclient import TestClient

from stockpulse.api import error_responses as errors
from stockpulse.api.error_responses import ErrorResponse, error_responses
from stockpulse.errors import (
    DatabaseUnavailable,
    Fenced,
    InvalidInput,
    NotFound,
    OutcomeUnknown,
    TooLarge,
    Unavailable,
    shown,
)
from stockpulse.postgres.connect import TRANSIENT


class Order(BaseModel):
    price: float
    tags: dict[str, int] = {}


def app_that_raises(error):
    app = FastAPI()
    errors.install(app)

    @app.get("/")
    async def fail():
        raise error

    return app


def answer_to(error):
    return TestClient(app_that_raises(error), raise_server_exceptions=False).get("/")


@pytest.fixture
def client():
    app = FastAPI()
    errors.install(app)

    @app.get("/bars/{symbol}", responses=error_responses(404, 503))
    async def bars(symbol: str, limit: Annotated[int, Query(le=100)] = 10):
        return [symbol, limit]

    @app.post("/orders")
    async def orders(order: Annotated[Order, Body()]):
        return order

    return TestClient(app, raise_server_exceptions=False)


@pytest.mark.parametrize(
    ("error", "status", "code", "details"),
    [
        (InvalidInput("limit", "takes 1 to 100"), 422, "INVALID_INPUT", {"field": "limit"}),
        (NotFound("no such symbol: 'ACME'"), 404, "NOT_FOUND", None),
        (TooLarge(), 413, "TOO_LARGE", None),
        (OutcomeUnknown(), 503, "OUTCOME_UNKNOWN", None),
        (Unavailable(), 503, "UNAVAILABLE", None),
        (DatabaseUnavailable(), 503, "UNAVAILABLE", None),
    ],
)
def test_our_own_errors(error, status, code, details):
    answer = answer_to(error)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"error": {"code": code, "message": str(error), "details": details}}
    assert answer.headers.get("retry-after") == ("1" if status == 503 else None)


async def raised_while_connecting(**options):
    with pytest.raises((OSError, asyncpg.PostgresError)) as raised:
        await asyncpg.connect(user="nobody", **options)
    return raised.value


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"),
        asyncpg.CannotConnectNowError("the database system is starting up"),
        asyncpg.AdminShutdownError("terminating connection due to administrator command"),
        asyncpg.DeadlockDetectedError("deadlock detected"),
        asyncpg.LockNotAvailableError("canceling statement due to lock timeout"),
        asyncpg.QueryCanceledError("canceling statement due to statement timeout"),
        asyncpg.DiskFullError("could not extend file"),
        asyncpg.TooManyConnectionsError("sorry, too many clients already"),
        asyncpg.InterfaceError("pool is closed"),
        asyncpg.InterfaceError("pool is closing"),
        asyncpg.InterfaceError("cannot perform operation: connection is closed"),
        ConnectionRefusedError(111, "Connect call failed"),
        socket.gaierror(-2, "Name or service not known"),
        TimeoutError(),
    ],
    ids=repr,
)
def test_a_database_that_is_away(error):
    assert isinstance(error, TRANSIENT)
    answer = answer_to(error)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"]["code"] == "UNAVAILABLE"


async def test_a_socket_file_that_is_not_there(tmp_path):
    # Not a ConnectionError: only the trace shows that it rose while the database was called.
    error = await raised_while_connecting(host=str(tmp_path))
    assert isinstance(error, FileNotFoundError)
    assert answer_to(error).status_code == 503


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("secret"),
        Fenced("secret"),
        OSError(28, "secret: no space left on device"),
        FileNotFoundError("secret"),
        asyncpg.InterfaceError("secret: another operation is in progress"),
        asyncpg.UndefinedTableError('relation "secret" does not exist'),
    ],
    ids=repr,
)
def test_a_fault_is_logged_and_not_told(error):
    with structlog.testing.capture_logs() as logs:
        answer = answer_to(error)
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "INTERNAL"
    assert "secret" not in answer.text
    (log,) = logs
    assert (log["event"], log["log_level"], log["exc_info"]) == ("request_failed", "error", error)


def test_an_unknown_path_and_a_wrong_method(client):
    unknown = client.get("/nowhere")
    assert unknown.status_code == 404
    assert unknown.json()["error"] == {
        "code": "NOT_FOUND",
        "message": "nothing is served at '/nowhere'",
        "details": None,
    }
    wrong = client.delete("/bars/AAPL")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET")
    assert wrong.json()["error"]["code"] == "METHOD_NOT_ALLOWED"


@pytest.mark.parametrize(
    ("error", "body"),
    [
        (HTTPException(401, "who are you?"), ("UNAUTHORIZED", "who are you?", None)),
        (HTTPException(404, "no such job"), ("NOT_FOUND", "no such job", None)),
        (HTTPException(409, {"id": 7}), ("CONFLICT", "Conflict", {"id": 7})),
        (HTTPException(413, "much"), ("TOO_LARGE", "much", None)),
        (HTTPException(499, "odd"), ("HTTP_499", "odd", None)),
    ],
)
def test_http_exceptions_keep_their_words(error, body):
    answer = answer_to(error)
    assert answer.status_code == error.status_code
    assert tuple(answer.json()["error"].values()) == body


def test_http_exceptions_keep_their_headers_and_may_have_no_body():
    assert answer_to(HTTPException(401, headers={"WWW-Authenticate": "Bearer"})).headers["www-authenticate"] == "Bearer"
    assert answer_to(HTTPException(304)).content == b""


def test_a_wrong_parameter_is_named_with_what_it_takes(client):
    body = client.get("/bars/AAPL?limit=many").json()["error"]
    assert body["message"] == "limit: takes a valid integer; got 'many'"
    assert body["details"] == [{"field": "limit", "message": "takes a valid integer; got 'many'"}]
    assert client.get("/bars/AAPL?limit=101").json()["error"]["message"] == (
        "limit: takes less than or equal to 100; got '101'"
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{}", "price: is required"),
        (b"", "body: is required"),
        (
            b'{"price": "x", "tags": {"a": "b"}}',
            "price: takes a valid number; got 'x'; tags.a: takes a valid integer; got 'b'",
        ),
        (b'{"price": ', "body: not JSON: Expecting value at character 10"),
        (b'{"price": [NaN, Infinity]}', "price: takes a valid number; got [nan, inf]"),
    ],
)
def test_a_wrong_body(client, body, message):
    answer = client.post("/orders", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["error"]["message"] == message


def test_whatever_is_sent_the_answer_stays_short(client):
    answer = client.post("/orders", json={"price": "x" * 100_000, "tags": {str(i): "y" * 1000 for i in range(1000)}})
    assert answer.status_code == 422
    assert len(answer.content) < 8_000
    assert len(shown({"a": ["b" * 10_000] * 10_000})) < 1_000


def test_what_json_cannot_say(client):
    halves = b'{"price": 1, "tags": {"\\ud800": "\\udfff"}}'  # of surrogate pairs
    assert client.post("/orders", content=halves, headers={"content-type": "application/json"}).status_code == 422
    assert answer_to(InvalidInput("name", "\ud800")).json()["error"]["message"] == "name: \\ud800"
    assert answer_to(HTTPException(400, {"n": 2**70, "s": "\ud800"})).json()["error"]["code"] == "BAD_REQUEST"


def test_openapi_shows_our_shape_only(client):
    document = client.get("/openapi.json").json()
    assert client.get("/openapi.json").json() == document
    assert "HTTPValidationError" not in str(document)
    ours = {"$ref": "#/components/schemas/ErrorResponse"}
    for path, statuses in (("/bars/{symbol}", ("404", "422", "503")), ("/orders", ("422",))):
        (operation,) = document["paths"][path].values()
        for status in statuses:
            assert operation["responses"][status]["content"]["application/json"]["schema"] == ours
    assert set(document["components"]["schemas"]) == {"ErrorBody", "ErrorResponse", "Order"}


def test_the_model_is_the_shape():
    assert ErrorResponse.model_validate(answer_to(NotFound()).json()).error.code == "NOT_FOUND"
