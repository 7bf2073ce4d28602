"""A soak: many greedy readers beside a steady rate of ticks.

The readers ask for all bars and for all indicators of a long history, again and again, and read as fast as they can.
In separate processes, ticks are posted at a steady rate, and /health and /ready are asked ten times a second. At the
end every acknowledged tick must be stored exactly once.

python tests/bench/greedy_readers.py [--minutes 10] [--readers 200] [--rate 10000] [--bars 1000000]
"""

import argparse
import asyncio
import multiprocessing
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import orjson
import psutil
from request_memory import DATA, INDICATORS, fill

from bench import AppProcess, quantiles, report

POSTS_PER_SECOND = 20
SYMBOLS = 100
MOST_SAMPLES = 20
HEADERS = {"Content-Type": "application/json"}


# Greedy readers ---------------------------------------------------------------------------------


async def read_again_and_again(port: int, path: str, until: float, answers: Counter[str]) -> None:
    while time.monotonic() < until:
        writer = None
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            status = head.split()[1].decode()
            while time.monotonic() < until and (piece := await reader.read(2**18)):
                answers["bytes"] += len(piece)
            answers[status] += 1
            if status == "503":
                await asyncio.sleep(1)  # as Retry-After says
        except (OSError, asyncio.IncompleteReadError) as fault:
            answers[type(fault).__name__] += 1
            await asyncio.sleep(0.1)
        finally:
            if writer is not None:
                writer.close()


def run_readers(port: int, readers: int, seconds: float, results: Any) -> None:
    answers: Counter[str] = Counter()
    paths = [DATA, INDICATORS.replace("parquet", "arrow"), INDICATORS, f"{DATA}&format=csv"]

    async def run() -> None:
        until = time.monotonic() + seconds
        tasks = [read_again_and_again(port, paths[at % len(paths)], until, answers) for at in range(readers)]
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds + 5):
                await asyncio.gather(*tasks)

    asyncio.run(run())
    results.put(("readers", dict(answers)))


# Ticks ------------------------------------------------------------------------------------------


async def post_on_schedule(url: str, rate: int, seconds: float) -> dict[str, Any]:
    """Post ticks with numbered trade_ids on schedule, whether or not earlier requests were answered."""
    latencies: list[float] = []
    found: dict[str, Any] = {"latencies": latencies, "acknowledged": [], "refused": Counter()}
    per_post = rate // POSTS_PER_SECOND

    async with httpx2.AsyncClient(base_url=url, timeout=60) as client:

        async def one(number: int) -> None:
            common = {"ts": datetime.now(UTC).isoformat(), "size": 1}
            ticks = [
                {"symbol": f"T{row % SYMBOLS}", "price": 100 + row % 7, "trade_id": f"{number}-{row}"} | common
                for row in range(per_post)
            ]
            started = time.perf_counter()
            try:
                answer = await client.post(
                    "/api/v1/ticks?provider=soak&calendar=24/7", content=orjson.dumps(ticks), headers=HEADERS
                )
            except httpx2.HTTPError as fault:
                found["refused"][type(fault).__name__] += 1
                return
            latencies.append(time.perf_counter() - started)
            if answer.status_code == 200 and answer.json()["accepted"] == per_post:
                found["acknowledged"].append(number)
            else:
                found["refused"][str(answer.status_code)] += 1

        started, tasks = time.perf_counter(), []
        for number in range(int(seconds * POSTS_PER_SECOND)):
            await asyncio.sleep(max(0.0, started + number / POSTS_PER_SECOND - time.perf_counter()))
            tasks.append(asyncio.create_task(one(number)))
        await asyncio.gather(*tasks)
    return found


def run_posts(url: str, rate: int, seconds: float, results: Any) -> None:
    results.put(("posts", asyncio.run(post_on_schedule(url, rate, seconds))))


