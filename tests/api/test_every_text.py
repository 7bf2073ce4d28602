"""No text makes a 500: every parameter of the OpenAPI document, and every field of a tick, gets a corpus of texts."""

import asyncio
from typing import Any
from urllib.parse import quote, unquote

import httpx2
import orjson
import pytest

from conftest import Serve
from stockpulse.market.calendars import trading_calendar

NUL = "%00"
TEXTS = [
    NUL,
    "AAPL%00",
    "%ED%A0%80",  # half a surrogate pair, in bytes that are not valid UTF-8
    "%FF%FE",
    "%F4%90%80%80",  # beyond Unicode
    "x" * 70_000,
    "%C3%A9" * 24_000,
    *(
        quote(text, safe="")
        for text in (
            "",
            " ",
            "'",
            '"',
            "\\",
            "';--",
            "' OR '1'='1",
            "AAPL' AND pg_sleep(5)--",
            "1;DROP TABLE symbols;--",
            "') UNION SELECT version()--",
            "$1",
            "$$",
            "%",
            "%s%n%x",
            "%00",
            "{0}",
            "{{7*7}}",
            "${jndi:ldap://x}",
            "`id`",
            "$(id)",
            "| id",
            "../../../../etc/passwd",
            "..\\..\\x",
            "file:///etc/passwd",
            "<script>alert(1)</script>",
            "\r\nSet-Cookie: a=b",
            "\u202e\U0001f600",
            "\ufeff\u200b",
            "\x1b[31m",
            "\x7f",
            "NaN",
            "-1e400",
            "9" * 5_000,
            "(" * 900,
            "a[" * 300,
            "not " * 200,
            "null",
            "[]",
        )
    ),
]
SHORT = 3
"""Every parameter of every path gets the first of these."""

FIELDS = ("symbol", "ts", "exchange", "trade_id", "conditions", "tape", "price", "size", "unknown")
VALUES = [
    r"\u0000",
    r"A\u0000B",
    r"\ud800",
    r"\udfff\ud800",
    "x" * 70_000,
    "é" * 35_000,
    "';--",
    r"\u001f",
    r"\r\n",
    "NaN",
    r"\\",
]


@pytest.fixture(scope="module", autouse=True)
def _calendar_made() -> None:
    """Not first while the app does the same in a thread: filters of warnings are shared by all threads."""
    trading_calendar("XNYS")


def text_parameters(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any], dict[str, str]]]:
    """Return method, path, parameter and the required query of each parameter that is text on the wire: all of them."""
    found = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parameters = operation.get("parameters", [])
            required = {
                one["name"]: quote(str(one["schema"]["examples"][0]))
                for one in parameters
                if one["in"] == "query" and one["required"]
            }
            found += [(method, path, parameter, required) for parameter in parameters]
    return found


async def asked(client: httpx2.AsyncClient, method: str, path: str, query: str) -> tuple[int, bytes]:
    """Ask the app as uvicorn does; the client would refuse an address of 70 KB. Return status and body."""
    raw = path.encode()
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": raw,
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 5000),
        "server": ("127.0.0.1", 8000),
        "extensions": {},
    }
    sent: list[dict[str, Any]] = []

    bodies = iter([b"[]" if method == "POST" else b""])

    async def receive() -> dict[str, Any]:
        if (content := next(bodies, None)) is None:
            await asyncio.Event().wait()  # the caller stays
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await client._transport.app(scope, receive, send)
    start, *parts = sent
    return start["status"], b"".join(part["body"] for part in parts)


def refused(answer: httpx2.Response) -> bool:
    """Return True for an error of the caller, in the shape of all errors; False for a success."""
    assert answer.status_code < 500, (answer.request.url, answer.text[:500])
    if answer.is_success:
        return False
    assert list(answer.json()) == ["error"]
    assert len(answer.content) < 5_000
    return True


@pytest.mark.thorough
async def test_no_parameter_makes_a_500(client: httpx2.AsyncClient) -> None:
    tick = {"symbol": "AAPL", "ts": "2025-11-28T15:00:00Z", "price": 1, "size": 1}
    assert (await client.post("/ticks?clock=event", json=[tick])).json()["accepted"] == 1
    parameters = text_parameters((await client.get("/openapi.json")).json())
    assert len(parameters) > 60
    seen = set()
    for method, path, parameter, required in parameters:
        kind = orjson.dumps((parameter["name"], parameter["schema"]))
        texts = TEXTS[:SHORT] if kind in seen else TEXTS  # the same reader, behind another path
        seen.add(kind)
        for text in texts:
            if parameter["in"] == "path":
                target, query = path.replace("{symbol}", text), required
            else:
                target, query = path.replace("{symbol}", "AAPL"), required | {parameter["name"]: text}
            encoded = "&".join(f"{name}={value}" for name, value in query.items())
            status, body = await asked(client, method.upper(), target, encoded)
            place = method, path, parameter["name"], text[:100]
            assert status < 500, (place, body)
            if status >= 400:
                assert list(orjson.loads(body)) == ["error"], place
                assert len(body) < 5_000, place
            assert status >= 400 or text != NUL, place
    assert (await client.get("/symbols")).json() == {"symbols": ["AAPL"]}
    assert (await client.get("/ready")).status_code == 200


