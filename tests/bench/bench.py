"""The parts that benchmarks share: the result as one JSON object on stdout, percentiles, and a fresh database.

Each benchmark prints one object; the app's log goes to stderr. Every size is an option, so that a test can run all of
them at a tiny one.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import json
import os
import platform
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np

from app_process import AppProcess
from stockpulse.postgres import migrate
from stockpulse.postgres.embedded.server import EmbeddedPostgres
from stockpulse.telemetry.logs import configure_logging

__all__ = ["AppProcess", "fresh_database", "quantiles", "report"]

configure_logging("json")


def report(name: str, **figures: Any) -> None:
    """Print the result of a benchmark."""
    machine = {"cores": os.cpu_count(), "python": platform.python_version()}
    print(json.dumps({"bench": name} | figures | {"machine": machine}, default=str), flush=True)


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return p50, p99 and the maximum, in milliseconds; nothing if nothing was measured."""
    if len(seconds) == 0:
        return {}
    p50, p99, most = np.quantile(np.asarray(seconds) * 1000, [0.5, 0.99, 1.0])
    return {"p50_ms": round(float(p50), 2), "p99_ms": round(float(p99), 2), "max_ms": round(float(most), 2)}


@asynccontextmanager
async def fresh_database() -> AsyncIterator[str]:
    """Yield the address of an empty, migrated database on its own embedded server."""
    with tempfile.TemporaryDirectory(prefix="sp-bench-") as folder:
        server = EmbeddedPostgres(Path(folder))
        await server.start()
        try:
            await migrate.upgrade(server.dsn)
            yield server.dsn
        finally:
            await server.stop()
