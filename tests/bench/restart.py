"""From SIGKILL to ready again, with 10,000 symbols that all have forming bars.

python tests/bench/restart.py [--symbols 10000] [--rounds 5]
"""

import argparse
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import polars as pl

from bench import AppProcess, report


def batch(symbols: int) -> bytes:
    now = datetime.now(UTC)
    frame = pl.DataFrame({"symbol": [f"S{number}" for number in range(symbols)]}).with_columns(
        ts=pl.lit(now), price=pl.lit(100.0), size=pl.lit(10.0)
    )
    return frame.write_ipc_stream(None).getvalue()


def main(symbols: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory(prefix="sp-bench-") as folder:
        app = AppProcess(Path(folder)).start()
        while not httpx2.get(f"{app.url}/health").json()["analytics"]["compiled"]:
            time.sleep(0.1)
        seconds = []
        for _ in range(rounds):
            for _ in range(20):
                answer = httpx2.post(
                    f"{app.url}/api/v1/ticks?calendar=24/7",
                    content=batch(symbols),
                    headers={"Content-Type": "application/vnd.apache.arrow.stream"},
                    timeout=30,
                )
                assert answer.json()["accepted"] == symbols, answer.text
                time.sleep(0.1)
            app.kill()
            started = time.perf_counter()
            app.start()
            seconds.append(round(time.perf_counter() - started, 2))
        app.stop()
        report("restart", symbols=symbols, seconds=sorted(seconds), median=sorted(seconds)[rounds // 2])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--symbols", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    main(arguments.symbols, arguments.rounds)
