"""WebSocket connections of a real client to real servers on loopback, which misbehave as networks and providers do."""

import asyncio
import logging
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.server import serve
from websockets.datastructures import Headers
from websockets.http11 import Response

from providers.fakes.rough_network import RoughNetwork
from stockpulse.providers.faults import BadReply, RateLimited, TooManyConnections, Unreachable, WrongKey
from stockpulse.providers.transport.live_socket import StreamDialect
from stockpulse.providers.transport.transport import Transport

KEY = "CANARY-7f3a91"
HEARTBEAT = 0.2
ENOUGH = 20
"""Seconds for what must happen at all; no test asserts a time."""


@asynccontextmanager
async def served(handler, **options):
    """Run a WebSocket server; yield its port."""
    async with serve(handler, "127.0.0.1", 0, ping_interval=None, close_timeout=0.1, **options) as server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def opened(port, **dialect):
    dialect = StreamDialect(f"ws://127.0.0.1:{port}/?token={KEY}", **{"heartbeat_seconds": HEARTBEAT} | dialect)
    async with Transport().stream("acme", dialect, (KEY,)) as socket:
        yield socket


async def echo(connection):
    async for message in connection:
        await connection.send(message)


async def mute(connection):
    await connection.wait_closed()


def refusing(status, body, **headers):
    def refuse(_connection, _request):
        return Response(status, "No", Headers(headers), body)

    return refuse


async def fault_of(awaitable):
    with pytest.raises(Unreachable) as raised:
        await asyncio.wait_for(awaitable, ENOUGH)
    assert KEY not in str(raised.value)
    return raised.value


async def test_messages_go_both_ways_as_bytes():
    async with served(echo) as port, opened(port) as socket:
        await socket.send('{"a": "ü"}')
        await socket.send(b"\x81\x01")
        assert await socket.receive() == '{"a": "ü"}'.encode()
        assert await socket.receive() == b"\x81\x01"


async def test_a_quiet_connection_that_answers_pings_stays_open():
    async with served(echo) as port, opened(port) as socket:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(socket.receive(), 5 * HEARTBEAT)
        await socket.send("still here")
        assert await socket.receive() == b"still here"


@pytest.mark.parametrize("failure", ["black_hole", "half_open"])
async def test_a_dead_connection_is_noticed(failure):
    async with served(echo) as port, RoughNetwork(port) as network, opened(network.port) as socket:
        await socket.send("x")
        await socket.receive()
        getattr(network, failure)()
        assert "does not answer the ping" in str(await fault_of(socket.receive()))


async def test_latency_beyond_the_heartbeat_breaks_nothing_while_messages_arrive():
    async def talk(connection):
        for number in range(20):
            await connection.send(str(number))
            await asyncio.sleep(HEARTBEAT / 2)

    async with served(talk) as port, RoughNetwork(port) as network:
        network.latency_seconds = 1.5 * HEARTBEAT
        async with opened(network.port) as socket:
            assert [await socket.receive() for _ in range(20)] == [str(number).encode() for number in range(20)]


@pytest.mark.parametrize("failure", ["reset", "cut"])
async def test_a_connection_that_breaks_off_is_said(failure):
    async with served(echo) as port, RoughNetwork(port) as network, opened(network.port) as socket:
        await socket.send("x")
        await socket.receive()
        getattr(network, failure)()
        assert "broken off" in str(await fault_of(socket.receive()))
        await fault_of(socket.send("x"))


async def test_the_reason_of_a_closed_connection_is_said_without_the_key():
    async def close(connection):
        await connection.send("last words")
        await connection.close(1011, f"no {KEY}")

    async with served(close) as port, opened(port) as socket:
        assert await socket.receive() == b"last words"
        assert "1011" in str(await fault_of(socket.receive()))


async def test_a_slow_reader_is_not_a_dead_connection():
    """More frames than the socket keeps: it stops reading, and so sees no pong."""

    async def flood(connection):
        for number in range(20_000):
            await connection.send(f"{number:0>1000}")
        await connection.wait_closed()

    async with served(flood, compression=None) as port, opened(port) as socket:
        await asyncio.sleep(5 * HEARTBEAT)
        for number in range(20_000):
            assert int(await socket.receive()) == number


