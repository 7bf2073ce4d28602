"""The live stream: latency from a tick to the socket, fan-out to many clients, and clients that stall.

Latency: ticks are submitted at a steady rate, each with the time in its price; a client of all ticks reads them over a
WebSocket. `durable_ms` is the time until the append has returned. Beside it, a bare asyncio echo over loopback with the
same number of messages a second.

Fan-out: messages a second to all clients, beside `broadcast` of the library `websockets`, with the same bytes.

Stalled: many clients of all ticks, of which 1 % read nothing, beside the same number without stalled ones.

The server runs in this process, the clients in a second one: all share the processors of the machine.

    python tests/bench/stream.py [--seconds 10] [--rates 1000 10000 50000] [--clients 100 1000] [--stalled-clients 1000]
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import socket
import threading
import time
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import numpy as np
import orjson
import polars as pl
import psutil
import uvicorn
import uvloop
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from websockets.asyncio.client import connect
from websockets.asyncio.server import broadcast, serve

from bench import fresh_database, quantiles, report
from stockpulse.api.limits import MAX_FRAME_BYTES
from stockpulse.api.stream import routes
from stockpulse.hub.messages import Batch, Change, Channel
from stockpulse.ingest.feed import Feed
from stockpulse.market.schemas import TICKS, UTC_MICROS
from stockpulse.node.lifecycle import running
from stockpulse.settings import Settings

SYMBOLS = 100
BATCHES_PER_SECOND = 100
SUBSCRIBE = json.dumps({"action": "subscribe", "channel": "ticks", "symbols": "*"})
STALL_SHARE = 0.01
STALLED_SECONDS = 15
COME_SECONDS = 120
CLOSED_SLOW = 4008


# Clients, in their own process --------------------------------------------------------------------


async def read(uri: str, began: Any, lags: list[float], counts: dict[str, int], *, measures: bool) -> None:
    """Read until cancelled."""
    async with connect(uri, compression=None, max_size=None, ping_interval=None) as client:
        await client.recv()
        await client.send(SUBSCRIBE)
        await client.recv()
        with began.get_lock():
            began.value += 1
        async for frame in client:
            now = time.time()
            counts["frames"] += 1
            counts["bytes"] += len(frame)
            if not measures:
                continue
            for message in orjson.loads(frame):
                counts["missed"] += message.get("rows", 0) if message["type"] == "missed" else 0
                if message["type"] == "data":
                    counts["rows"] += len(message["rows"])
                    lags += [now - row["price"] for row in message["rows"]]


async def stall(uri: str, began: Any, over: Any, counts: dict[str, int]) -> None:
    """Subscribe, then read nothing until the end; then read what is left, and the code of the close."""
    async with connect(uri, compression=None, max_size=None, max_queue=1, ping_interval=None) as client:
        await client.recv()
        await client.send(SUBSCRIBE)
        await client.recv()
        client.transport.pause_reading()
        with began.get_lock():
            began.value += 1
        while not over.value:
            await asyncio.sleep(0.2)
            client.transport.pause_reading()
        client.transport.resume_reading()
        told = False
        with suppress(Exception):
            async with asyncio.timeout(STALLED_SECONDS):
                async for frame in client:
                    told = told or '"type":"missed"' in frame
        counts["told"] += told
        counts["closed_4008"] += client.close_code == CLOSED_SLOW
        counts["cut_off"] += client.close_code not in (None, CLOSED_SLOW)


def run_clients(uri: str, number: int, stalled: int, measuring: int, began: Any, over: Any, results: Any) -> None:
    lags: list[float] = []
    names = ("frames", "rows", "bytes", "missed", "told", "closed_4008", "cut_off")
    counts: dict[str, int] = dict.fromkeys(names, 0)

    async def all_of_them() -> None:
        stalling = [asyncio.create_task(stall(uri, began, over, counts)) for _ in range(stalled)]
        reading = []
        for place in range(number - stalled):
            reading.append(asyncio.create_task(read(uri, began, lags, counts, measures=place < measuring)))
            if place % 20 == 0:
                await asyncio.sleep(0.05)
        while not over.value:
            await asyncio.sleep(0.05)
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, *stalling, return_exceptions=True)

    uvloop.run(all_of_them())
    results.put((lags, counts))


@asynccontextmanager
async def clients(uri: str, number: int, *, stalled: int = 0, measuring: int = 1) -> Any:
    """Yield when all clients are there; afterwards `found` has their lags and counts."""
    context = multiprocessing.get_context("spawn")
    began, over, results = context.Value("i", 0), context.Value("b", 0), context.Queue()
    process = context.Process(target=run_clients, args=(uri, number, stalled, measuring, began, over, results))
    process.start()
    found: dict[str, Any] = {}
    deadline = time.monotonic() + COME_SECONDS
    while began.value < number:
        if time.monotonic() > deadline:
            raise RuntimeError(f"only {began.value} of {number} clients have come")
        await asyncio.sleep(0.02)
    yield found
    over.value = 1
    found["lags"], found["counts"] = await asyncio.to_thread(results.get)
    await asyncio.to_thread(process.join)


# The server ---------------------------------------------------------------------------------------


@asynccontextmanager
async def server(context: Any) -> Any:
    """Serve the stream of a running process; yield its address."""
    app = Starlette(routes=[WebSocketRoute("/stream", routes.stream)])

    async def with_context(scope: Any, receive: Any, send: Any) -> None:
        scope.setdefault("state", {})["context"] = context
        await app(scope, receive, send)

    config = uvicorn.Config(
        with_context,
        lifespan="off",
        log_level="error",
        ws_per_message_deflate=False,
        ws_max_size=MAX_FRAME_BYTES,
        backlog=4096,
    )
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        uvicorn_server = uvicorn.Server(config)
        uvicorn_server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        task = asyncio.create_task(uvicorn_server.serve([listening]))
        while not uvicorn_server.started:
            await asyncio.sleep(0.01)
        yield f"ws://127.0.0.1:{port}/stream"
        uvicorn_server.should_exit = True
        await task


def batch(rows: int, first: int) -> pl.DataFrame:
    """Return ticks whose price is the time in seconds."""
    now = time.time()
    symbols = [f"S{(first + number) % SYMBOLS}" for number in range(rows)]
    moment = pl.Series([datetime.fromtimestamp(now, UTC)] * rows, dtype=UTC_MICROS)
    columns = {"symbol": symbols, "ts": moment, "price": np.full(rows, now), "size": np.ones(rows)}
    return (
        pl.DataFrame(columns)
        .with_columns(pl.lit(None, pl.String).alias(name) for name in list(TICKS)[4:])
        .select(pl.col(name).cast(TICKS[name]) for name in TICKS)
    )


def feed() -> Feed:
    return Feed("bench", "24/7")


async def send_ticks(context: Any, rate: int, seconds: float) -> list[float]:
    """Submit ticks at a rate; return the seconds until each batch was durable."""
    durable: list[float] = []
    pending: set[asyncio.Task[None]] = set()
    source, rows, sent = feed(), max(rate // BATCHES_PER_SECOND, 1), 0

    async def submit(frame: pl.DataFrame) -> None:
        started = time.perf_counter()
        await context.pipeline.intake.submit(frame, source)
        durable.append(time.perf_counter() - started)

    begin = time.perf_counter()
    while (now := time.perf_counter()) < begin + seconds:
        due = begin + sent / rate
        if now < due:
            await asyncio.sleep(due - now)
        task = asyncio.create_task(submit(batch(rows, sent)))
        pending.add(task)
        task.add_done_callback(pending.discard)
        sent += rows
    await asyncio.gather(*pending)
    return durable


async def echo(rate: int, seconds: float, rows: int) -> dict[str, float]:
    """Return the latency of a bare echo over loopback, at the same number of messages a second and the same bytes."""
    lags: list[float] = []
    size = 200 * rows

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                writer.write(await reader.readexactly(size + 8))

    listening = await asyncio.start_server(answer, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())

    async def receive() -> None:
        with suppress(asyncio.IncompleteReadError):
            while True:
                data = await reader.readexactly(size + 8)
                lags.append(time.time() - np.frombuffer(data[:8], np.float64)[0])

    receiving = asyncio.create_task(receive())
    messages = max(rate // rows, 1)
    for number in range(int(min(seconds, 3) * messages)):
        writer.write(np.float64(time.time()).tobytes() + bytes(size))
        await asyncio.sleep(1 / messages)
        del number
    await asyncio.sleep(0.1)
    receiving.cancel()
    writer.close()
    listening.close()
    return quantiles(lags)


# The measurements -----------------------------------------------------------------------------------


async def latency(context: Any, uri: str, rate: int, seconds: float) -> dict[str, Any]:
    async with clients(uri, 1) as found:
        durable = await send_ticks(context, rate, seconds)
        await asyncio.sleep(0.5)
    rows = max(rate // BATCHES_PER_SECOND, 1)
    return {
        "ticks_per_second": rate,
        "ticks_to_socket": quantiles(found["lags"]),
        "durable": quantiles(durable),
        "rows": found["counts"]["rows"],
        "missed": found["counts"]["missed"],
        "echo": await echo(rate, seconds, rows),
    }


async def bare_broadcast(number: int, frame: bytes, seconds: float) -> float:
    """Return the messages a second that `websockets` sends to so many clients with the same bytes."""
    connections: set[Any] = set()

    async def handle(connection: Any) -> None:
        await connection.send("welcome")
        await connection.recv()
        await connection.send("subscribed")
        connections.add(connection)
        await connection.wait_closed()

    async with serve(handle, "127.0.0.1", 0, compression=None, ping_interval=None) as listening:
        uri = f"ws://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        async with clients(uri, number, measuring=0) as found:
            sent, begin = 0, time.perf_counter()
            text = frame.decode()
            while time.perf_counter() < begin + seconds:
                broadcast(connections, text)
                sent += len(connections)
                while any(one.transport.get_write_buffer_size() > 64 * 1024 for one in connections):
                    await asyncio.sleep(0.001)
                await asyncio.sleep(0)
            elapsed = time.perf_counter() - begin
        del found
    return sent / elapsed


async def fan_out(context: Any, uri: str, number: int, seconds: float) -> dict[str, Any]:
    """Publish as fast as the clients read: the next rows when no buffer holds many of them."""
    hub, rows = context.hub, 10
    family = (Channel.TICKS, "", "")
    frame = hub._served.ticks(await logged(context, rows))
    async with clients(uri, number, measuring=0) as found:
        before, begin = hub.traffic.messages, time.perf_counter()
        while time.perf_counter() < begin + seconds:
            hub.publish(family, Change.NEW, Batch(frame))
            while any(one.rows > 2 * rows for one in hub.subscribers):
                await asyncio.sleep(0)
            await asyncio.sleep(0)
        ours = (hub.traffic.messages - before) / (time.perf_counter() - begin)
        missed = hub.totals().missed
    format_ = routes.FORMATS["json"]
    text = format_.frame([format_.dumps({"type": "data", "channel": "ticks", "seq": 10**6, "rows": frame.to_dicts()})])
    bare = await bare_broadcast(number, text, seconds)
    return {
        "clients": number,
        "bytes_per_message": len(text),
        "messages_per_second": round(ours),
        "bare_broadcast_per_second": round(bare),
        "share_of_bare": round(ours / bare, 3),
        "missed_rows": missed,
        "read_frames": found["counts"]["frames"],
    }


async def logged(context: Any, rows: int) -> pl.DataFrame:
    """Return ticks of the log."""
    await context.pipeline.intake.submit(batch(rows, 0), feed())
    symbol = context.names.symbols["S0"]
    kinds = list(context.names.kind_by_id)
    now = datetime.now(UTC)
    moments = pl.Series([now] * rows, dtype=UTC_MICROS)
    return pl.DataFrame(
        {
            "seq": np.arange(rows),
            "symbol_id": np.full(rows, symbol.id, np.int32),
            "kind_id": np.full(rows, kinds[0], np.int32),
            "ts": moments,
            "received_at": moments,
            "price": np.full(rows, 189.72),
            "size": np.full(rows, 100.0),
            "trade_id": pl.Series([None] * rows, dtype=pl.String),
        }
    )


async def stalling(context: Any, uri: str, number: int, rate: int, seconds: float) -> list[dict[str, Any]]:
    """Return the p99 of the readers without and with stalled ones."""
    figures = []
    process = psutil.Process()
    for stalled in (0, max(int(number * STALL_SHARE), 1)):
        async with clients(uri, number, stalled=stalled, measuring=5) as found:
            memory, most = process.memory_info().rss, [0]
            watching = threading.Event()

            def watch(most: list[int] = most, watching: threading.Event = watching) -> None:
                while not watching.wait(0.2):
                    most[0] = max(most[0], process.memory_info().rss)

            thread = threading.Thread(target=watch)
            thread.start()
            await send_ticks(context, rate, seconds)
            totals = context.hub.totals()
            watching.set()
            thread.join()
        counts = found["counts"]
        figures.append(
            {
                "clients": number,
                "stalled": stalled,
                "ticks_per_second": rate,
                "ticks_to_socket": quantiles(found["lags"]),
                "memory_growth_mb": round((most[0] - memory) / 2**20, 1),
                "slow_clients_closed": totals.slow,
                "missed_rows": totals.missed,
                "stalled_told": counts["told"],
                "stalled_closed_4008": counts["closed_4008"],
                "stalled_cut_off": counts["cut_off"],
            }
        )
        await asyncio.sleep(1)
    return figures


async def main(arguments: argparse.Namespace) -> None:
    async with fresh_database() as dsn:
        settings = Settings(database_url=dsn, provider="none", log_format="json")
        async with running(settings, CollectorRegistry()) as context, server(context) as uri:
            await logged(context, 1)
            latencies = [await latency(context, uri, rate, arguments.seconds) for rate in arguments.rates]
            fans = [await fan_out(context, uri, number, min(arguments.seconds, 5)) for number in arguments.clients]
            stalls = []
            if arguments.stalled_clients:
                stalls = await stalling(
                    context, uri, arguments.stalled_clients, arguments.stalled_rate, arguments.stalled_seconds
                )
    report("stream", latency=latencies, fan_out=fans, stalled=stalls, load_average=os.getloadavg()[0])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rates", type=int, nargs="*", default=[1_000, 10_000, 50_000])
    parser.add_argument("--clients", type=int, nargs="*", default=[100, 1_000])
    parser.add_argument("--stalled-clients", type=int, default=1_000)
    parser.add_argument("--stalled-rate", type=int, default=10_000)
    parser.add_argument("--stalled-seconds", type=float, default=40)
    uvloop.run(main(parser.parse_args()))
