"""The hub: takes the events of the pipeline and gives each subscriber those of its topics.

The pipeline calls the `on_` methods, which only note the event. `run` turns the noted events into messages, numbers
them by channel, keeps the newest for readers that resume, and puts them into the buffers of the subscribers. Nothing is
converted for topics that nobody reads.
"""

import asyncio
import time
import uuid
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np
import polars as pl
import structlog

from stockpulse.engine.bar_math import Rows
from stockpulse.engine.signals import Signals
from stockpulse.engine.step import BarEvents
from stockpulse.hub.messages import ALL, Batch, Change, Channel, Family, Message, Missed, Topic
from stockpulse.hub.served_rows import ServedRows
from stockpulse.hub.subscriber import BUFFER_ROWS, SLOW, STOPPING, Closing, Subscriber
from stockpulse.hub.topic_log import HISTORY_ROWS, FamilyState, TopicLog, TopicState
from stockpulse.market.arrays import Ints
from stockpulse.market.intervals import Interval
from stockpulse.market.symbology import Names
from stockpulse.pipeline.events import Listener

_MESSAGE_ROWS: Final = 500
"""A message has at most this many rows."""
_BACKLOG_ROWS: Final = 500_000
"""Above this number of rows, new events are counted instead of noted."""
_PIECE_ROWS: Final = 5_000
"""The event loop does other work after each piece of this many rows."""
_UNREAD_SECONDS: Final = 60.0
"""A topic stays active for this long after its last subscriber has left, so that a reader can come back."""
_SLOW_SECONDS: Final = 15.0
"""A subscriber that misses messages for this long is closed."""
_CHECK_SECONDS: Final = 1.0

log = structlog.get_logger(__name__)

Watcher = Callable[[Interval, Rows, Change], None]


@dataclass
class Traffic:
    """Totals since the start."""

    messages: int = 0
    """Messages that were sent, counted once for each client."""
    bytes: int = 0
    """Their bytes."""
    conflated: int = 0
    """Rows that were replaced by newer ones before a client took them; of clients that have left."""
    missed: int = 0
    """Rows that clients missed because they were slow; of clients that have left."""
    slow: int = 0
    """Clients that were closed because they were slow."""