class TestSilence:
    async def test_an_armed_watch_breaks_a_mute_connection(self):
        async with served(mute) as port, opened(port) as socket:
            socket.watch_silence(2 * HEARTBEAT)
            assert "sends nothing for 0.4 seconds" in str(await fault_of(socket.receive()))

    async def test_messages_reset_it(self):
        async def talk(connection):
            for _ in range(20):
                await asyncio.sleep(HEARTBEAT / 4)
                await connection.send("x")
            await connection.wait_closed()

        async with served(talk) as port, opened(port) as socket:
            socket.watch_silence(4 * HEARTBEAT)
            for _ in range(20):
                assert await socket.receive() == b"x"
            await fault_of(socket.receive())

    async def test_it_can_be_armed_while_a_message_is_awaited_and_be_disarmed(self):
        async with served(mute) as port, opened(port) as socket:
            receiving = asyncio.create_task(socket.receive())
            socket.watch_silence(HEARTBEAT)
            socket.watch_silence(None)
            assert not (await asyncio.wait([receiving], timeout=3 * HEARTBEAT))[0]
            socket.watch_silence(HEARTBEAT)
            await fault_of(receiving)

    async def test_messages_that_wait_for_the_reader_are_no_silence(self):
        async def talk(connection):
            for number in range(5):
                await connection.send(str(number))
                await asyncio.sleep(HEARTBEAT)
            await connection.wait_closed()

        async with served(talk) as port, opened(port) as socket:
            socket.watch_silence(3 * HEARTBEAT)
            await asyncio.sleep(4 * HEARTBEAT)
            assert [await socket.receive() for _ in range(5)] == [str(number).encode() for number in range(5)]


class TestHandshake:
    @pytest.mark.parametrize(
        ("status", "fault"), [(401, WrongKey), (429, RateLimited), (406, TooManyConnections), (503, Unreachable)]
    )
    async def test_the_provider_reads_the_status(self, status, fault):
        seen = []

        def read(refusal):
            seen.append(refusal)
            kinds = {401: WrongKey, 429: RateLimited, 406: TooManyConnections}
            return kinds.get(refusal.status, Unreachable)(f"{refusal.provider}: {refusal.text}")

        refuse = refusing(status, f"token={KEY}, sorry".encode(), **{"Retry-After": "7"})
        async with served(echo, process_request=refuse) as port:
            with pytest.raises(fault, match=r"acme: .*sorry") as raised:
                async with opened(port, read_refusal=read):
                    pass
        assert KEY not in str(raised.value)
        assert seen[0].headers["retry-after"] == "7"

    async def test_by_default_a_refusal_is_transient(self):
        async with served(echo, process_request=refusing(524, b"<html>a time-out</html>")) as port:
            with pytest.raises(Unreachable, match=r"refuses the stream with HTTP 524: .*a time-out"):
                async with opened(port):
                    pass

    async def test_no_redirect_is_followed(self):
        """Else another host would get the key."""
        async with served(echo) as other:
            elsewhere = refusing(302, b"", Location=f"ws://127.0.0.1:{other}/")
            async with served(echo, process_request=elsewhere) as port:
                with pytest.raises(Unreachable, match="HTTP 302"):
                    async with opened(port):
                        pass

    @pytest.mark.parametrize("failure", ["nobody", "black_hole", "no_http"])
    async def test_an_unreachable_server_is_said_without_the_key(self, failure):
        async def speak_no_http(_reader, writer):
            writer.write(b"220 mail\r\n")
            writer.close()

        async with served(echo) as port, RoughNetwork(port) as network:
            wrong = await asyncio.start_server(speak_no_http, "127.0.0.1", 0)
            network.black_hole()
            ports = {"nobody": 9, "black_hole": network.port, "no_http": wrong.sockets[0].getsockname()[1]}
            with pytest.raises(Unreachable, match="cannot be opened") as raised:
                async with opened(ports[failure], open_seconds=0.5):
                    pass
            wrong.close()
        assert KEY not in str(raised.value)


async def test_a_message_may_not_be_larger_than_the_limit():
    async def send(connection):
        await connection.send("x" * 1000)
        await connection.send("x" * 1001)
        await connection.wait_closed()

    async with served(send) as port, opened(port, max_message_bytes=1000) as socket:
        assert len(await socket.receive()) == 1000
        with pytest.raises(BadReply, match="more than 1000 bytes"):
            await asyncio.wait_for(socket.receive(), ENOUGH)


async def test_no_log_line_has_the_key(caplog):
    caplog.set_level(logging.DEBUG)
    async with served(echo, logger=logging.getLogger("server")) as port, opened(port, headers={"X-Key": KEY}) as socket:
        await socket.send(KEY)
        await socket.receive()
    ours = [record.getMessage() for record in caplog.records if record.name != "server"]
    assert KEY not in "".join(ours)
    assert KEY in caplog.text  # the server's log has it, so the level is low enough


async def test_keepalive_can_be_off():
    async with (
        served(mute) as port,
        RoughNetwork(port) as network,
        opened(network.port, heartbeat_seconds=None) as socket,
    ):
        network.black_hole()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(socket.receive(), 5 * HEARTBEAT)
