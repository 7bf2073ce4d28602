"""The time from SIGKILL until the app is ready again, with 10,000 symbols that have forming bars and indicators.

python tests/bench/restart.py [--symbols 10000] [--history 40] [--rounds 5] [--batches 20]
"""

import argparse
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import polars as pl

from bench import AppProcess, report


def batch(symbols: int, age: timedelta = timedelta(0)) -> bytes:
    now = datetime.now(UTC) - age
    frame = pl.DataFrame({"symbol": [f"S{number}" for number in range(symbols)]}).with_columns(
        ts=pl.lit(now), price=pl.lit(100.0), size=pl.lit(10.0)
    )
    return frame.write_ipc_stream(None).getvalue()


def send(app: AppProcess, body: bytes, symbols: int) -> None:
    answer = httpx2.post(
        f"{app.url}/api/v1/ticks?calendar=24/7",
        content=body,
        headers={"Content-Type": "application/vnd.apache.arrow.stream"},
        timeout=60,
    )
    assert answer.json()["accepted"] == symbols, answer.text


def caught_up(app: AppProcess) -> None:
    while (now := httpx2.get(f"{app.url}/health", timeout=30).json()["analytics"])["behind"] or not now["compiled"]:
        time.sleep(0.2)


def main(symbols: int, history: int, rounds: int, batches: int) -> None:
    with tempfile.TemporaryDirectory(prefix="sp-bench-") as folder:
        app = AppProcess(Path(folder)).start()
        caught_up(app)
        for back in range(history, 0, -1):  # a bar of 5 minutes from each
            send(app, batch(symbols, back * timedelta(minutes=5)), symbols)
        caught_up(app)
        time.sleep(5)  # the last flush
        seconds = []
        for _ in range(rounds):
            for _ in range(batches):
                send(app, batch(symbols), symbols)
                time.sleep(0.1)
            app.kill()
            started = time.perf_counter()
            app.start()
            seconds.append(round(time.perf_counter() - started, 2))
        app.stop()
        report(
            "restart",
            symbols=symbols,
            bars_of_each=history,
            seconds=sorted(seconds),
            median=sorted(seconds)[rounds // 2],
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--symbols", type=int, default=10_000)
    parser.add_argument("--history", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=20)
    arguments = parser.parse_args()
    main(arguments.symbols, arguments.history, arguments.rounds, arguments.batches)
