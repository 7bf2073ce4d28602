"""Requests per day, counted in the database."""

import asyncio
from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest

from stockpulse.postgres.connect import create_pool
from stockpulse.providers.faults import QuotaUsedUp
from stockpulse.providers.transport.quota import DayQuota
from stockpulse.storage.quotas import StoredQuotas

DAY = date(2026, 7, 14)


@pytest.fixture
async def pool(postgres_dsn):
    async with await create_pool(postgres_dsn, 4) as pool:
        yield pool


async def test_the_limit_holds_under_concurrent_requests_of_several_processes(pool):
    stores = [StoredQuotas(pool) for _ in range(3)]
    taken = await asyncio.gather(*[stores[n % 3].take("acme:1", DAY, 1, 25) for n in range(60)])
    assert sum(taken) == 25
    assert await stores[0].used("acme:1", DAY) == 25


async def test_a_cost_that_does_not_fit_takes_nothing(pool):
    store = StoredQuotas(pool)
    assert not await store.take("acme:1", DAY, 11, 10)
    assert await store.used("acme:1", DAY) == 0
    assert await store.take("acme:1", DAY, 8, 10)
    assert not await store.take("acme:1", DAY, 3, 10)
    assert await store.take("acme:1", DAY, 2, 10)
    assert await store.used("acme:1", DAY) == 10


async def test_keys_and_days_are_apart_and_old_days_are_forgotten(pool):
    store = StoredQuotas(pool)
    for key, day in (("a", DAY), ("a", date(2026, 7, 15)), ("b", DAY)):
        assert await store.take(key, day, 1, 1)
    await store.forget(date(2026, 7, 15))
    assert [await store.used("a", DAY), await store.used("a", date(2026, 7, 15)), await store.used("b", DAY)] == [
        0,
        1,
        0,
    ]


async def test_a_day_of_25_requests_over_many_restarts(pool):
    def started():
        zone, now = ZoneInfo("America/New_York"), datetime(2026, 7, 14, 12, tzinfo=UTC)
        return DayQuota("alpha_vantage", "alpha_vantage:1", 25, zone, StoredQuotas(pool), lambda: now)

    for _ in range(25):
        await started().take(1)
    for _ in range(5):
        with pytest.raises(QuotaUsedUp) as raised:
            await started().take(1)
        assert raised.value.until == datetime(2026, 7, 15, 4, tzinfo=UTC)
    await started().exhaust()
    assert await started().used() == 25
