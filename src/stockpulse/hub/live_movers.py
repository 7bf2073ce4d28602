"""Publishes the symbols that moved most, once a second while someone reads them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import polars as pl

from stockpulse.hub.hub import Hub
from stockpulse.hub.messages import Batch, Change, Channel

_SECONDS: Final = 1.0
_MOST: Final = 20
"""The number of symbols in a message."""

Moves = Callable[[int, int], Awaitable[list[dict[str, Any]]]]


class LiveMovers:
    """Reads the moves of each window that is subscribed to."""

    def __init__(self, hub: Hub, moves: Moves) -> None:
        """`moves` returns the largest moves: of a window in minutes, and so many."""
        self._hub = hub
        self._moves = moves

    async def run(self) -> None:
        """Publish, for ever."""
        while True:
            await asyncio.sleep(_SECONDS)
            for family in self._hub.families(Channel.MOVERS):
                rows = await self._moves(int(family[2]), _MOST)
                self._hub.publish_whole(family, Change.NEW, Batch(pl.DataFrame(rows, infer_schema_length=None)))