class Hub(Listener):
    """The topics, and their subscribers."""

    def __init__(
        self,
        names: Names,
        served: ServedRows,
        *,
        clock: Callable[[], float] = time.monotonic,
        history_rows: int = HISTORY_ROWS,
        channels: Collection[Channel] = tuple(Channel),
    ) -> None:
        self.channels = channels
        """The channels that this process can serve."""
        self._names = names
        self._served = served
        self._clock = clock
        self._topics = TopicLog(history_rows)
        self._seq: defaultdict[Channel, int] = defaultdict(int)
        self._backlog: deque[Callable[[], None]] = deque()
        self._backlog_rows = 0
        self._came = asyncio.Event()
        self._traded_now = asyncio.Event()
        self._watchers: list[Watcher] = []
        self._stopping = False
        self.id = uuid.uuid4().hex[:16]
        """Names the sequence of numbers: they begin again with each start of the process."""
        self.subscribers: set[Subscriber] = set()
        self._traded: set[int] = set()
        self.traffic = Traffic()
        self.published = 0
        """The number of published rows."""
        self.unpublished = 0
        """The number of rows that were not published, because too many events waited."""

    # Subscribers --------------------------------------------------------------------------------

    def join(self, buffer_rows: int = BUFFER_ROWS) -> Subscriber:
        """Return a new subscriber without topics."""
        subscriber = Subscriber(self._clock, buffer_rows)
        self.subscribers.add(subscriber)
        if self._stopping:
            subscriber.end(STOPPING)
        return subscriber

    def leave(self, subscriber: Subscriber) -> None:
        """Remove a subscriber."""
        if subscriber in self.subscribers:
            self.unsubscribe(subscriber, set(subscriber.topics))
            self.subscribers.remove(subscriber)
            self.traffic.conflated += subscriber.conflated
            self.traffic.missed += subscriber.missed
            self.traffic.slow += subscriber.closing is SLOW

    def subscribe(
        self, subscriber: Subscriber, topics: Iterable[Topic], after: Mapping[Channel, int] | None = None
    ) -> set[Topic]:
        """Add topics; return those that resume without a gap. The newest rows of conflated topics come at once.

        `after` has the number of the last message that the reader has of each channel. A topic resumes if all later
        messages are still known: then they are put into the buffer, in their order.
        """
        before, added = _effective(subscriber.topics), set(topics)
        subscriber.topics |= added
        now = _effective(subscriber.topics)
        self._detach(subscriber, before - now)
        states = [self._attach(subscriber, topic) for topic in sorted(now - before, key=_order)]
        for state in states:
            for key, message in state.newest.items():
                subscriber.put_newest(key, message)
        resumed = [one for one in states if after is not None and _resumes(one, after)]
        missed = {message for one in resumed for message in one.history if message.seq > (after or {})[message.channel]}
        for message in sorted(missed, key=lambda one: one.seq):
            subscriber.put(message)
        names = {one.topic for one in resumed}
        return {topic for topic in added if topic in names or Topic(topic.channel, ALL, *topic.family[1:]) in names}

    def unsubscribe(self, subscriber: Subscriber, topics: Iterable[Topic]) -> None:
        """Remove topics. What waits in the buffer is still delivered."""
        before = _effective(subscriber.topics)
        subscriber.topics -= set(topics)
        now = _effective(subscriber.topics)
        for topic in now - before:
            self._attach(subscriber, topic)
        self._detach(subscriber, before - now)

    def _attach(self, subscriber: Subscriber, topic: Topic) -> TopicState:
        state = self._topics.open(topic, self._seq[topic.channel])
        state.subscribers.add(subscriber)
        state.unread_since = None
        return state

    def _detach(self, subscriber: Subscriber, topics: Iterable[Topic]) -> None:
        for topic in topics:
            state = self._topics.find(topic)
            if state is not None:
                state.subscribers.discard(subscriber)
                if not state.subscribers:
                    state.unread_since = self._clock()

    def end(self, closing: Closing = STOPPING) -> None:
        """End all subscriptions; later ones end at once."""
        self._stopping = True
        for subscriber in list(self.subscribers):
            subscriber.end(closing)

    def totals(self) -> Traffic:
        """Return the traffic, with the clients that are still there."""
        return replace(
            self.traffic,
            conflated=self.traffic.conflated + sum(one.conflated for one in self.subscribers),
            missed=self.traffic.missed + sum(one.missed for one in self.subscribers),
        )

    def lag(self) -> float:
        """Return the time for which the slowest client has had messages waiting, in seconds."""
        now = self._clock()
        return max((one.lag(now) for one in self.subscribers), default=0.0)

    def topics(self) -> int:
        """Return the number of active topics."""
        return sum(len(list(family)) for family in self._topics.families.values())

    def seq(self, channel: Channel) -> int:
        """Return the number of the newest message of a channel."""
        return self._seq[channel]

    def families(self, *channels: Channel) -> list[Family]:
        """Return the active families of these channels."""
        return [family for family in self._topics.families if family[0] in channels]

    def symbols(self, family: Family) -> set[str] | None:
        """Return the symbols of a family that someone reads; None means all symbols."""
        state = self._topics.families.get(family, FamilyState())
        return None if state.all is not None else set(state.of_symbol)

    # Events -------------------------------------------------------------------------------------

    def watch(self, watcher: Watcher) -> None:
        """Call `watcher` with all bars of all events as they are processed; it returns at once."""
        self._watchers.append(watcher)

    def on_ticks(self, ticks: pl.DataFrame) -> None:
        """Note ticks."""
        families = self._topics.families
        if not families:
            return
        if any(family[0] not in _WITHOUT_BARS for family in families):
            self._mark(ticks["symbol_id"].to_numpy())
        if _TICKS in families or _PRICES in families:
            for piece in ticks.iter_slices(_PIECE_ROWS):
                self._note(len(piece), Channel.TICKS, partial(self._publish_ticks, piece))

    def on_bars(self, bars: BarEvents) -> None:
        """Note bars that have closed or were revised. Forming bars only mark their symbols."""
        if not self._topics.families:
            return
        if not (bars.revised or bars.rows["final"].all()):
            self._mark(bars.rows["symbol_id"])
            return
        change = Change.REMOVED if bars.removed else Change.REVISED if bars.revised else Change.CLOSED
        for first in range(0, len(bars.rows), _PIECE_ROWS):
            rows = bars.rows[first : first + _PIECE_ROWS]
            self._note(len(rows), Channel.BARS, partial(self._publish_bars, bars.interval, rows, change))

    def on_signals(self, signals: Signals) -> None:
        """Note signals."""
        if _SIGNALS in self._topics.families and len(signals):
            self._note(len(signals), Channel.SIGNALS, partial(self._publish_signals, signals))

    def _mark(self, symbol_id: Ints) -> None:
        self._traded.update(np.unique(symbol_id).tolist())
        self._traded_now.set()

    async def traded(self) -> set[int]:
        """Wait until symbols have traded; return the ids of those since the last call."""
        await self._traded_now.wait()
        self._traded_now.clear()
        traded, self._traded = self._traded, set()
        return traded

    def _note(self, rows: int, channel: Channel, publish: Callable[[], None]) -> None:
        if self._backlog_rows > _BACKLOG_ROWS:
            publish = partial(self._skip, channel, rows)
            rows = 0
        self._backlog_rows += rows
        self._backlog.append(partial(self._work_off, rows, publish))
        self._came.set()

    def _work_off(self, rows: int, publish: Callable[[], None]) -> None:
        self._backlog_rows -= rows
        publish()

    def _skip(self, channel: Channel, rows: int) -> None:
        """Let all readers of a channel know that rows are missing, and let nobody resume from before."""
        self._seq[channel] += 1
        self.unpublished += rows
        readers: set[Subscriber] = set()
        for key, family in self._topics.families.items():
            for state in family if key[0] is channel else ():
                state.complete_after = self._seq[channel]
                readers |= state.subscribers
        for subscriber in readers:
            subscriber.put_missed(Missed(channel, rows, self._seq[channel] - 1, self._seq[channel]))

    # Work ---------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Publish noted events, for ever."""
        while True:
            await self._came.wait()
            self._came.clear()
            while self._backlog:
                self.work()
                await asyncio.sleep(0)

    async def check(self) -> None:
        """Close slow subscribers and topics that nobody reads, for ever."""
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            self.check_once()

    def work(self) -> None:
        """Publish the oldest noted event."""
        if self._backlog:
            publish = self._backlog.popleft()
            try:
                publish()
            except Exception:  # one event that cannot be shown must not end the stream
                log.exception("the hub could not publish an event")

    def check_once(self) -> None:
        """Close slow subscribers, and topics that nobody has read for a while."""
        now = self._clock()
        for subscriber in list(self.subscribers):
            since = subscriber.missing_since
            if since is not None and now - since > _SLOW_SECONDS:
                subscriber.end(SLOW)
        for channel in self._topics.close_unread(now - _UNREAD_SECONDS):
            self._seq[channel] += 1  # changes of unread topics get no number: a reader from before has missed some

    def _publish_ticks(self, ticks: pl.DataFrame) -> None:
        chosen = self._chosen(ticks["symbol_id"].to_numpy(), [_TICKS, _PRICES])
        if chosen is not None:
            ticks = ticks[chosen]
        if len(ticks) == 0:
            return
        served = self._served.ticks(ticks)
        self.publish(_TICKS, Change.NEW, Batch(served))
        if _PRICES in self._topics.families:
            self.publish_newest(_PRICES, Change.NEW, Batch(_newest_prices(served)))

    def _publish_bars(self, interval: Interval, rows: Rows, change: Change) -> None:
        for watcher in self._watchers:
            watcher(interval, rows, change)
        family = (Channel.BARS, interval.name, "")
        if family not in self._topics.families:
            return
        chosen = self._chosen(rows["symbol_id"], [family])
        rows = rows if chosen is None else rows[chosen]
        priced = ~np.isnan(rows["open"])
        if change is not Change.REMOVED and not priced.all():
            lost = rows[~priced]  # only a revision takes the price of a bar: readers see such a bar no longer
            if change is Change.REVISED:
                self.publish(family, Change.REMOVED, Batch(self._served.bars(lost, interval)))
            rows = rows[priced]
        if len(rows):
            self.publish(family, change, Batch(self._served.bars(rows, interval)))

    def _publish_signals(self, signals: Signals) -> None:
        self.publish(_SIGNALS, Change.NEW, Batch(self._served.signals(signals)))

    def _chosen(self, symbol_id: Ints, families: list[Family]) -> Ints | None:
        """Return the places of the symbols that someone reads; None means all places."""
        wanted: set[int] = set()
        for family in families:
            state = self._topics.families.get(family)
            if state is None:
                continue
            if state.all is not None:
                return None
            known = self._names.symbols
            wanted |= {known[name].id for name in state.of_symbol if name in known}
        return np.flatnonzero(np.isin(symbol_id, np.fromiter(wanted, np.int64, len(wanted))))

    # Messages -----------------------------------------------------------------------------------

    def publish(self, family: Family, change: Change, batch: Batch) -> None:
        """Publish rows, each with a `symbol`, to the topics of a family that have these symbols."""
        state = self._topics.families.get(family)
        if state is None:
            return
        self.published += len(batch)
        if state.all is not None:
            self._publish_to(state.all, family, change, batch, None)
        if state.of_symbol:
            for symbol, places in _places(batch.symbols, state.of_symbol).items():
                self._publish_to(state.of_symbol[symbol], family, change, batch, places)

    def _publish_to(
        self, state: TopicState, family: Family, change: Change, batch: Batch, places: list[int] | None
    ) -> None:
        count = len(batch) if places is None else len(places)
        for first in range(0, count, _MESSAGE_ROWS):
            part: range | list[int] | None = places
            if count > _MESSAGE_ROWS:
                last = min(first + _MESSAGE_ROWS, count)
                part = range(first, last) if places is None else places[first:last]
            self._seq[family[0]] += 1
            message = Message(family, change, self._seq[family[0]], batch, part)
            self._topics.keep(state, message)
            for subscriber in state.subscribers:
                subscriber.put(message)

    def publish_newest(self, family: Family, change: Change, batch: Batch) -> None:
        """Publish rows of which only the newest of each symbol matters: a slow reader gets no others."""
        state = self._topics.families.get(family)
        if state is None:
            return
        self.published += len(batch)
        for symbol, row in zip(batch.symbols, batch.each(), strict=True):
            topics = [one for one in (state.all, state.of_symbol.get(symbol)) if one is not None]
            if topics:
                message = Message(family, change, 0, row)
                for topic in topics:
                    _put_newest(topic, (family, symbol), message)

    def publish_whole(self, family: Family, change: Change, batch: Batch) -> None:
        """Publish rows that replace all rows of the same family: a ranking."""
        state = self._topics.families.get(family)
        if state is None or state.all is None:
            return
        self.published += len(batch)
        _put_newest(state.all, (family, ALL), Message(family, change, 0, batch))


