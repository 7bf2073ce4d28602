"""Crash tests: processes are killed, frozen and cut off under load, and nothing acknowledged is lost or stored twice.

Every app finds its indicators compiled, unless a test gives it its own cache folder. Variables for longer runs:

    STOCKPULSE_CRASH_SEED=7            repeats a failure: each test prints the seed that it used
    STOCKPULSE_CRASH_KILLS=50          kills this often instead of one to three times
    STOCKPULSE_CRASH_OUTAGE_SECONDS=60 keeps Kafka away for this long instead of 4 s
    STOCKPULSE_CRASH_SYMBOLS=10000     restarts with this many symbols instead of 2,000
"""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _compiled(compiled: Path) -> None:
    pass