async def stored_once(folder: Path, acknowledged: list[int], per_post: int) -> dict[str, int]:
    """Compare the stored ticks with the acknowledged ones."""
    connection = await asyncpg.connect(f"postgresql://stockpulse@/stockpulse?host={folder / 'run'}")
    try:
        rows = await connection.fetch(
            "SELECT trade_id, count(*) FROM stock_ticks WHERE provider = 'soak' GROUP BY trade_id", timeout=300
        )
    finally:
        await connection.close()
    stored = {row[0]: row[1] for row in rows}
    wanted = [f"{number}-{row}" for number in acknowledged for row in range(per_post)]
    return {
        "acknowledged": len(wanted),
        "missing": sum(trade_id not in stored for trade_id in wanted),
        "more_than_once": sum(count > 1 for count in stored.values()),
    }


# Probes -----------------------------------------------------------------------------------------


def run_probe(url: str, path: str, seconds: float, results: Any) -> None:
    latencies, refused = [], Counter()
    until = time.monotonic() + seconds
    with httpx2.Client(base_url=url, timeout=60) as client:
        while time.monotonic() < until:
            started = time.perf_counter()
            try:
                status = str(client.get(path).status_code)
            except httpx2.HTTPError as fault:
                status = type(fault).__name__
            latencies.append(time.perf_counter() - started)
            if status != "200":
                refused[status] += 1
            time.sleep(0.1)
    results.put((path, {"latencies": latencies, "refused": dict(refused)}))


def sample(pid: int, samples: list[int], over: threading.Event, seconds: float) -> None:
    process = psutil.Process(pid)
    while not over.wait(seconds):
        samples.append(process.memory_info().rss // 2**20)


def soak(app: AppProcess, folder: Path, readers: int, rate: int, seconds: float) -> None:
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    work = [
        (run_readers, (app.port, readers, seconds, results)),
        (run_posts, (app.url, rate, seconds, results)),
        *((run_probe, (app.url, path, seconds, results)) for path in ("/health", "/ready")),
    ]
    samples, over = [psutil.Process(app.pid).memory_info().rss // 2**20], threading.Event()
    threading.Thread(target=sample, args=(app.pid, samples, over, max(0.2, seconds / 200))).start()
    processes = [spawn.Process(target=target, args=arguments) for target, arguments in work]
    for process in processes:
        process.start()
    found = dict(results.get() for _ in processes)
    for process in processes:
        process.join()
    over.set()
    posts, half = found["posts"], len(samples) // 2
    app.wait_for("/health", lambda health: not health["tasks"]["flush"]["lag"], 120)
    report(
        "greedy_readers",
        readers=readers,
        ticks_per_second=rate,
        seconds=seconds,
        rss_mb_first_half_max=max(samples[: half + 1]),
        rss_mb_second_half_max=max(samples[half:]),
        rss_mb=samples[:: max(1, len(samples) // MOST_SAMPLES)],
        answers=found["readers"],
        post=quantiles(posts["latencies"]) | {"refused": dict(posts["refused"])},
        health=quantiles(found["/health"]["latencies"]) | {"refused": found["/health"]["refused"]},
        ready=quantiles(found["/ready"]["latencies"]) | {"refused": found["/ready"]["refused"]},
        stored=asyncio.run(stored_once(folder, posts["acknowledged"], rate // POSTS_PER_SECOND)),
    )


def main(minutes: float, readers: int, rate: int, bars: int) -> None:
    with tempfile.TemporaryDirectory(prefix="sp-bench-") as name:
        folder = Path(name)
        asyncio.run(fill(folder, bars))
        with AppProcess(folder) as app:
            app.wait_for("/health", lambda health: health["analytics"]["compiled"], 120)
            soak(app, folder, readers, rate, minutes * 60)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--readers", type=int, default=200)
    parser.add_argument("--rate", type=int, default=10_000)
    parser.add_argument("--bars", type=int, default=1_000_000)
    arguments = parser.parse_args()
    main(arguments.minutes, arguments.readers, arguments.rate, arguments.bars)
