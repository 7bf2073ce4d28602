"""The feed at /v2/replay: a stored day as if it were live, to each client on its own clock."""

import math
from collections.abc import AsyncIterator
from typing import Final

from stockpulse.api.alpaca.shapes import time_text
from stockpulse.api.alpaca.stream.encodings import Data, Encoding, data_row
from stockpulse.api.alpaca.stream.errors import StreamError
from stockpulse.api.alpaca.stream.sources import Source
from stockpulse.api.alpaca.stream.subscriptions import Subscriptions
from stockpulse.api.replay.day import Kind, Wanted
from stockpulse.api.replay.player import Player
from stockpulse.hub.hub import Hub
from stockpulse.hub.messages import ALL
from stockpulse.market.symbology import Names, Symbol
from stockpulse.market.times import from_micros, micros, read_time

MAX: Final = "max"

_FINISHED: Final = {"T": "success", "msg": "replay finished"}
_CODES: Final = {Kind.TRADE: "t", Kind.MINUTE: "b", Kind.DAY: "d"}
_FASTEST: Final = 1_000_000.0


def read_speed(value: object) -> float:
    """Return a speed in market seconds per second; infinite for "max". Raises ValueError."""
    if value == MAX:
        return math.inf
    speed = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else math.nan
    if not 0 < speed <= _FASTEST:
        raise ValueError(f"takes a number above 0 up to {_FASTEST:,.0f}, or {MAX}")
    return speed


class ReplayFeed(Source):
    """Sends the trades and bars of a day, and takes messages that control the replay."""

    def __init__(self, hub: Hub, encoding: Encoding, player: Player, names: Names) -> None:
        super().__init__(hub)
        self._encoding = encoding
        self._player = player
        self._names = names

    def subscribe(self, subscriptions: Subscriptions) -> None:
        """Send these subscriptions from the present time of the replay on."""
        channels = (subscriptions[channel] for channel in ("trades", "bars", "dailyBars"))
        self._player.want(Wanted(*(self._known(symbols) for symbols in channels)))

    def _known(self, symbols: frozenset[str]) -> frozenset[Symbol]:
        known = self._names.symbols
        return frozenset(known.values()) if ALL in symbols else frozenset(known[one] for one in symbols if one in known)

    def take(self, message: Data) -> Data:
        """Change the speed, pause, go on, or jump; return the new state. Raises StreamError."""
        try:
            speed = read_speed(message["speed"]) if "speed" in message else None
        except ValueError:
            raise StreamError(400) from None
        paused, at = message.get("paused"), message.get("at")
        moment = read_time(at) if isinstance(at, str) else None
        if not (paused is None or isinstance(paused, bool)) or (at is not None and moment is None):
            raise StreamError(400)
        if moment is not None:
            self._player.jump(micros(moment))
        self._player.pace(speed=speed, paused=paused)
        return self._state()

    def _state(self) -> Data:
        clock = self._player.clock
        return {
            "T": "replay",
            "at": time_text(from_micros(self._player.place)),
            "speed": MAX if math.isinf(clock.speed) else clock.speed,
            "paused": clock.paused,
        }

    async def frames(self) -> AsyncIterator[bytes]:
        """Yield the events of the day, then a message that says so."""
        async for events in self._player.events():
            rows = [data_row(_CODES[event.kind], event.row, self._encoding.time) for event in events]
            yield self._encoding.frame(rows or [_FINISHED])
