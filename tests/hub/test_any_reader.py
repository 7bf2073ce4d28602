"""Any order of subscribing, reading slowly, leaving and resuming: each reader gets every row once, or is told."""

import hypothesis.strategies as st
from hub_parts import Time, hub_of, publish, ticks_of
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from stockpulse.hub.messages import Channel, Missed

SYMBOLS = ("A", "B", "C")
some_symbols = st.lists(st.sampled_from((*SYMBOLS, "*")), min_size=1, max_size=3, unique=True)


class Reader:
    """A client, with the rows that it must get. `due` has (row, symbol) in order."""

    def __init__(self, hub):
        self.hub = hub
        self.subscriber = hub.join(buffer_rows=6)
        self.topics = set()
        self.due = []
        self.after = 0

    def wants(self, symbol):
        return "*" in self.topics or symbol in self.topics

    def take(self, most):
        for one in self.subscriber.take(most):
            if isinstance(one, Missed):
                assert len(self.due) >= one.rows
                assert self.after <= one.after <= one.through
                del self.due[: one.rows]
                self.after = one.through
            else:
                for row in one.rows:
                    assert self.due.pop(0) == (row["number"], row["symbol"])
                assert one.seq > self.after
                self.after = one.seq


class Readers(RuleBasedStateMachine):
    readers = Bundle("readers")

    def __init__(self):
        super().__init__()
        self.time = Time()
        self.hub = hub_of(*SYMBOLS, clock=self.time, history_rows=25)
        self.number = 0
        self.log = []
        self.all = []

    @rule(target=readers, symbols=some_symbols)
    def join(self, symbols):
        reader = Reader(self.hub)
        reader.topics = set(symbols)
        reader.after = self.hub.seq(Channel.TICKS)
        self.hub.subscribe(reader.subscriber, ticks_of(*symbols))
        self.all.append(reader)
        return reader

    @rule(symbol=st.sampled_from(SYMBOLS), count=st.integers(1, 4))
    def publish(self, symbol, count):
        rows = [(symbol, self.number + at) for at in range(count)]
        self.number += count
        before = self.hub.seq(Channel.TICKS)
        publish(self.hub, *rows)
        # The topic of all symbols comes first: it has its own message.
        self.log.append((before + 1, self.hub.seq(Channel.TICKS), [(number, name) for name, number in rows]))
        for reader in self.all:
            if reader.wants(symbol):
                reader.due += self.log[-1][2]

    @rule(reader=readers, most=st.integers(1, 10))
    def read(self, reader, most):
        reader.take(most)

    @rule(reader=readers, symbols=some_symbols)
    def subscribe(self, reader, symbols):
        reader.topics |= set(symbols)
        self.hub.subscribe(reader.subscriber, ticks_of(*symbols))

    @rule(reader=readers, symbols=some_symbols)
    def unsubscribe(self, reader, symbols):
        reader.topics -= set(symbols)
        self.hub.unsubscribe(reader.subscriber, ticks_of(*symbols))

    @rule(reader=readers, others=st.integers(0, 5), seconds=st.sampled_from([0, 100]))
    def come_back(self, reader, others, seconds):
        """Leave, let the others go on, come back with the last number; so do all that were closed meanwhile."""
        self.hub.leave(reader.subscriber)
        for _ in range(others):
            self.publish("A", 1)
        self.time.now += seconds
        self.hub.check_once()
        for one in self.all:
            if one is reader or one.subscriber.closing is not None:
                self._reconnect(one)

    def _reconnect(self, reader):
        self.hub.leave(reader.subscriber)
        reader.subscriber = self.hub.join(buffer_rows=6)
        topics = ticks_of(*reader.topics)
        found = self.hub.subscribe(reader.subscriber, topics, {Channel.TICKS: reader.after})
        resumed = {topic.symbol for topic in found}
        reader.due = []
        for of_all, of_symbol, rows in self.log:
            everything = "*" in reader.topics
            if ("*" if everything else rows[0][1]) in resumed and (of_all if everything else of_symbol) > reader.after:
                reader.due += rows

    @invariant()
    def bounded(self):
        assert self.hub._topics.rows <= 25
        for reader in self.all:
            assert reader.subscriber.rows <= 6

    def teardown(self):
        for reader in self.all:
            while reader.subscriber.rows or reader.subscriber.missing_since is not None:
                reader.take(100)
            assert reader.due == []


TestReaders = Readers.TestCase
TestReaders.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
