"""Latest prices and polling jobs: their shapes, their sources, restarts, bad symbols."""

import asyncio
import sys
from datetime import UTC, datetime, timedelta

import pytest

from plugin_package import lay_out
from stockpulse.providers.registry import installed_providers

VENDORS = """
from dataclasses import replace
from datetime import UTC, datetime

from stockpulse.providers.base import Capabilities, Option, ProviderBase, ProviderEntry
from stockpulse.providers.faults import RateLimited, UnknownSymbol, Unreachable
from stockpulse.testing import ticks_frame

PRICES = {}
REQUESTS = []


class Vendor(ProviderBase):
    calendar = "24/7"

    def __init__(self, name):
        self.name = name

    async def latest(self, symbols):
        REQUESTS.append((self.name, list(symbols)))
        (symbol,) = symbols
        price = PRICES.get((self.name, symbol))
        if isinstance(price, Exception):
            raise price
        if price is None:
            raise UnknownSymbol(f"{self.name} does not know {symbol}", symbol)
        return ticks_frame({"symbol": symbol, "ts": datetime.now(UTC), "price": price, "size": 0.0})


HAS = Capabilities(ticks=False, latest=True)
FIRST = ProviderEntry("first", lambda _: Vendor("first"), capabilities=HAS)
SECOND = ProviderEntry("second", lambda _: Vendor("second"), capabilities=HAS, aliases=("zweiter",))
SLOW = ProviderEntry("slow", lambda _: Vendor("slow"), capabilities=replace(HAS, poll_seconds=900))
MUTE = ProviderEntry("mute", lambda _: Vendor("mute"), capabilities=Capabilities(ticks=False))
KEYED = ProviderEntry(
    "keyed", lambda _: Vendor("keyed"), capabilities=HAS, options=(Option("key", ("STOCKPULSE_KEYED_KEY",), "A key."),)
)
"""


