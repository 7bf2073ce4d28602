"""The rules for every path: the format of errors, checked parameters, the documentation."""

import asyncio
import socket
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import orjson
import pytest
import uvicorn
from pydantic import TypeAdapter

from stockpulse import __version__
from stockpulse.api import analytics, backfill, bars, coverage, data, health, signals, symbols, ticks
from stockpulse.app import create_app
from stockpulse.market.calendars import trading_calendar
from stockpulse.settings import Settings

START = datetime(2025, 11, 28, 15, tzinfo=UTC)
SECOND = timedelta(seconds=1)


@pytest.fixture(scope="module", autouse=True)
def _calendar_made():
    """Not first while the app does the same in a thread: filters of warnings are shared by all threads."""
    trading_calendar("XNYS")


@pytest.fixture
async def market(client):
    """AAPL and BTC/USD, ten ticks a second apart each."""
    rows = [
        {"symbol": symbol, "ts": (START + second * SECOND).isoformat(), "price": 100 + second, "size": 1}
        for symbol in ("AAPL", "BTC/USD")
        for second in range(10)
    ]
    answer = await client.post("/ticks?clock=event", content=orjson.dumps(rows))
    assert answer.json()["accepted"] == 20
    while (await client.get("/health")).json()["tasks"]["step"]["lag"]:
        await asyncio.sleep(0.005)
    return client


GETS = [
    "/health",
    "/ready",
    "/version",
    "/metrics",
    "/symbols",
    "/ticks/latest?symbol=AAPL",
    "/ticks/summary?symbol=AAPL",
    "/bars/latest?symbol=AAPL",
    "/bars/summary?symbol=AAPL",
    "/movers",
    "/coverage/AAPL?interval=5m",
    "/data/AAPL?interval=1m",
    "/ohlc/AAPL?interval=1m",
    "/data/AAPL?interval=10s",
    "/ohlc/AAPL?interval=10s&fill=forward",
    "/analytics/AAPL",
    "/analytics/intraday/AAPL",
    "/analytics/daily/AAPL",
    "/indicators",
    "/indicators/AAPL?type=rsi&interval=1m",
    "/signals",
    "/signals/AAPL",
    "/screen?where=close>0&interval=1m",
]
MODELS = {
    "/health": health.Health,
    "/ready": health.Readiness,
    "/version": health.Version,
    "/symbols": symbols.Symbols,
    "/ticks/latest": ticks.LatestTicks,
    "/ticks/summary": ticks.TickWindow,
    "/bars/latest": bars.LatestBars,
    "/bars/summary": bars.BarWindow,
    "/movers": bars.Movers,
    "/coverage/AAPL": coverage.Coverage,
    "/backfill": backfill.Backfills,
    "/data/AAPL": data.Bars,
    "/ohlc/AAPL": data.LatestOhlc,
    "/analytics/AAPL": analytics.Tiers,
    "/analytics/intraday/AAPL": analytics.AnalyticsOfBars,
    "/analytics/daily/AAPL": analytics.AnalyticsOfBars,
    "/indicators": analytics.Catalogue,
    "/indicators/AAPL": analytics.IndicatorValues,
    "/signals": signals.Signals,
    "/signals/AAPL": signals.Signals,
    "/screen": signals.Screen,
}


