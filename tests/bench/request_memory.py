"""The memory of the app, and the times of small requests, while other requests ask for far too much.

Each case runs on a fresh start of the app. It starts its greedy requests and, in a separate process, sends
`GET /health` and `POST /ticks` twenty times a second. After `--seconds` the greedy requests end.

python tests/bench/request_memory.py [--cases indicators data60 data200 bodies bomb] [--bars 1000000] [--seconds 20]
"""

import argparse
import asyncio
import io
import multiprocessing
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import orjson
import polars as pl
import psutil
from prometheus_client import CollectorRegistry

from bench import AppProcess, quantiles, report
from stockpulse.engine.bar_math import BAR, set_sums
from stockpulse.indicators.catalogue import CATALOGUE
from stockpulse.ingest.feed import Feed
from stockpulse.market.clocks import Clock
from stockpulse.market.intervals import M1
from stockpulse.market.schemas import TICKS
from stockpulse.node.lifecycle import running
from stockpulse.postgres.connect import copy_in
from stockpulse.settings import Settings
from stockpulse.storage.bar_rows import LAYOUT, TABLE, columns_of
from stockpulse.storage.partitions import OF_EVENTS, Partitions

SYMBOL = "LONG"
MINUTE = 60_000_000
BODY_BYTES = 60 * 2**20
PROBE_SECONDS = 0.05


async def fill(folder: Path, bars: int) -> None:
    """Store this many 1-minute bars of one symbol, up to now."""
    settings = Settings(data_dir=folder, provider="none")
    async with running(settings, CollectorRegistry()) as context:
        tick = {"symbol": SYMBOL, "ts": datetime.now(UTC), "price": 100.0, "size": 1.0}
        frame = pl.DataFrame([dict.fromkeys(TICKS) | tick], schema=TICKS, orient="row")
        await context.pipeline.intake.submit(frame, Feed("api", "24/7", Clock.WALL))
        end = int(time.time() * 1e6) // MINUTE * MINUTE - MINUTE
        rows = _walk(bars, end, context.names.symbols[SYMBOL].id)
        partitions, now = Partitions(context.pool), datetime.now(UTC)
        weeks = [datetime.fromtimestamp(int(ts) / 1e6, UTC) for ts in rows["ts"][::1440]]
        table = next(one for one in OF_EVENTS if one.name == TABLE[M1])
        await partitions.ensure(table, [*weeks, now - timedelta(minutes=1)], now)
        for at in range(0, bars, 100_000):
            pieces = LAYOUT.pack(columns_of(rows[at : at + 100_000]))

            async def source(pieces: Any = pieces) -> Any:
                for piece in pieces:
                    yield bytes(piece)

            async with context.pool.acquire() as connection:
                await copy_in(connection, TABLE[M1], LAYOUT.columns, source(), 60)


def _walk(bars: int, end: int, symbol_id: int) -> Any:
    rng = np.random.default_rng(1)
    rows = np.zeros(bars, BAR)
    rows["symbol_id"] = symbol_id
    rows["ts"] = end - MINUTE * np.arange(bars)[::-1]
    rows["end"] = rows["ts"] + MINUTE
    rows["open_ts"], rows["close_ts"] = rows["ts"], rows["end"] - 1
    price = np.round(100 * np.exp(np.cumsum(rng.normal(0, 1e-4, bars))), 2)
    rows["open"], rows["close"] = price, np.round(price + rng.normal(0, 0.05, bars), 2)
    rows["high"] = np.maximum(rows["open"], rows["close"]) + 0.02
    rows["low"] = np.minimum(rows["open"], rows["close"]) - 0.02
    set_sums(rows, np.round(rng.gamma(2, 500, bars)), np.round(price, 4))
    rows["trade_count"], rows["revision"] = 10, np.arange(bars) + 1
    rows["final"] = True
    return rows


# Greedy requests ------------------------------------------------------------------------------