@pytest.fixture
def vendors(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    points = {name.lower(): f"vendors_of_prices:{name}" for name in ("FIRST", "SECOND", "SLOW", "MUTE", "KEYED")}
    lay_out(tmp_path / "site", "vendors-of-prices", {"vendors_of_prices.py": VENDORS}, points)
    monkeypatch.syspath_prepend(tmp_path / "site")
    installed_providers.cache_clear()
    installed_providers()
    yield sys.modules["vendors_of_prices"]
    installed_providers.cache_clear()
    del sys.modules["vendors_of_prices"]


async def until(probe):
    async with asyncio.timeout(20):
        while not (found := await probe()):
            await asyncio.sleep(0.02)
    return found


async def latest(client, symbol, **params):
    return await client.get("/api/v1/prices/latest", params={"symbol": symbol, **params})


async def job_of(client, job_id):
    return (await client.get(f"/api/v1/prices/poll/{job_id}")).json()


def price_of(job, symbol):
    return next(one for one in job["prices"] if one["symbol"] == symbol)


# Latest prices ----------------------------------------------------------------------------------


async def test_the_shape_is_that_of_the_customary_answer(client):
    answer = await latest(client, "aapl", provider="test")
    assert answer.status_code == 200
    body = answer.json()
    assert body.keys() == {"symbol", "price", "timestamp", "provider", "cached"}
    assert (body["symbol"], body["provider"], body["cached"]) == ("AAPL", "test", False)
    assert abs(datetime.fromisoformat(body["timestamp"]) - datetime.now(UTC)) < timedelta(seconds=60)


async def test_the_answer_is_stored_as_a_tick_and_serves_while_it_is_fresh(client):
    first = (await latest(client, "AAPL", provider="test")).json()

    async def stored():
        return (await client.get("/ticks/latest", params={"symbol": "AAPL"})).json().get("ticks")

    (tick,) = await until(stored)
    assert (tick["price"], tick["event_time"], tick["provider"]) == (first["price"], first["timestamp"], "simulated")
    again = (await latest(client, "AAPL", provider="test")).json()
    assert again == {**first, "cached": True}
    newer = (await latest(client, "AAPL", provider="test", max_age=0)).json()
    assert not newer["cached"]
    assert newer["timestamp"] > first["timestamp"]


async def test_ticks_that_were_sent_are_fresh_prices_too(client):
    now = datetime.now(UTC).isoformat()
    await client.post("/ticks", json=[{"symbol": "AAPL", "ts": now, "price": 7.5, "size": 1}])
    body = (await latest(client, "AAPL")).json()
    assert (body["price"], body["provider"], body["cached"]) == (7.5, "api", True)


async def test_providers_are_asked_in_the_order_of_the_fallbacks(vendors, serve, postgres_dsn):
    async with serve(postgres_dsn, fallbacks="first, second") as client:
        vendors.PRICES.update({("first", "A"): 1.0, ("second", "A"): 2.0, ("second", "B"): 3.0})
        assert (await latest(client, "A")).json()["provider"] == "first"
        assert (await latest(client, "B")).json()["provider"] == "second"
        vendors.PRICES["first", "C"] = vendors.Unreachable("first is away")
        vendors.PRICES["second", "C"] = 4.0
        assert (await latest(client, "C")).json()["price"] == 4.0
        assert (await latest(client, "A", provider="zweiter", max_age=0)).json()["price"] == 2.0


async def test_faults_have_their_status_and_words(vendors, serve, postgres_dsn):
    async with serve(postgres_dsn, fallbacks="first, second") as client:
        unknown = await latest(client, "NOPE")
        assert unknown.status_code == 404
        assert "first does not know NOPE; second does not know NOPE" in unknown.json()["error"]["message"]
        vendors.PRICES["first", "B"] = vendors.RateLimited("first wants less")
        limited = await latest(client, "B")
        assert limited.status_code == 503
        assert "first wants less" in limited.json()["error"]["message"]
        for params, status, said in (
            ({"provider": "acme"}, 404, "no provider is called 'acme'"),
            ({"provider": "mute"}, 422, "mute has no latest prices"),
            ({"provider": "keyed"}, 422, "STOCKPULSE_KEYED_KEY"),
        ):
            answer = await latest(client, "A", **params)
            assert (answer.status_code, said in answer.json()["error"]["message"]) == (status, True), answer.text
        assert (await latest(client, "not a symbol")).status_code == 404


async def test_without_providers_an_old_tick_is_the_answer(client):
    assert (await latest(client, "AAPL")).status_code == 404
    await client.post("/ticks", json=[{"symbol": "AAPL", "ts": "2026-02-27T12:05:00Z", "price": 7.5, "size": 1}])
    body = (await latest(client, "AAPL")).json()
    assert (body["price"], body["timestamp"], body["cached"]) == (7.5, "2026-02-27T12:05:00Z", True)


# Jobs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["/api/v1", "/api", ""])
async def test_the_life_of_a_job(client, prefix):
    config = {"symbols": ["AAPL", "msft", "AAPL"], "interval": 30, "provider": "test"}
    created = await client.post(f"{prefix}/prices/poll", json=config)
    assert created.status_code == 202
    assert created.json().keys() == {"job_id", "status", "config"}
    assert created.json()["status"] == "accepted"
    assert created.json()["config"] == {"symbols": ["AAPL", "MSFT"], "interval": 30, "provider": "test"}
    job_id = created.json()["job_id"]
    assert job_id.startswith("poll_")

    async def priced():
        job = (await client.get(f"{prefix}/prices/poll/{job_id}")).json()
        return job if all(one["price"] for one in job["prices"]) else None

    job = await until(priced)
    assert (job["job_id"], job["status"], job["every_seconds"], job["stopped_at"]) == (job_id, "running", 30.0, None)
    assert [one["symbol"] for one in job["prices"]] == ["AAPL", "MSFT"]
    assert all(one["timestamp"] and one["asked_at"] and one["fault"] is None for one in job["prices"])
    assert (await client.get(f"{prefix}/prices/poll")).json() == {"total": 1, "jobs": [job]}
    stopped = await client.delete(f"{prefix}/prices/poll/{job_id}")
    assert (stopped.status_code, stopped.json()["status"]) == (200, "stopped")
    again = await client.delete(f"{prefix}/prices/poll/{job_id}")
    assert again.json() == stopped.json()


async def test_a_job_goes_on_after_a_restart_until_it_is_stopped(vendors, serve, postgres_dsn):
    vendors.PRICES["first", "A"] = 1.0
    async with serve(postgres_dsn) as client:
        created = await client.post("/prices/poll", json={"symbols": ["A"], "interval": 1, "provider": "first"})
        job_id = created.json()["job_id"]
        await until(lambda: _has(client, job_id, "A", 1.0))
    vendors.PRICES["first", "A"] = 2.0
    async with serve(postgres_dsn) as client:
        await until(lambda: _has(client, job_id, "A", 2.0))
        await client.delete(f"/prices/poll/{job_id}")
    vendors.REQUESTS.clear()
    async with serve(postgres_dsn) as client:
        assert (await job_of(client, job_id))["status"] == "stopped"
        assert price_of(await job_of(client, job_id), "A")["price"] == 2.0
        await asyncio.sleep(0.2)
    assert vendors.REQUESTS == []


async def _has(client, job_id, symbol, price):
    return price_of(await job_of(client, job_id), symbol)["price"] == price


async def test_one_bad_symbol_does_not_stop_the_others(vendors, serve, postgres_dsn):
    vendors.PRICES.update({("first", "A"): 1.0, ("first", "C"): 3.0, ("first", "D"): vendors.Unreachable("D is away")})
    async with serve(postgres_dsn) as client:
        body = {"symbols": ["A", "BAD", "D", "C"], "interval": 1, "provider": "first"}
        job_id = (await client.post("/prices/poll", json=body)).json()["job_id"]
        await until(lambda: _has(client, job_id, "C", 3.0))
        job = await job_of(client, job_id)
        assert (price_of(job, "A")["price"], price_of(job, "A")["fault"]) == (1.0, None)
        assert (price_of(job, "BAD")["price"], price_of(job, "BAD")["fault"]) == (None, "unknown_symbol")
        assert (price_of(job, "D")["fault"], price_of(job, "D")["message"]) == ("unreachable", "D is away")
        vendors.PRICES.update({("first", "C"): 4.0, ("first", "D"): 5.0})
        await until(lambda: _has(client, job_id, "C", 4.0))
        await until(lambda: _has(client, job_id, "D", 5.0))
        assert vendors.REQUESTS.count(("first", ["BAD"])) == 1
        ticks = (await client.get("/ticks/latest", params={"symbol": "C", "limit": 9})).json()["ticks"]
        assert {4.0, 3.0} == {tick["price"] for tick in ticks}


async def test_a_job_is_not_faster_than_its_provider_allows(vendors, serve, postgres_dsn):
    vendors.PRICES["slow", "A"] = 1.0
    async with serve(postgres_dsn) as client:
        for _ in range(3):
            body = {"symbols": ["A"], "interval": 1, "provider": "slow"}
            job_id = (await client.post("/prices/poll", json=body)).json()["job_id"]
            await until(lambda: _has(client, job_id, "A", 1.0))
        assert (await job_of(client, job_id))["every_seconds"] == 900
        assert (await latest(client, "A", provider="slow", max_age=0)).json()["price"] == 1.0
    assert vendors.REQUESTS == [("slow", ["A"])]


async def test_a_job_whose_provider_is_gone_says_so(vendors, serve, postgres_dsn, monkeypatch):
    monkeypatch.setenv("STOCKPULSE_KEYED_KEY", "canary")
    vendors.PRICES["keyed", "A"] = 1.0
    async with serve(postgres_dsn) as client:
        body = {"symbols": ["A"], "interval": 1, "provider": "keyed"}
        job_id = (await client.post("/prices/poll", json=body)).json()["job_id"]
        await until(lambda: _has(client, job_id, "A", 1.0))
    monkeypatch.delenv("STOCKPULSE_KEYED_KEY")
    async with serve(postgres_dsn) as client:

        async def unavailable():
            job = await job_of(client, job_id)
            return job if price_of(job, "A")["fault"] == "unavailable" else None

        job = await until(unavailable)
        assert "STOCKPULSE_KEYED_KEY" in price_of(job, "A")["message"]
        assert (job["every_seconds"], price_of(job, "A")["price"]) == (None, 1.0)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"symbols": []}, 422, "symbols"),
        ({"symbols": ["A"] * 101}, 422, "symbols"),
        ({"symbols": ["a b"], "provider": "test"}, 422, "symbols: got 'a b'"),
        ({"symbols": ["A"], "interval": 0}, 422, "interval"),
        ({"symbols": ["A"], "every": 5}, 422, "every"),
        ({"symbols": ["A"]}, 422, "provider: is required"),
        ({"symbols": ["A"], "provider": "acme"}, 404, "acme"),
    ],
)
async def test_wrong_jobs(client, body, status, said):
    answer = await client.post("/prices/poll", json=body)
    assert answer.status_code == status
    assert said in answer.json()["error"]["message"]


@pytest.mark.parametrize("job_id", ["poll_99", "poll_", "99", "poll_x", "poll_" + "9" * 30, "poll_-1", "poll_٣"])
async def test_unknown_jobs(client, job_id):
    assert (await client.get(f"/prices/poll/{job_id}")).status_code == 404
    assert (await client.delete(f"/prices/poll/{job_id}")).status_code == 404


@pytest.mark.thorough
async def test_at_most_a_hundred_jobs_run(client):
    body = {"symbols": ["A"], "interval": 86400, "provider": "test"}
    created = [await client.post("/prices/poll", json=body) for _ in range(101)]
    assert [one.status_code for one in created] == [202] * 100 + [422]
    assert "100 jobs are running" in created[-1].json()["error"]["message"]
    await client.delete(f"/prices/poll/{created[0].json()['job_id']}")
    assert (await client.post("/prices/poll", json=body)).status_code == 202
