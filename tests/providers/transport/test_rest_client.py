"""Requests of a real client to a real server on loopback: retries, limits, time-outs, and no key in any message."""

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from stockpulse.providers.faults import (
    BadReply,
    NotEntitled,
    QuotaUsedUp,
    RateLimited,
    Unreachable,
    WrongKey,
)
from stockpulse.providers.transport.quota import CountsInMemory, DayQuota
from stockpulse.providers.transport.rate_limit import RateLimit, Window
from stockpulse.providers.transport.rest_client import Dialect
from stockpulse.providers.transport.transport import Transport

KEY = "CANARY-7f3a91"


def read_fault(reply):
    faults = {401: WrongKey, 403: NotEntitled, 429: RateLimited}
    if reply.status in faults:
        return faults[reply.status](f"{reply.provider}: {reply.text}")
    return Unreachable(f"{reply.provider}: {reply.text}") if reply.status >= 500 else None


class Server:
    """Answers each request with the next scripted answer: status, headers and body, or None to break the connection."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.requests = []
        self.connections = set()

    async def answer(self, reader, writer):
        self.connections.add(asyncio.current_task())
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.requests.append(head.decode())
                scripted = self.answers.pop(0)
                if scripted is None:
                    break
                status, headers, body = scripted
                fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
                writer.write(f"HTTP/1.1 {status} X\r\n{fields}content-length: {len(body)}\r\n\r\n".encode() + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()
        await writer.wait_closed()


class Waits:
    """A clock that sleeping moves."""

    def __init__(self):
        self.now = 0.0
        self.slept = []

    async def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


@asynccontextmanager
async def client_of(server, limit=None, **dialect):
    listener = await asyncio.start_server(server.answer, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    waits, replies = Waits(), []
    transport = Transport(sleep=waits.sleep, on_reply=lambda reply, outcome: replies.append((reply, outcome)))
    limit = limit or RateLimit(clock=lambda: waits.now, sleep=waits.sleep)
    client = transport.rest(
        "acme", Dialect(f"http://127.0.0.1:{port}", read_fault, params={"apikey": KEY}, **dialect), limit, (KEY,)
    )
    client.waits, client.replies = waits, replies
    try:
        yield client
    finally:
        await client.close()
        await asyncio.gather(*server.connections)
        listener.close()
        await listener.wait_closed()


async def test_a_good_reply_comes_back_without_the_key():
    server = Server((200, {"X-Thing": "1"}, f'{{"you": "{KEY}"}}'.encode()))
    async with client_of(server) as client:
        reply = await client.get("/quote", {"symbol": "^GSPC"})
    assert reply.json() == {"you": "[hidden]"}
    assert (reply.path, reply.params, reply.headers["x-thing"]) == ("/quote", {"symbol": "^GSPC"}, "1")
    assert KEY in server.requests[0]
    assert "symbol=%5EGSPC" in server.requests[0]
    assert [outcome for _, outcome in client.replies] == ["ok"]


async def test_transient_faults_are_tried_again_with_growing_delays():
    server = Server(None, (502, {}, b"<html>bad</html>"), (200, {}, b"{}"))
    async with client_of(server) as client:
        assert (await client.get("/quote")).json() == {}
        first, second = client.waits.slept
    assert 0.25 <= first <= 0.75
    assert 0.5 <= second <= 1.5


@pytest.mark.parametrize(("status", "fault"), [(401, WrongKey), (403, NotEntitled)])
async def test_fatal_faults_are_not(status, fault):
    server = Server((status, {}, f"no {KEY}".encode()))
    async with client_of(server) as client:
        with pytest.raises(fault) as raised:
            await client.get("/quote")
    assert len(server.requests) == 1
    assert KEY not in str(raised.value)


async def test_gives_up_after_four_attempts():
    server = Server(*[(503, {}, f"url?apikey={KEY}".encode())] * 9)
    async with client_of(server) as client:
        with pytest.raises(Unreachable) as raised:
            await client.get("/quote")
    assert len(server.requests) == 4
    assert KEY not in str(raised.value)


async def test_an_unreachable_host_is_said_without_the_key():
    transport = Transport(sleep=Waits().sleep)
    client = transport.rest(
        "acme", Dialect("http://127.0.0.1:9", read_fault, params={"apikey": KEY}), RateLimit(), (KEY,)
    )
    with pytest.raises(Unreachable, match="acme does not answer /quote") as raised:
        await client.get("/quote")
    assert KEY not in str(raised.value)
    await client.close()


async def test_a_limit_that_the_provider_states_holds_all_requests_back():
    server = Server((429, {"Retry-After": "7"}, b"slow down"), (200, {}, b"{}"))
    async with client_of(server, pause_seconds=lambda reply: float(reply.headers.get("retry-after", 0))) as client:
        await client.get("/quote")
        assert client.waits.now >= 7


async def test_a_pause_longer_than_a_request_waits_is_raised():
    server = Server((429, {}, b"slow down"))
    async with client_of(server, pause_seconds=lambda _: 3600) as client:
        with pytest.raises(RateLimited):
            await client.get("/quote")
    assert len(server.requests) == 1


async def test_a_body_that_is_no_json_is_said_with_its_beginning():
    server = Server((200, {}, b"<html>Will be right back"))
    async with client_of(server) as client:
        reply = await client.get("/quote")
        with pytest.raises(BadReply, match=r"the reply of /quote is no JSON: .*Will be right back"):
            reply.json()


class TestRateLimit:
    async def test_a_window_lets_its_number_pass_and_then_waits(self):
        waits = Waits()
        limit = RateLimit([Window(5, 60)], clock=lambda: waits.now, sleep=waits.sleep)
        for _ in range(5):
            await limit.acquire()
        assert waits.now == 0
        await limit.acquire()
        assert waits.now == 60

    async def test_all_windows_hold(self):
        waits = Waits()
        limit = RateLimit([Window(2, 1), Window(5, 60)], clock=lambda: waits.now, sleep=waits.sleep)
        times = []
        for _ in range(7):
            await limit.acquire()
            times.append(waits.now)
        assert times == [0, 0, 1, 1, 2, 60, 60]

    async def test_a_tenth_is_kept_for_urgent_requests(self):
        waits = Waits()
        limit = RateLimit([Window(10, 60)], clock=lambda: waits.now, sleep=waits.sleep)
        for _ in range(9):
            await limit.acquire()
        await limit.acquire(urgent=True)
        assert waits.now == 0
        await limit.acquire()
        assert waits.now == 60

    async def test_an_urgent_request_does_not_wait_behind_others(self):
        limit = RateLimit([Window(10, 3600)])
        for _ in range(9):
            await limit.acquire()
        waiting = asyncio.create_task(limit.acquire())
        await asyncio.sleep(0)
        await asyncio.wait_for(limit.acquire(urgent=True), 5)
        assert not waiting.done()
        waiting.cancel()

    async def test_a_cost_above_the_window_waits_for_an_empty_one(self):
        waits = Waits()
        limit = RateLimit([Window(8, 60)], clock=lambda: waits.now, sleep=waits.sleep)
        await limit.acquire()
        await limit.acquire(100)
        assert waits.now == 60


class TestQuota:
    ZONE = ZoneInfo("America/New_York")

    def quota(self, store, now):
        return DayQuota("acme", "acme:1", 25, self.ZONE, store, lambda: now)

    async def test_the_26th_request_is_not_sent(self):
        store, now = CountsInMemory(), datetime(2026, 7, 14, 23, 0, tzinfo=UTC)
        limit = RateLimit(quota=self.quota(store, now))
        for _ in range(25):
            await limit.acquire()
        with pytest.raises(QuotaUsedUp, match="the 25 requests of the day are used up") as raised:
            await limit.acquire()
        assert raised.value.until == datetime(2026, 7, 15, 4, 0, tzinfo=UTC)
        tomorrow = RateLimit(quota=self.quota(store, now + timedelta(hours=6)))
        await tomorrow.acquire()

    async def test_the_word_of_the_provider_ends_the_day(self):
        store, now = CountsInMemory(), datetime(2026, 7, 14, 23, 0, tzinfo=UTC)
        quota = self.quota(store, now)
        server = Server((200, {}, b"used up"))
        async with client_of(server, RateLimit(quota=quota)) as client:
            client._dialect = Dialect(client._dialect.base_url, lambda _: QuotaUsedUp("used up"))
            with pytest.raises(QuotaUsedUp):
                await client.get("/query")
        assert await quota.used() == 25
        with pytest.raises(QuotaUsedUp):
            await quota.take(1)
