"""The topics that someone reads or has just read, and their newest messages, so that a reader can resume."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from stockpulse.hub.messages import ALL, Channel, Family, Message, Topic
from stockpulse.hub.subscriber import Subscriber

HISTORY_ROWS: Final = 100_000
"""The number of rows that the hub keeps, over all topics."""


@dataclass
class TopicState:
    """The subscribers of a topic, and its newest messages."""

    topic: Topic
    complete_after: int
    """All messages with greater numbers are in `history`."""
    subscribers: set[Subscriber] = field(default_factory=set)
    history: deque[Message] = field(default_factory=deque)
    newest: dict[tuple[Family, str], Message] = field(default_factory=dict)
    """Of a conflated topic: the newest message of each symbol."""
    unread_since: float | None = None
    """The time at which the last subscriber left; None while there is one."""


@dataclass
class FamilyState:
    """The active topics of a family."""

    all: TopicState | None = None
    of_symbol: dict[str, TopicState] = field(default_factory=dict)

    def __iter__(self) -> Iterator[TopicState]:
        if self.all is not None:
            yield self.all
        yield from self.of_symbol.values()


class TopicLog:
    """All active topics by family, and their history within a common limit."""

    def __init__(self, most_rows: int = HISTORY_ROWS) -> None:
        self._most_rows = most_rows
        self._order: deque[TopicState] = deque()
        """The topic of each message of all histories, the oldest first."""
        self.families: dict[Family, FamilyState] = {}
        self.rows = 0

    def find(self, topic: Topic) -> TopicState | None:
        """Return an active topic."""
        family = self.families.get(topic.family)
        if family is None:
            return None
        return family.all if topic.symbol == ALL else family.of_symbol.get(topic.symbol)

    def open(self, topic: Topic, seq: int) -> TopicState:
        """Return a topic, active from now on; `seq` is the number of the newest message of its channel."""
        found = self.find(topic)
        if found is None:
            found = TopicState(topic, seq)
            family = self.families.setdefault(topic.family, FamilyState())
            if topic.symbol == ALL:
                family.all = found
            else:
                family.of_symbol[topic.symbol] = found
        return found

    def keep(self, state: TopicState, message: Message) -> None:
        """Add a message to the history of its topic; the oldest messages of all topics make room."""
        state.history.append(message)
        self._order.append(state)
        self.rows += len(message)
        while self.rows > self._most_rows:
            oldest = self._order.popleft()
            dropped = oldest.history.popleft()
            self.rows -= len(dropped)
            oldest.complete_after = dropped.seq

    def close_unread(self, before: float) -> set[Channel]:
        """Close the topics whose last subscriber left before this time; return their channels."""
        closed = [
            state
            for family in self.families.values()
            for state in family
            if state.unread_since is not None and state.unread_since < before
        ]
        for state in closed:
            self._close(state)
        if closed:
            self._order = deque(state for state in self._order if state.history)
        return {state.topic.channel for state in closed}

    def _close(self, state: TopicState) -> None:
        topic = state.topic
        family = self.families[topic.family]
        if topic.symbol == ALL:
            family.all = None
        else:
            del family.of_symbol[topic.symbol]
        if family.all is None and not family.of_symbol:
            del self.families[topic.family]
        self.rows -= sum(map(len, state.history))
        state.history.clear()