def error_of(answer, status, code):
    """The error, when the answer has the shape that all errors have."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json"), answer.text
    body = answer.json()
    assert list(body) == ["error"]
    assert list(body["error"]) == ["code", "message", "details"]
    assert body["error"]["code"] == code
    assert "Traceback" not in body["error"]["message"]
    return body["error"]


# --- every path --------------------------------------------------------------------------------


async def test_every_path_answers_under_each_prefix_and_as_documented(market):
    for path in GETS:
        answers = [await market.get(f"{prefix}{path}") for prefix in ("/api/v1", "/api", "")]
        assert [answer.status_code for answer in answers] == [200] * 3, path
        name = path.partition("?")[0]
        if name in MODELS:
            for answer in answers:
                model = MODELS[name].model_validate(answer.json())
                # Of stored analytics the count is said where it is known before the rows are.
                assert set(answer.json()) - {"count"} == set(type(model).model_fields) - {"count"}, path
        else:
            assert answers[0].headers["content-type"].startswith("text/plain; version=")


async def test_the_state_of_the_process(market):
    body = (await market.get("/health")).json()
    assert (body["status"], body["db"]) == ("ok", "ok")
    assert {"assign_ids", "append", "step", "flush"} <= set(body["tasks"])
    assert {task["restarts"] for task in body["tasks"].values()} == {0}
    assert (await market.get("/ready")).json() == {"status": "ready"}
    assert (await market.get("/version")).json() == {"name": "stockpulse", "version": __version__}


async def test_metrics_count_ticks_and_requests_by_template(market):
    for path in ("/data/AAPL", "/data/BTC/USD", "/data/NOPE", "/nowhere/1", "/nowhere/2"):
        await market.get(path)
    await market.head("/symbols")
    await market.request("BREW", "/symbols")  # clients can also invent any number of methods
    lines = (await market.get("/metrics")).text.splitlines()
    assert "stockpulse_ticks_total 20.0" in lines
    requests = [line for line in lines if line.startswith("stockpulse_http_requests_total")]
    counted = {line.partition("{")[2].rpartition("}")[0]: line.split()[-1] for line in requests}
    assert counted['method="GET",route="/data/{symbol}",status="200"'] == "2.0"
    assert counted['method="GET",route="/data/{symbol}",status="404"'] == "1.0"
    assert counted['method="GET",route="(none)",status="404"'] == "2.0"
    assert counted['method="HEAD",route="/symbols",status="200"'] == "1.0"
    assert counted['method="(other)",route="/symbols",status="405"'] == "1.0"


async def test_methods(market):
    for path in GETS:
        head = await market.head(path)
        assert (head.status_code, head.content) == (200, b"")
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
            answer = await market.request(method, path)
            error_of(answer, 405, "METHOD_NOT_ALLOWED")
            assert answer.headers["allow"] == "GET"
    for method in ("GET", "HEAD", "PUT", "OPTIONS"):
        answer = await market.request(method, "/ticks")
        assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE, POST")


async def test_a_slash_at_the_end_is_forgiven(market):
    for path in GETS:
        name, question, query = path.partition("?")
        answer = await market.get(f"{name}/{question}{query}", follow_redirects=True)
        assert answer.status_code == 200, path
    answer = await market.post("/ticks/", content=b"[]", follow_redirects=True)
    assert answer.json()["accepted"] == 0


# --- errors ------------------------------------------------------------------------------------


async def test_a_path_that_is_none(client):
    for path in (
        *("/nowhere", "/api/v1", "/api/v2/health", "/data/", "/ticks/oldest"),
        *("/%00", "/%ff", "/" + "a" * 60_000, "/a" * 20_000, "/openapi.json/x"),
    ):
        error = error_of(await client.get(path), 404, "NOT_FOUND")
        assert len(error["message"]) < 300


async def test_a_symbol_that_is_none(market):
    for path in (
        *("/ticks/latest", "/ticks/summary", "/bars/latest", "/bars/summary"),
        *("/data/{}", "/ohlc/{}", "/api/data/{}", "/api/v1/ohlc/{}"),
        *("/analytics/{}", "/analytics/intraday/{}", "/api/analytics/daily/{}"),
        *("/indicators/{}?type=rsi", "/api/v1/signals/{}"),
    ):
        for symbol in ("NOPE", "AAPL ; DROP TABLE symbols", "BTC", "BTC/", "BTC/USD/X", "*", "%", "\0"):
            if "{}" in path:
                answer = await market.get(path.format(quote(symbol)))
            else:
                answer = await market.get(path, params={"symbol": symbol})
            error_of(answer, 404, "NOT_FOUND")


COUNTS = [
    "0",
    "-1",
    "10001",
    "99999999999999999999999",
    "9" * 5000,
    "1e3",
    "1.5",
    "NaN",
    "Infinity",
    "ten",
    "",
    "0x10",
    "½",
]
TIMES = ["", "yesterday", "NaN", "-1", "2026-13-01", "2026-02-30", "1969-12-31", "2201-01-01", "1e400", "9" * 400, "\0"]
ZONES = ["", "Mars/Olympus", "../../etc/passwd", "/etc/localtime", "posixrules", "UTC+1", "a" * 10_000, "\0", "."]
INTERVALS = ["", "0m", "-1m", "241m", "5h", "2d", "2w", "13mo", "1y", "m5", "1.5h", "\0", "½m", "9" * 5000, "1m;--"]
WRONG = [
    ("/ticks/latest?symbol=AAPL", "limit", COUNTS),
    ("/bars/latest?symbol=AAPL", "limit", COUNTS),
    ("/ohlc/AAPL?interval=1m", "limit", COUNTS),
    ("/movers?minutes=5", "limit", ["1001", *COUNTS]),
    ("/ticks/summary?symbol=AAPL", "minutes", ["43201", *COUNTS[:2], *COUNTS[3:]]),
    ("/bars/summary?symbol=AAPL", "minutes", ["43201", *COUNTS[:2], *COUNTS[3:]]),
    ("/movers?limit=5", "minutes", ["43201", *COUNTS[:2], *COUNTS[3:]]),
    ("/data/AAPL?interval=1m", "start", TIMES),
    ("/data/AAPL?interval=1m", "end", TIMES),
    ("/data/AAPL?interval=1m", "tz", ZONES),
    ("/ticks/latest?symbol=AAPL", "tz", ZONES),
    ("/data/AAPL?format=json", "interval", INTERVALS),
    ("/ohlc/AAPL?format=json", "interval", INTERVALS),
    ("/data/AAPL?format=json", "interval", ["2s", "45s", "s10"]),
    ("/indicators/AAPL?type=rsi", "interval", ["1s", "10s"]),
    ("/data/AAPL?interval=1m", "fill", ["", "Forward", "backward", "0", "\0"]),
    ("/ohlc/AAPL?interval=1m", "fill", ["", "linear"]),
    ("/data/AAPL?interval=1m", "format", ["", "xml", "json,csv", "\0", "a" * 10_000]),
    ("/bars/latest?limit=1", "symbol", ["a" * 65, "a" * 50_000]),
    ("/analytics/intraday/AAPL?tz=UTC", "limit", COUNTS),
    ("/analytics/daily/AAPL?tz=UTC", "start", TIMES),
    ("/analytics/daily/AAPL?tz=UTC", "end", TIMES),
    ("/analytics/AAPL?format=json", "tz", ZONES),
    ("/indicators/AAPL?type=rsi", "interval", INTERVALS),
    ("/indicators/AAPL?type=rsi", "limit", ["100001", *COUNTS[:2], *COUNTS[3:]]),
    ("/indicators/AAPL?type=rsi", "start", TIMES),
    ("/indicators/AAPL?interval=1m", "type", ["", "nope", "rsi;sma", "rsi,", "\0", "a" * 1001]),
    (
        "/indicators/AAPL?type=rsi",
        "period",
        ["", "0", "5001", "1e9", "NaN", "Infinity", "abc", "2.5", "\0", "9" * 5000],
    ),
    ("/signals?rule=a", "limit", COUNTS),
    ("/signals/AAPL?rule=a", "signal", ["", "buy", "KEEP", "\0", "a" * 10_000]),
    ("/signals?limit=1", "rule", ["a" * 65, "a" * 10_000]),
    ("/screen?where=close>1", "interval", ["2m", "1h", "1w", *INTERVALS]),
    ("/screen?interval=1m", "where", ["", "close", "close >", "\0", "a" * 900, "a" * 1001]),
]


async def test_parameters_that_are_not_taken(market):
    for path, name, values in WRONG:
        for value in values:
            error = error_of(await market.get(f"{path}&{name}={quote(value)}"), 422, "INVALID_INPUT")
            details = error["details"] if isinstance(error["details"], list) else [error["details"]]
            assert [one["field"] for one in details] == [name], (path, value)
            assert error["message"].startswith(f"{name}: ")
            assert len(error["message"]) < 500


async def test_what_is_missing_and_what_is_wrong_are_all_named(market):
    error = error_of(await market.get("/ticks/latest?limit=no"), 422, "INVALID_INPUT")
    assert sorted(one["field"] for one in error["details"]) == ["limit", "symbol"]


async def test_the_ends_of_every_range_are_taken(market):
    for path in (
        "/ticks/latest?symbol=AAPL&limit=1",
        "/ticks/latest?symbol=AAPL&limit=10000",
        "/ohlc/AAPL?limit=10000&interval=4h&fill=forward",
        "/movers?limit=1000&minutes=43200",
        "/bars/summary?symbol=AAPL&minutes=43200",
        "/data/AAPL?start=0&end=2200-12-31T23:59:59.999999999Z&interval=240m&fill=forward",
        "/data/AAPL?format=JSON&tz=utc",
    ):
        assert (await market.get(path)).status_code == 200, path


async def test_of_a_parameter_that_is_given_twice_the_last_one_counts(market):
    body = (await market.get("/ticks/latest?symbol=NOPE&limit=0&limit=3&symbol=AAPL")).json()
    assert (body["symbol"], body["count"]) == ("AAPL", 3)


async def test_a_range_that_ends_before_it_begins(market):
    error = error_of(await market.get("/data/AAPL?start=2025-11-28&end=2025-11-27"), 422, "INVALID_INPUT")
    assert error["details"] == {"field": "end"}


SQL = [
    "'",
    '"',
    "\\'",
    "';--",
    "' OR '1'='1",
    "AAPL' AND pg_sleep(5)--",
    "1;DROP TABLE symbols;--",
    "') UNION SELECT version()--",
    "$1",
    "%27%20OR%201=1",
    "${jndi:ldap://x}",
    "{{7*7}}",
    "%s%n",
    "<script>alert(1)</script>",
    "\r\nSet-Cookie: a=b",
    "\u202e\U0001f600",
    "\ufeff",
]


@pytest.mark.thorough
async def test_no_text_finds_its_way_into_a_query(market):
    paths = [
        *(f"{path}?symbol=" for path in ("/ticks/latest", "/ticks/summary", "/bars/latest", "/bars/summary")),
        *(f"/data/AAPL?{name}=" for name in ("interval", "start", "end", "tz", "format", "fill", "limit")),
        *(
            "/indicators/AAPL?type=",
            "/indicators/AAPL?type=rsi&period=",
            "/screen?where=",
            "/signals?rule=",
            "/signals?signal=",
        ),
        *("/data/", "/ohlc/", "/"),
    ]
    for text in SQL:
        statuses = {path: (await market.get(path + quote(text, safe=""))).status_code for path in paths}
        assert set(statuses.values()) <= {404, 422, 200}
        # Not one of its own, and a name that no rule has.
        assert [path for path, status in statuses.items() if status == 200] == ["/data/AAPL?limit=", "/signals?rule="]
        for name in ("provider", "calendar", "conditions", "clock"):
            answer = await market.post("/ticks", params={name: text}, content=b"[]")
            error_of(answer, 422, "INVALID_INPUT")
        row = {"symbol": text, "ts": START.isoformat(), "price": 1, "size": 1, "exchange": text, "trade_id": text}
        assert (await market.post("/ticks", content=orjson.dumps([row]))).json()["accepted"] == 0
    assert (await market.get("/symbols")).json() == {"symbols": ["AAPL", "BTC/USD"]}
    assert (await market.get("/ready")).status_code == 200


# --- the documents -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def document():
    return create_app(Settings(_env_file=None, provider="none")).openapi()


def operations(document):
    return {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def test_operations_and_their_ids_are_stable(document):
    """Generated clients name their methods after these: change one and their code breaks."""
    assert {name: operation["operationId"] for name, operation in operations(document).items()} == {
        "GET /api/v1/health": "health",
        "GET /api/v1/ready": "ready",
        "GET /api/v1/version": "version",
        "GET /api/v1/asyncapi.json": "asyncapi",
        "GET /api/v1/metrics": "metrics",
        "GET /api/v1/symbols": "symbols",
        "GET /api/v1/providers": "providers",
        "GET /api/v1/prices/latest": "latest_price",
        "POST /api/v1/prices/poll": "create_polling_job",
        "GET /api/v1/prices/poll": "polling_jobs",
        "GET /api/v1/prices/poll/{job_id}": "polling_job",
        "DELETE /api/v1/prices/poll/{job_id}": "stop_polling_job",
        "POST /api/v1/ticks": "post_ticks",
        "DELETE /api/v1/ticks": "forget_ticks",
        "POST /api/v1/ticks/corrections": "post_corrections",
        "GET /api/v1/ticks/latest": "latest_ticks",
        "GET /api/v1/ticks/summary": "tick_summary",
        "GET /api/v1/bars/latest": "latest_bars",
        "GET /api/v1/bars/summary": "bar_summary",
        "GET /api/v1/movers": "movers",
        "GET /api/v1/data/{symbol}": "data",
        "GET /api/v1/ohlc/{symbol}": "ohlc",
        "GET /api/v1/analytics/{symbol}": "analytics",
        "GET /api/v1/analytics/intraday/{symbol}": "intraday_analytics",
        "GET /api/v1/analytics/daily/{symbol}": "daily_analytics",
        "GET /api/v1/indicators": "catalogue",
        "GET /api/v1/indicators/{symbol}": "indicators",
        "GET /api/v1/signals": "signals",
        "GET /api/v1/signals/{symbol}": "signals_of_symbol",
        "GET /api/v1/screen": "screen",
        "GET /api/v1/coverage/{symbol}": "coverage_of_symbol",
        "POST /api/v1/backfill": "start_backfill",
        "GET /api/v1/backfill": "backfills",
        "GET /api/v1/backfill/{number}": "backfill",
        "GET /api/v1/dead-letters": "dead_letters",
        "POST /api/v1/dead-letters/retry": "retry_dead_letters",
    }


def test_every_operation_says_what_it_does_and_how_it_fails(document):
    for name, operation in operations(document).items():
        assert operation["summary"], name
        assert operation["description"], name
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                schema = response["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/ErrorResponse"}, (name, status)
        for parameter in operation.get("parameters", []):
            assert parameter["description"], (name, parameter["name"])
    assert not any(name.startswith("HTTPValidation") for name in document["components"]["schemas"])


@pytest.mark.parametrize("model", [*MODELS.values(), ticks.Accepted], ids=lambda model: model.__name__)
def test_examples_are_there_and_are_what_their_fields_take(model):
    for one in (model, *_models_in(model)):
        for name, field in one.model_fields.items():
            for example in field.examples or ():
                TypeAdapter(field.rebuild_annotation()).validate_python(example)
            if not _models_in_type(field.annotation) and one is not health.TaskReport:
                assert field.examples, f"{one.__name__}.{name}"


def _models_in(model):
    found = [inner for field in model.model_fields.values() for inner in _models_in_type(field.annotation)]
    return found + [deeper for inner in found for deeper in _models_in(inner)]


def _models_in_type(annotation):
    if hasattr(annotation, "model_fields"):
        return [annotation]
    return [inner for part in getattr(annotation, "__args__", ()) for inner in _models_in_type(part)]


async def test_examples_of_parameters_are_taken(market, document):
    job = await market.post("/prices/poll", json={"symbols": ["AAPL"], "provider": "test"})
    for name, operation in operations(document).items():
        method, path = name.split()
        parameters = operation.get("parameters", [])
        required = {
            one["name"]: one["schema"]["examples"][0] for one in parameters if one["in"] == "query" and one["required"]
        }
        for parameter in parameters:
            for example in parameter["schema"].get("examples", []):
                given = dict(required)
                url = path.replace("{symbol}", "AAPL").replace("{job_id}", job.json()["job_id"])
                if parameter["in"] == "query":
                    given[parameter["name"]] = example
                answer = await market.request(method, url, params=given, content=b"[]" if method == "POST" else None)
                assert answer.status_code == 200, (name, parameter["name"], answer.text)


async def test_the_example_of_a_tick_is_taken(client, document):
    content = document["paths"]["/api/v1/ticks"]["post"]["requestBody"]["content"]
    example = content["application/json"]["schema"]["items"]["example"]
    before = {**example, "ts": START.isoformat()}  # its own time may not have come yet
    for body in (before, [before]):
        assert (await client.post("/api/v1/ticks", content=orjson.dumps(body))).json()["rejected"] == []
    assert datetime.fromisoformat(example["ts"])


async def test_the_pages_about_the_api_are_served_from_here(client):
    document = (await client.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    assert all(path.startswith("/api/v1/") for path in document["paths"])
    for page in ("/docs", "/redoc"):
        answer = await client.get(page)
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert "://" not in answer.text
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css", "redoc.standalone.js", "favicon.png"):
        assert len((await client.get(f"/static/docs/{asset}")).content) > 500


async def test_no_file_but_the_assets_is_served(client):
    for path in (
        "/static/docs/../../app.py",
        "/static/docs/%2e%2e/%2e%2e/app.py",
        "/static/docs/..%2f..%2fx",
        "/static/docs/",
    ):
        error_of(await client.get(path), 404, "NOT_FOUND")


# --- on the wire -------------------------------------------------------------------------------


@pytest.fixture
async def port(serve, postgres_dsn):
    """The app behind a real uvicorn, where a client can break a connection."""
    async with serve(postgres_dsn) as client:
        app = client._transport.app
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None))
            serving = asyncio.create_task(server.serve([listener]))
            yield listener.getsockname()[1]
            server.should_exit = True
            await serving


async def exchange(port, *pieces, pause=0.0):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(pause)
    try:
        return await asyncio.wait_for(reader.read(65_536), 5)
    finally:
        writer.close()


POST = b"POST /ticks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
LAST = b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
TICK = orjson.dumps([{"symbol": "WIRE", "ts": START.isoformat(), "price": 1, "size": 1}])


async def test_bodies_that_come_slowly_or_never(port):
    slow = POST + b"Content-Length: %d\r\n\r\n" % len(TICK)
    answer = await exchange(port, slow, *(TICK[at : at + 10] for at in range(0, len(TICK), 10)), pause=0.005)
    assert answer.startswith(b"HTTP/1.1 200")
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(POST + b"Content-Length: 1000\r\n\r\n[{")  # and away
    await writer.drain()
    writer.close()
    announced = await exchange(port, POST + b"Content-Length: 99999999999\r\n\r\n")
    assert announced.startswith(b"HTTP/1.1 413")  # before any of it has come
    for broken in (
        b"Content-Length: -1\r\n\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n[]",
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ):
        assert (await exchange(port, POST + broken)).startswith(b"HTTP/1.1 400")
    answer = await exchange(port, b"GET /data/WIRE%2fX?interval=1m" + LAST)
    assert answer.startswith(b"HTTP/1.1 404")
    answer = await exchange(port, b"HEAD /data/WIRE?interval=1m" + LAST)
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"\r\n\r\n")