_WITHOUT_BARS: Final = frozenset({Channel.TICKS, Channel.PRICES, Channel.SIGNALS, Channel.MOVERS})
_TICKS: Final[Family] = (Channel.TICKS, "", "")
_PRICES: Final[Family] = (Channel.PRICES, "", "")
_SIGNALS: Final[Family] = (Channel.SIGNALS, "", "")


def _put_newest(state: TopicState, key: tuple[Family, str], message: Message) -> None:
    state.newest[key] = message
    for subscriber in state.subscribers:
        subscriber.put_newest(key, message)


def _effective(topics: set[Topic]) -> set[Topic]:
    """Return the topics without those that a topic of all symbols contains."""
    whole = {topic.family for topic in topics if topic.symbol == ALL}
    return {topic for topic in topics if topic.symbol == ALL or topic.family not in whole}


def _order(topic: Topic) -> tuple[str, str, str, str]:
    return topic.channel, topic.symbol, topic.interval, topic.detail


def _resumes(state: TopicState, after: Mapping[Channel, int]) -> bool:
    channel = state.topic.channel
    return channel in after and after[channel] >= state.complete_after


def _places(symbols: list[str], wanted: Mapping[str, TopicState]) -> dict[str, list[int]]:
    """Return the places of each wanted symbol."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for place, symbol in enumerate(symbols):
        if symbol in wanted:
            found[symbol].append(place)
    return found


def _newest_prices(ticks: pl.DataFrame) -> pl.DataFrame:
    """Return the tick of each symbol with the greatest event time; of equals, the last in the log."""
    return ticks.sort("event_time", "seq").unique("symbol", keep="last", maintain_order=True)
