"""Scripted parts with the real interfaces, for tests of StockPulse and of packages that extend it.

clock = SetClock(datetime(2026, 3, 2, 15, 30, tzinfo=UTC))
trades = ticks_frame({"symbol": "AAPL", "ts": clock(), "price": 189.5, "size": 100})
provider = ScriptedProvider([trades, ConnectionError("hung up"), trades])
"""

from stockpulse.testing.clock import SetClock
from stockpulse.testing.frames import bars_frame, corrections_frame, ticks_frame
from stockpulse.testing.log import ScriptedLog, ScriptedProcess, ScriptedShardLog
from stockpulse.testing.provider import ScriptedProvider

__all__ = [
    "ScriptedLog",
    "ScriptedProcess",
    "ScriptedProvider",
    "ScriptedShardLog",
    "SetClock",
    "bars_frame",
    "corrections_frame",
    "ticks_frame",
]