@pytest.mark.thorough
async def test_no_field_of_a_tick_makes_a_500(client: httpx2.AsyncClient) -> None:
    good = {"symbol": "AAPL", "ts": "2025-11-28T15:00:00Z", "price": 1, "size": 1}
    for content_type in ("application/json", "application/x-ndjson"):
        for field in FIELDS:
            for value in VALUES:
                row = orjson.dumps({**good, field: "MARK"}).replace(b"MARK", value.encode())
                refused(await client.post("/ticks", content=row, headers={"Content-Type": content_type}))
    letters = await client.get("/dead-letters?limit=10000")
    assert letters.status_code == 200
    assert len(letters.json()["dead_letters"]) > 50
    assert (await client.post("/dead-letters/retry?limit=10000")).status_code == 200


async def test_a_number_that_json_does_not_have_refuses_its_row_only(client: httpx2.AsyncClient) -> None:
    body = b"""[{"symbol":"AAPL","ts":"2025-11-28T15:00:00Z","price":NaN,"size":1},
        {"symbol":"AAPL","ts":"2025-11-28T15:00:00Z","price":1,"size":-Infinity},
        {"symbol":NaN,"ts":"2025-11-28T15:00:00Z","price":1,"size":1},
        {"symbol":"AAPL","ts":Infinity,"price":1,"size":1},
        {"symbol":"AAPL","ts":"2025-11-28T15:00:00Z","price":2,"size":1,"note":"NaN, \\"Infinity\\""}]"""
    answer = (await client.post("/ticks", content=body)).json()
    assert answer["accepted"] == 1
    reasons = {one["row"]: one["reason"].partition(":")[0] for one in answer["rejected"]}
    assert reasons == {0: "price", 1: "size", 2: "symbol", 3: "ts"}
    assert [tick["price"] for tick in (await client.get("/ticks/latest?symbol=AAPL")).json()["ticks"]] == [2]


async def test_new_kinds_of_ticks_have_a_limit(serve: Serve, postgres_dsn: str) -> None:
    def row(exchange: str, **more: str) -> dict[str, object]:
        return {"symbol": "AAPL", "ts": "2025-11-28T15:00:00Z", "price": 1, "size": 1, "exchange": exchange, **more}

    async with serve(postgres_dsn, max_tick_kinds=2) as client:
        for _ in range(2):  # the first batch makes the kinds, the second finds them
            answer = (await client.post("/ticks", json=[row("A"), row("B"), row("C"), row("A"), row("B")])).json()
            assert answer["accepted"] == 4
            assert [one["row"] for one in answer["rejected"]] == [2]
            assert "STOCKPULSE_MAX_TICK_KINDS" in answer["rejected"][0]["reason"]
        answer = (await client.post("/ticks", json=[row("A", conditions="@"), {**row("A"), "price": 0}])).json()
        assert [one["row"] for one in answer["rejected"]] == [0, 1]
        letters = (await client.get("/dead-letters")).json()["dead_letters"]
        assert any('"exchange":"C"' in letter["record"] for letter in letters)


async def test_new_symbols_have_a_limit_and_can_be_sent_again(serve: Serve, postgres_dsn: str) -> None:
    def row(symbol: str) -> dict[str, object]:
        return {"symbol": symbol, "ts": "2025-11-28T15:00:00Z", "price": 1, "size": 1}

    async with serve(postgres_dsn, max_symbols=2) as client:
        for _ in range(2):
            answer = (await client.post("/ticks", json=[row("A"), row("B"), row("C"), row("A")])).json()
            assert answer["accepted"] == 3
            assert [one["row"] for one in answer["rejected"]] == [2]
            assert "STOCKPULSE_MAX_SYMBOLS" in answer["rejected"][0]["reason"]
        retried = (await client.post("/dead-letters/retry")).json()
        assert (retried["retried"], len(retried["refused"])) == (0, 2)
        assert len((await client.get("/dead-letters")).json()["dead_letters"]) == 2
    async with serve(postgres_dsn, max_symbols=1) as client:  # what is known stays so under a lower limit
        assert (await client.post("/ticks", json=[row("A"), row("B")])).json()["accepted"] == 2
    async with serve(postgres_dsn) as client:
        assert (await client.post("/dead-letters/retry")).json() == {"retried": 2, "refused": {}}
        assert len((await client.get("/ticks/latest?symbol=C")).json()["ticks"]) == 2


async def test_new_providers_have_a_limit(serve: Serve, postgres_dsn: str) -> None:
    row = {"symbol": "A", "ts": "2025-11-28T15:00:00Z", "price": 1, "size": 1}
    async with serve(postgres_dsn, max_providers=2) as client:
        assert [
            (await client.post(f"/ticks?provider={name}", json=[row])).json()["accepted"]
            for name in ("a", "b", "c", "a")
        ] == [1, 1, 0, 1]
