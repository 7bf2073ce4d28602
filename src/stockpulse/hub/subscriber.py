"""One subscriber: the messages that wait for it, in a buffer with a limit."""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final

from stockpulse.hub.messages import Channel, Message, Missed, Topic

BUFFER_ROWS: Final = 20_000
"""The default limit of rows that wait for a subscriber."""


@dataclass(frozen=True, slots=True)
class Closing:
    """The reason why the hub ended a subscription; `code` is the close code of a WebSocket."""

    code: int
    reason: str


STOPPING: Final = Closing(1012, "the server stops")
SLOW: Final = Closing(4008, "too slow: messages were missed for too long")


class Subscriber:
    """A buffer between the hub and one client.

    Messages wait in order, up to a number of rows. Above it, new messages are counted instead, until the client has
    taken everything: then it gets the counts as `Missed`, and new messages again. Conflated messages never fill the
    buffer: of each row only the newest waits.
    """

    def __init__(self, clock: Callable[[], float], most_rows: int = BUFFER_ROWS) -> None:
        self._clock = clock
        self._most_rows = most_rows
        self._waiting: deque[Message] = deque()
        self._newest: dict[Hashable, Message] = {}
        self._missing: dict[Channel, Missed] = {}
        self._last_seq: dict[Channel, int] = {}
        self._came = asyncio.Event()
        self._since: float | None = None
        self.rows = 0
        """The number of rows that wait, without conflated ones."""
        self.topics: set[Topic] = set()
        """The topics that the client has asked for."""
        self.missing_since: float | None = None
        """The time from which on messages are missed; None while none is."""
        self.closing: Closing | None = None
        """The reason of the end; None while the subscription lasts."""
        self.closed = asyncio.Event()
        self.conflated = 0
        """The number of rows that were replaced by newer ones before they were taken."""
        self.missed = 0
        """The number of rows that were missed."""

    def put(self, message: Message) -> None:
        """Add a message that must not be lost silently."""
        if self.closing is not None:
            return
        if self._missing or (self.rows and self.rows + len(message) > self._most_rows):  # an empty one takes any size
            self._miss(message)
            return
        self._waiting.append(message)
        self.rows += len(message)
        self._wake()

    def put_newest(self, key: Hashable, message: Message) -> None:
        """Add a message that replaces an older one with the same key."""
        if self.closing is not None:
            return
        if self._newest.pop(key, None) is not None:
            self.conflated += len(message)
        self._newest[key] = message
        self._wake()

    def _miss(self, message: Message) -> None:
        self.put_missed(Missed(message.channel, len(message), self._after(message), message.seq))

    def _after(self, message: Message) -> int:
        """Return the number of the last message of the same channel before this one."""
        waiting = (one.seq for one in self._waiting if one.channel is message.channel)
        return max(waiting, default=self._last_seq.get(message.channel, message.seq - 1))

    def put_missed(self, missed: Missed) -> None:
        """Note rows that the reader misses; it is told when it has taken what waits."""
        if self.missing_since is None:
            self.missing_since = self._clock()
        self.missed += missed.rows
        known = self._missing.get(missed.channel)
        if known is not None:
            missed = Missed(missed.channel, known.rows + missed.rows, known.after, missed.through)
        self._missing[missed.channel] = missed
        self._wake()

    def _wake(self) -> None:
        if self._since is None:
            self._since = self._clock()
            self._came.set()

    def take(self, most_rows: int) -> list[Message | Missed]:
        """Return waiting messages with up to `most_rows` rows, but at least one message: conflated ones first."""
        taken: list[Message | Missed] = []
        rows = 0
        while self._newest and rows < most_rows:
            message = self._newest.pop(next(iter(self._newest)))
            taken.append(message)
            rows += len(message)
        while self._waiting and (not taken or rows + len(self._waiting[0]) <= most_rows):
            message = self._waiting.popleft()
            self.rows -= len(message)
            self._last_seq[message.channel] = message.seq
            taken.append(message)
            rows += len(message)
        if self._missing and not self._waiting:
            taken += self._missing.values()
            self._last_seq |= {one.channel: one.through for one in self._missing.values()}
            self._missing, self.missing_since = {}, None
        if not (self._waiting or self._newest):
            self._since = None
            self._came.clear()
        return taken

    def is_empty(self) -> bool:
        """Return True if no message waits."""
        return not (self._waiting or self._newest or self._missing)

    async def wait(self) -> bool:
        """Wait until there is a message; return False once the subscription has ended."""
        await self._came.wait()
        return self.closing is None

    def lag(self, now: float) -> float:
        """Return the seconds since the buffer was empty."""
        return 0.0 if self._since is None else now - self._since

    def end(self, closing: Closing) -> None:
        """End the subscription; what waits is dropped."""
        if self.closing is None:
            self.closing = closing
            self._waiting.clear()
            self._newest.clear()
            self._missing.clear()
            self.rows = 0
            self._came.set()
            self.closed.set()
