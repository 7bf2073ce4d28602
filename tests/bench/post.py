"""The time from POST /ticks to the durable answer, at a steady rate of ticks.

Compared in the same run with a bare commit on the same server.

python tests/bench/post.py [--rates 1000 10000] [--seconds 20]
"""

import argparse
import asyncio
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import httpx2
import orjson

from bench import AppProcess, quantiles, report

REQUESTS_PER_SECOND = 50


def body(ticks: int, number: int) -> bytes:
    now = datetime.now(UTC).isoformat()
    return orjson.dumps(
        [
            {"symbol": f"S{row % 100}", "ts": now, "price": 100 + row % 7, "size": 10, "trade_id": f"{number}-{row}"}
            for row in range(ticks)
        ]
    )


async def post_at(url: str, rate: int, seconds: float) -> list[float]:
    """Send requests on schedule, whether or not earlier ones were answered; return their latencies in seconds."""
    latencies: list[float] = []
    async with httpx2.AsyncClient(base_url=url, timeout=30) as client:

        async def one(number: int) -> None:
            content = body(rate // REQUESTS_PER_SECOND, number)
            started = time.perf_counter()
            answer = await client.post(
                "/api/v1/ticks?calendar=24/7", content=content, headers={"Content-Type": "application/json"}
            )
            assert answer.json()["accepted"] == rate // REQUESTS_PER_SECOND, answer.text
            latencies.append(time.perf_counter() - started)

        started, tasks = time.perf_counter(), []
        for number in range(int(seconds * REQUESTS_PER_SECOND)):
            await asyncio.sleep(max(0.0, started + number / REQUESTS_PER_SECOND - time.perf_counter()))
            tasks.append(asyncio.create_task(one(rate * 1_000_000 + number)))
        await asyncio.gather(*tasks)
    return latencies


async def bare_commits(app: AppProcess) -> list[float]:
    """Return the seconds that an INSERT and its commit take on the same server: no durable answer can be faster."""
    connection = await asyncpg.connect(f"postgresql://stockpulse@/stockpulse?host={app.data_dir / 'run'}")
    await connection.execute("CREATE TABLE bare (at timestamptz)")
    latencies = []
    for _ in range(500):
        started = time.perf_counter()
        await connection.execute("INSERT INTO bare VALUES (now())")
        latencies.append(time.perf_counter() - started)
    await connection.execute("DROP TABLE bare")
    await connection.close()
    return latencies


async def main(rates: list[int], seconds: float) -> None:
    with tempfile.TemporaryDirectory(prefix="sp-bench-") as folder, AppProcess(Path(folder)) as app:
        await post_at(app.url, 1000, 2)
        bare = quantiles(await bare_commits(app))
        figures = {rate: quantiles(await post_at(app.url, rate, seconds)) for rate in rates}
        report("post", requests_per_second=REQUESTS_PER_SECOND, at_ticks_per_second=figures, bare_commit=bare)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rates", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--seconds", type=float, default=20)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.rates, arguments.seconds))
