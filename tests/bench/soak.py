"""Memory, file descriptors and lag during a long run at a steady rate of ticks.

python tests/bench/soak.py [--rate 20000] [--minutes 10] [--sample-seconds 10]
"""

import argparse
import tempfile
import time
from pathlib import Path

import httpx2
import psutil

from bench import AppProcess, report

SYMBOLS = 500


def main(rate: int, minutes: float, sample_seconds: float) -> None:
    symbols = ",".join(f"S{number}" for number in range(SYMBOLS))
    settings = {"provider": "simulated", "symbols": symbols, "simulated_rate": str(rate / SYMBOLS)}
    with tempfile.TemporaryDirectory(prefix="sp-bench-") as folder, AppProcess(Path(folder), **settings) as app:
        process = psutil.Process(app.pid)
        samples = []
        for _ in range(max(2, int(minutes * 60 / sample_seconds))):
            time.sleep(sample_seconds)
            metrics = httpx2.get(f"{app.url}/metrics", timeout=10).text
            values = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#"))
            samples.append(
                {
                    "rss_mb": round(process.memory_info().rss / 2**20),
                    "descriptors": process.num_fds(),
                    "threads": process.num_threads(),
                    "ticks": int(float(values["stockpulse_ticks_total"])),
                    "unflushed": int(float(values['stockpulse_lag_rows{stage="unflushed"}'])),
                }
            )
        half = len(samples) // 2
        report(
            "soak",
            wanted_ticks_per_second=rate,
            ticks_per_second=round(
                (samples[-1]["ticks"] - samples[0]["ticks"]) / (sample_seconds * (len(samples) - 1))
            ),
            minutes=minutes,
            rss_mb_first_half_max=max(sample["rss_mb"] for sample in samples[:half]),
            rss_mb_second_half_max=max(sample["rss_mb"] for sample in samples[half:]),
            samples=samples[:: max(1, len(samples) // 10)],
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=int, default=20_000)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--sample-seconds", type=float, default=10)
    arguments = parser.parse_args()
    main(arguments.rate, arguments.minutes, arguments.sample_seconds)
