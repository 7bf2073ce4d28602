"""Stores the replies of providers in the background. A request never waits for it; a full queue drops replies."""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

import structlog

from stockpulse.providers.transport.rest_client import Reply
from stockpulse.storage.raw_replies import LONGEST_BODY, RawReplies

_QUEUE_BYTES: Final = 16_000_000
_BATCH: Final = 50
_TRIM_SECONDS: Final = 60.0

log = structlog.get_logger(__name__)


class ReplyRecorder:
    """Queues replies, and writes them in batches."""

    def __init__(self, store: RawReplies, most_bytes: int, kept: timedelta, now: Callable[[], datetime]) -> None:
        """Keep replies for the time `kept`, and at most this many bytes of them."""
        self._store = store
        self._most_bytes = most_bytes
        self._kept = kept
        self._now = now
        self._queue: deque[tuple[Reply, str]] = deque()
        self._queued_bytes = 0
        self._arrived = asyncio.Event()
        self.dropped = 0
        """Replies that were not stored, since the queue was full."""
        self._said = 0

    def record(self, reply: Reply, outcome: str) -> None:
        """Queue a reply with its outcome; drop it if the queue is full."""
        size = min(len(reply.body), LONGEST_BODY)
        if self._queue and self._queued_bytes + size > _QUEUE_BYTES:
            self.dropped += 1
            return
        self._queue.append((reply, outcome))
        self._queued_bytes += size
        self._arrived.set()

    async def run(self) -> None:
        """Write queued replies until cancelled, and trim the table every minute."""
        loop = asyncio.get_running_loop()
        while True:
            await self._store.trim(self._now() - self._kept, self._most_bytes)
            self._say_dropped()
            trim_at = loop.time() + _TRIM_SECONDS
            while loop.time() < trim_at:
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(trim_at):
                        await self._arrived.wait()
                await self._write_next()

    def _say_dropped(self) -> None:
        if self.dropped > self._said:
            log.warning(
                "replies came faster than they were stored; some are not kept", replies=self.dropped - self._said
            )
            self._said = self.dropped

    async def _write_next(self) -> None:
        if batch := list(itertools.islice(self._queue, _BATCH)):
            await self._store.write(batch)
        for reply, _ in batch:  # only now: after a fault of the database the batch is written again
            self._queue.popleft()
            self._queued_bytes -= min(len(reply.body), LONGEST_BODY)
        if not self._queue:
            self._arrived.clear()
