"""Alpaca's Python stream in a thread, and what it received."""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from alpaca.data.live import StockDataStream

WAIT_SECONDS = 90


class Received:
    """What the handlers of a stream got, by channel."""

    def __init__(self) -> None:
        self.rows: defaultdict[str, list[Any]] = defaultdict(list)
        self._came = threading.Condition()

    def handler(self, channel: str) -> Callable[[Any], Any]:
        async def handle(row: Any) -> None:
            with self._came:
                self.rows[channel].append(row)
                self._came.notify_all()

        return handle

    def wait_for(self, channel: str, good: Callable[[list[Any]], Any]) -> list[Any]:
        """Wait until `good` is true of the rows of a channel; return them."""
        with self._came:
            assert self._came.wait_for(lambda: good(self.rows[channel]), WAIT_SECONDS), (channel, self.rows)
            return list(self.rows[channel])


@contextmanager
def running(stream: StockDataStream) -> Iterator[None]:
    """Run a stream in a thread, as its users do."""
    thread = threading.Thread(target=stream.run)
    thread.start()
    try:
        yield
    finally:
        stream.stop()
        thread.join(WAIT_SECONDS)
    assert not thread.is_alive()


def subscribed(url: str, *symbols: str) -> tuple[StockDataStream, Received]:
    """Return a stream that is subscribed to trades and all kinds of bars."""
    stream, received = StockDataStream("key", "secret", url_override=url.replace("http", "ws")), Received()
    stream.subscribe_trades(received.handler("trades"), *symbols)
    stream.subscribe_bars(received.handler("bars"), *symbols)
    stream.subscribe_updated_bars(received.handler("updated"), *symbols)
    stream.subscribe_daily_bars(received.handler("daily"), *symbols)
    return stream, received
