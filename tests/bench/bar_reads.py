"""/bars/latest and a year of 5-minute bars as JSON and Arrow, compared with the same queries through bare asyncpg.

python tests/bench/bar_reads.py [--seconds 5] [--days 365]
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import httpx2

from bench import AppProcess, quantiles, report
from stockpulse.ingest.feed import Feed
from stockpulse.market.clocks import Clock
from stockpulse.providers.simulated import SimulatedProvider

COLUMNS = (
    "ts, open, high, low, close, volume_units, volume_picos, vwap_units, vwap_picos,"
    " notional_high, notional_middle, notional_low, trade_count, revision"
)


async def fill(folder: Path, days: int) -> None:
    """Store 5-minute bars of these days and 1-minute bars of one day, of one symbol, through the log."""
    from prometheus_client import CollectorRegistry

    from stockpulse.node.lifecycle import running
    from stockpulse.settings import Settings

    provider = SimulatedProvider(["AAPL"])
    now = datetime.now(UTC)
    async with running(Settings(data_dir=folder, provider="none"), CollectorRegistry()) as context:
        feed = Feed("simulated", "24/7", Clock.WALL)
        for interval, back in (("5m", days), ("1m", 1)):
            async for bars in provider.history(["AAPL"], interval, now - timedelta(days=back), now):
                await context.pipeline.intake.submit(bars, feed, of_bars=True)


async def rate(seconds: float, ask: Callable[[], Awaitable[None]]) -> tuple[float, dict[str, float]]:
    """Return the number of consecutive requests per second, and quantiles of their times."""
    latencies: list[float] = []
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        begun = time.perf_counter()
        await ask()
        latencies.append(time.perf_counter() - begun)
    return len(latencies) / (time.perf_counter() - started), quantiles(latencies)


async def main(seconds: float, days: int) -> None:
    with tempfile.TemporaryDirectory(prefix="sp-bench-") as name:
        folder = Path(name)
        await fill(folder, days)
        with AppProcess(folder) as app:
            connection = await asyncpg.connect(f"postgresql://stockpulse@/stockpulse?host={folder / 'run'}")
            symbol_id = await connection.fetchval("SELECT id FROM symbols WHERE symbol = 'AAPL'")
            since = datetime.now(UTC) - timedelta(days=days)

            async def bare_latest() -> None:
                query = f"SELECT {COLUMNS} FROM bars_1m WHERE symbol_id = $1 ORDER BY ts DESC LIMIT 10"
                assert len(await connection.fetch(query, symbol_id)) == 10

            async def bare_year() -> None:
                query = f"SELECT {COLUMNS} FROM intraday_ohlcv WHERE symbol_id = $1 AND ts >= $2 ORDER BY ts"
                assert len(await connection.fetch(query, symbol_id, since)) > 280 * (days - 1)

            async with httpx2.AsyncClient(base_url=app.url, timeout=60) as client:

                async def get(path: str) -> None:
                    answer = await client.get(path)
                    assert answer.status_code == 200, answer.text

                year = f"/data/AAPL?interval=5m&start={since.timestamp():.0f}"
                pairs = {
                    "latest": (bare_latest, "/bars/latest?symbol=AAPL&limit=10"),
                    "year_json": (bare_year, year),
                    "year_arrow": (bare_year, f"{year}&format=arrow"),
                }
                results = {}
                for what, (bare, path) in pairs.items():
                    bare_rate, _ = await rate(seconds, bare)
                    ours, times = await rate(seconds, lambda path=path: get(path))
                    again, _ = await rate(seconds, bare)
                    peer = (bare_rate + again) / 2
                    results[what] = {
                        "requests_per_second": round(ours, 1),
                        "bare_asyncpg_per_second": round(peer, 1),
                        "share": round(ours / peer, 2),
                        **times,
                    }
                report("bar_reads", days=days, **results)
            await connection.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--days", type=int, default=365)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.seconds, arguments.days))