async def read_whole(port: int, path: str) -> str:
    """Ask for a path over a plain socket, read the answer as fast as it comes; return its status and its end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        last = b""
        while piece := await reader.read(2**18):
            last = (last + piece)[-5:]
        whole = b"chunked" not in head or last == b"0\r\n\r\n"
        return head.split()[1].decode() + ("" if whole else " broken")
    finally:
        writer.close()


async def stalled_body(port: int) -> str:
    """Send all of a large body but its last byte, and wait."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = "POST /api/v1/ticks HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {BODY_BYTES}\r\n\r\n".encode())
        answered = asyncio.create_task(reader.readuntil(b"\r\n\r\n"))
        for _ in range(BODY_BYTES // 2**18 - 1):
            if answered.done():
                break
            writer.write(b" " * 2**18)
            with suppress(ConnectionError):
                await writer.drain()
        return (await answered).split()[1].decode()
    finally:
        writer.close()


def bomb() -> bytes:
    """Return a small Arrow body that unpacks to 260 MB: one text of 2,600 characters 100,000 times."""
    buffer, rows = io.BytesIO(), 100_000
    frame = pl.DataFrame(
        {
            "symbol": pl.Series(["A" * 2600]).new_from_index(0, rows),
            "ts": pl.Series([int(time.time() * 1000)]).new_from_index(0, rows),
            "price": pl.Series([1.0]).new_from_index(0, rows),
            "size": pl.Series([1.0]).new_from_index(0, rows),
        }
    )
    frame.write_ipc_stream(buffer, compression="zstd", compat_level=pl.CompatLevel.oldest())
    return buffer.getvalue()


async def post_bomb(port: int, body: bytes) -> str:
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        answer = await client.post(
            "/api/v1/ticks", content=body, headers={"Content-Type": "application/vnd.apache.arrow.stream"}
        )
        return f"{answer.status_code} ({len(body):,} bytes in, {len(answer.content):,} out)"


INDICATORS = f"/api/v1/indicators/{SYMBOL}?type={','.join(CATALOGUE)}&interval=1m&format=parquet"
DATA = f"/api/v1/data/{SYMBOL}?interval=1m"
BOMB = bomb()
CASES: dict[str, tuple[int, Callable[[int], Awaitable[str]]]] = {
    "indicators": (8, lambda port: read_whole(port, INDICATORS)),
    "data1": (1, lambda port: read_whole(port, DATA)),
    "data60": (60, lambda port: read_whole(port, DATA)),
    "data200": (200, lambda port: read_whole(port, DATA)),
    "bodies": (10, stalled_body),
    "bomb": (1, lambda port: post_bomb(port, BOMB)),
}


async def ask_greedily(case: str, port: int, seconds: float) -> dict[str, int]:
    """Run the greedy requests of a case until all are answered or the time is over; return how they ended."""
    number, one = CASES[case]
    tasks = [asyncio.create_task(_outcome(one(port))) for _ in range(number)]
    done, unfinished = await asyncio.wait(tasks, timeout=seconds)
    for task in unfinished:
        task.cancel()
    await asyncio.gather(*unfinished, return_exceptions=True)
    return dict(Counter([task.result() for task in done]) + Counter({"unfinished": len(unfinished)}))


async def _outcome(asking: Awaitable[str]) -> str:
    try:
        return await asking
    except (OSError, asyncio.IncompleteReadError, httpx2.HTTPError) as fault:
        return type(fault).__name__


# Small requests beside them ---------------------------------------------------------------------


def probe(port: int, stop: Any, results: Any) -> None:
    """Send small requests until `stop` is set; put their times into `results`."""
    found: dict[str, Any] = {"health": [], "post": [], "refused": Counter()}

    def repeat(name: str, ask: Callable[[httpx2.Client, int], httpx2.Response]) -> None:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            number = 0
            while not stop.is_set():
                number += 1
                started = time.perf_counter()
                try:
                    status = ask(client, number).status_code
                except httpx2.HTTPError as fault:
                    status = type(fault).__name__
                found[name].append(time.perf_counter() - started)
                if status != 200:
                    found["refused"][f"{name} {status}"] += 1
                stop.wait(PROBE_SECONDS)

    def post(client: httpx2.Client, number: int) -> httpx2.Response:
        now = datetime.now(UTC).isoformat()
        ticks = [{"symbol": f"P{row}", "ts": now, "price": 10, "size": 1} for row in range(20)]
        headers = {"Content-Type": "application/json"}
        return client.post("/api/v1/ticks?provider=probe&calendar=24/7", content=orjson.dumps(ticks), headers=headers)

    threads = [
        threading.Thread(target=repeat, args=("health", lambda client, _: client.get("/health"))),
        threading.Thread(target=repeat, args=("post", post)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results.put(found)


def watch(pid: int, most_mb: int, peak: list[int], over: threading.Event) -> None:
    """Note the peak memory of a process every 20 ms; kill the process above `most_mb`."""
    process = psutil.Process(pid)
    while not over.wait(0.02):
        try:
            peak[0] = max(peak[0], process.memory_info().rss // 2**20)
        except psutil.NoSuchProcess:
            return
        if peak[0] > most_mb:
            process.kill()
            return


def run_case(folder: Path, case: str, seconds: float, most_mb: int) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    with AppProcess(folder) as app:
        app.wait_for("/health", lambda health: health["analytics"]["compiled"], 120)
        before = psutil.Process(app.pid).memory_info().rss // 2**20
        stop, results, over, peak = context.Event(), context.Queue(), threading.Event(), [before]
        prober = context.Process(target=probe, args=(app.port, stop, results))
        prober.start()
        threading.Thread(target=watch, args=(app.pid, most_mb, peak, over)).start()
        time.sleep(2)
        started = time.perf_counter()
        outcomes = asyncio.run(ask_greedily(case, app.port, seconds))
        took = time.perf_counter() - started
        stop.set()
        found = results.get()
        prober.join()
        over.set()
        return {
            "rss_before_mb": before,
            "rss_peak_mb": peak[0],
            "seconds": round(took, 1),
            "answers": outcomes,
            "health": quantiles(found["health"]),
            "post": quantiles(found["post"]),
            "refused": dict(found["refused"]),
        }


def main(cases: list[str], bars: int, seconds: float, most_mb: int, folder: Path) -> None:
    if not (folder / "postgres").exists():
        asyncio.run(fill(folder, bars))
    figures = {case: run_case(folder, case, seconds, most_mb) for case in cases}
    report("request_memory", bars=bars, **figures)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--cases", nargs="+", choices=CASES, default=["indicators", "data60", "data200", "bodies", "bomb"]
    )
    parser.add_argument("--bars", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--most-mb", type=int, default=9_000, help="above this the app is killed")
    parser.add_argument("--data", type=Path, help="a data folder to keep, so that the next run need not fill it")
    arguments = parser.parse_args()
    kept: Path | None = arguments.data
    chosen = kept or Path(tempfile.mkdtemp(prefix="sp-bench-"))
    try:
        main(arguments.cases, arguments.bars, arguments.seconds, arguments.most_mb, chosen)
    finally:
        if kept is None:
            shutil.rmtree(chosen, ignore_errors=True)
