"""A vendor's key and its daily quota in a whole process: the key is nowhere, and the quota survives restarts."""

import asyncio

import asyncpg
import pytest
from starlette.responses import JSONResponse, PlainTextResponse

from providers.fakes.alpha_vantage import DAY_LIMIT, KEY, NO_KEY, AlphaVantage
from providers.fakes.http_server import serving


@pytest.fixture
def environment(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # no `.env` of the checkout
    monkeypatch.setenv("ALPHA_VANTAGE_API_KEY", KEY)
    monkeypatch.setenv("STOCKPULSE_ALPHA_VANTAGE_PER_MINUTE", "60000")
    return monkeypatch


async def everything_stored(dsn):
    """All rows of all tables, as text."""
    connection = await asyncpg.connect(dsn)
    tables = await connection.fetch(
        "SELECT quote_ident(table_name) AS name FROM information_schema.tables"
        " WHERE table_schema = 'public' AND table_type = 'BASE TABLE'"
    )
    rows = [await connection.fetch(f"SELECT t::text AS row FROM {table['name']} t") for table in tables]
    replies = await connection.fetch("SELECT outcome, body FROM raw_market_data ORDER BY id")
    await connection.close()
    return "\n".join(row["row"] for table in rows for row in table), replies


async def test_the_key_is_in_no_answer_no_table_and_no_log_line(environment, serve, postgres_dsn, capsys):
    fake = AlphaVantage()
    fake.scripted = [
        PlainTextResponse(f"/query?function=GLOBAL_QUOTE&apikey={KEY} failed", 503),
        JSONResponse({"Error Message": f"{NO_KEY} {KEY}"}),
        JSONResponse({"Information": f"nobody knows this sentence about {KEY}"}),
        JSONResponse({"Information": DAY_LIMIT.format(key=KEY)}),
    ]
    async with serving(fake.app) as url:
        environment.setenv("STOCKPULSE_ALPHA_VANTAGE_URL", url)
        async with serve(postgres_dsn, fallbacks="alpha_vantage", signal_rules={}) as client:
            asked = [
                await client.get("/prices/latest", params={"symbol": one}) for one in ("A", "B", "C", "IBM", "AAPL")
            ]
            job = {"symbols": ["IBM", "AAPL"], "interval": 1, "provider": "alpha_vantage"}
            job_id = (await client.post("/prices/poll", json=job)).json()["job_id"]
            await asyncio.sleep(0.5)
            pages = ("/health", "/metrics", "/providers", "/dead-letters", "/openapi.json", f"/prices/poll/{job_id}")
            answers = asked + [await client.get(path) for path in pages]
            async with asyncio.timeout(20):
                while len((stored := await everything_stored(postgres_dsn))[1]) < len(fake.requests):
                    await asyncio.sleep(0.05)
    assert all(request["apikey"] == KEY for request in fake.requests)
    text, replies = stored
    assert {reply["outcome"] for reply in replies} >= {"unreachable", "wrong_key", "fault", "quota_used_up"}
    assert "[hidden]" in "".join(reply["body"] for reply in replies)
    assert KEY not in text
    assert KEY not in "".join(answer.text + str(answer.headers) for answer in answers)
    written = capsys.readouterr()
    assert KEY not in written.out + written.err


@pytest.mark.thorough
async def test_25_requests_a_day_over_restarts(environment, serve, postgres_dsn):
    fake = AlphaVantage()
    fake.symbols |= {f"S{n}" for n in range(40)}
    statuses = []
    async with serving(fake.app) as url:
        environment.setenv("STOCKPULSE_ALPHA_VANTAGE_URL", url)
        for start in range(4):
            async with serve(postgres_dsn, fallbacks="alpha_vantage", signal_rules={}) as client:
                for n in range(10):
                    answer = await client.get("/prices/latest", params={"symbol": f"S{start * 10 + n}"})
                    statuses.append(answer.status_code)
    assert statuses == [200] * 25 + [503] * 15
    assert len(fake.requests) == 25
    assert "the 25 requests of the day are used up" in answer.json()["error"]["message"]
