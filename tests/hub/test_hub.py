"""The hub in memory: topics, numbers, conflation, gaps, resuming."""

import asyncio

import orjson
from hub_parts import TICKS, Time, bars, hub_of, logged, numbers, publish, ticks_of

from stockpulse.engine.step import BarEvents
from stockpulse.hub.messages import Channel, Missed, Topic
from stockpulse.hub.subscriber import SLOW, STOPPING
from stockpulse.market.intervals import M1, M5


class Json:
    name = "json"

    def __init__(self):
        self.encoded = 0

    def encode(self, message):
        self.encoded += 1
        return orjson.dumps(message.rows)


def work(hub):
    while hub._backlog:
        hub.work()


def test_nothing_is_noted_while_nobody_reads():
    hub = hub_of("A")
    hub.on_ticks(logged((1, 1, 10)))
    hub.on_bars(BarEvents(M1, bars((1, 0, 10, 1)), revised=False))
    assert not hub._backlog


def test_ticks_reach_the_readers_of_their_symbol_and_of_all():
    hub = hub_of("A", "B")
    one, every = hub.join(), hub.join()
    hub.subscribe(one, ticks_of("B"))
    hub.subscribe(every, ticks_of("*"))
    hub.on_ticks(logged((1, 1, 10), (2, 2, 20), (1, 3, 11)))
    work(hub)
    assert [row["price"] for message in one.take(100) for row in message.rows] == [20]
    assert [row["seq"] for message in every.take(100) for row in message.rows] == [1, 2, 3]


def test_a_tick_has_the_fields_of_the_api():
    hub = hub_of("A")
    reader = hub.join()
    hub.subscribe(reader, ticks_of("A"))
    hub.on_ticks(logged((1, 7, 10.5)))
    work(hub)
    (row,) = reader.take(1)[0].rows
    assert row["symbol"] == "A"
    assert (row["price"], row["volume"], row["seq"], row["provider"], row["exchange"]) == (10.5, 1.0, 7, "test", "X")


def test_a_message_is_encoded_once_for_all_readers():
    hub, format = hub_of("A"), Json()
    readers = [hub.join() for _ in range(5)]
    for reader in readers:
        hub.subscribe(reader, ticks_of("A"))
    publish(hub, ("A", 1))
    texts = {message.encoded(format) for reader in readers for message in reader.take(10)}
    assert (len(texts), format.encoded) == (1, 1)


def test_a_symbol_counts_once_beside_all_symbols():
    hub = hub_of("A")
    reader = hub.join()
    hub.subscribe(reader, ticks_of("A", "*"))
    publish(hub, ("A", 1))
    assert numbers(reader.take(10)) == [1]
    hub.unsubscribe(reader, ticks_of("*"))
    publish(hub, ("A", 2), ("B", 3))
    assert numbers(reader.take(10)) == [2]


def test_bars_are_closed_revised_and_removed():
    hub = hub_of("A", "B")
    reader = hub.join()
    hub.subscribe(reader, [Topic(Channel.BARS, "A", "1m")])
    hub.on_bars(BarEvents(M1, bars((1, 0, 10, 5), (2, 0, 10, 6)), revised=False))
    hub.on_bars(BarEvents(M5, bars((1, 0, 10, 5)), revised=False))
    hub.on_bars(BarEvents(M1, bars((1, 0, 11, 8)), revised=True))
    hub.on_bars(BarEvents(M1, bars((1, 0, 11, 9)), revised=True, removed=True))
    work(hub)
    told = [(str(one.change), row["close"], row["revision"]) for one in reader.take(10) for row in one.rows]
    assert told == [("closed", 10, 5), ("revised", 11, 8), ("removed", 11, 9)]


def test_a_bar_that_loses_its_price_is_removed_for_readers():
    hub = hub_of("A")
    reader = hub.join()
    hub.subscribe(reader, [Topic(Channel.BARS, "*", "1m")])
    hub.on_bars(BarEvents(M1, bars((1, 0, float("nan"), 8), (1, 1, 11, 9)), revised=True))
    work(hub)
    told = [(str(one.change), row["close"], row["revision"]) for one in reader.take(10) for row in one.rows]
    assert told == [("removed", None, 8), ("revised", 11, 9)]


def test_only_the_newest_price_waits():
    hub = hub_of("A", "B")
    reader = hub.join()
    hub.subscribe(reader, [Topic(Channel.PRICES, "*")])
    for seq in range(1, 6):
        hub.on_ticks(logged((1, seq, seq), (2, seq + 10, seq)))
    work(hub)
    assert sorted((row["symbol"], row["price"]) for one in reader.take(10) for row in one.rows) == [("A", 5), ("B", 5)]
    assert reader.conflated == 8


def test_a_new_reader_gets_the_newest_price_at_once():
    hub = hub_of("A", "B")
    first = hub.join()
    hub.subscribe(first, [Topic(Channel.PRICES, "*")])
    hub.on_ticks(logged((1, 1, 10), (2, 2, 20)))
    hub.on_ticks(logged((1, 3, 11)))
    work(hub)
    hub.leave(first)
    hub.on_ticks(logged((2, 4, 21)))
    work(hub)
    second = hub.join()
    hub.subscribe(second, [Topic(Channel.PRICES, "*")])
    assert sorted((row["symbol"], row["price"]) for one in second.take(9) for row in one.rows) == [("A", 11), ("B", 21)]


def test_a_full_buffer_tells_what_is_missing_and_goes_on():
    hub = hub_of("A")
    reader = hub.join(buffer_rows=3)
    hub.subscribe(reader, ticks_of("A"))
    for number in range(1, 8):
        publish(hub, ("A", number))
    taken = reader.take(100)
    assert numbers(taken) == [1, 2, 3]
    assert taken[-1] == Missed(Channel.TICKS, rows=4, after=3, through=7)
    publish(hub, ("A", 8))
    assert numbers(reader.take(100)) == [8]
    assert reader.missed == 4


def test_a_message_that_is_larger_than_the_buffer_is_delivered():
    hub = hub_of("A")
    reader = hub.join(buffer_rows=3)
    hub.subscribe(reader, ticks_of("A"))
    publish(hub, *[("A", number) for number in range(10)])
    assert numbers(reader.take(1)) == list(range(10))


def test_a_reader_that_stays_slow_is_closed():
    time = Time()
    hub = hub_of("A", clock=time)
    slow, fast = hub.join(buffer_rows=1), hub.join(buffer_rows=1)
    for reader in (slow, fast):
        hub.subscribe(reader, ticks_of("A"))
    for number in range(40):
        publish(hub, ("A", number))
        fast.take(10)
        time.now += 1
        hub.check_once()
    assert slow.closing == SLOW
    assert fast.closing is None
    assert slow.rows == 0


def test_the_buffer_holds_no_more_rows_than_its_limit():
    hub = hub_of("A")
    reader = hub.join(buffer_rows=50)
    hub.subscribe(reader, ticks_of("A"))
    for number in range(1000):
        publish(hub, ("A", number), ("A", number))
        assert reader.rows <= 50


def test_a_reader_resumes_where_it_was():
    hub = hub_of("A", "B")
    reader = hub.join()
    hub.subscribe(reader, ticks_of("A", "B"))
    publish(hub, ("A", 1), ("B", 2))
    taken = reader.take(1)
    hub.leave(reader)
    publish(hub, ("A", 3), ("B", 4))
    again = hub.join()
    assert hub.subscribe(again, ticks_of("A", "B"), {Channel.TICKS: taken[0].seq}) == set(ticks_of("A", "B"))
    assert numbers(taken) + numbers(again.take(100)) == [1, 2, 3, 4]


def test_nobody_resumes_what_is_forgotten():
    time = Time()
    hub = hub_of("A", "B", clock=time, history_rows=5)
    reader = hub.join()
    hub.subscribe(reader, ticks_of("A", "B"))
    publish(hub, ("A", 0))
    seq = reader.take(1)[0].seq
    hub.leave(reader)
    for number in range(6):
        publish(hub, ("B", number))
    publish(hub, ("A", 1))
    again = hub.join()
    assert hub.subscribe(again, ticks_of("A", "B"), {Channel.TICKS: seq}) == set(ticks_of("A"))
    hub.leave(again)
    time.now += 100
    hub.check_once()
    assert hub.families(*Channel) == []
    assert hub.subscribe(hub.join(), ticks_of("A"), {Channel.TICKS: seq}) == set()
    assert hub.symbols(TICKS) == {"A"}


def test_the_only_reader_does_not_resume_after_its_topic_is_closed():
    time = Time()
    hub = hub_of("A", clock=time)
    reader = hub.join()
    hub.subscribe(reader, ticks_of("A"))
    publish(hub, ("A", 1))
    seq = reader.take(1)[0].seq
    hub.leave(reader)
    time.now += 61
    hub.check_once()
    publish(hub, ("A", 2))  # no one reads the channel: this message gets no number
    again = hub.join()
    assert hub.subscribe(again, ticks_of("A"), {Channel.TICKS: seq}) == set()
    hub.leave(again)
    again = hub.join()
    assert hub.subscribe(again, ticks_of("A"), {Channel.TICKS: hub.seq(Channel.TICKS)}) == set(ticks_of("A"))


def test_the_history_holds_no_more_rows_than_its_limit():
    hub = hub_of("A", "B", history_rows=20)
    hub.subscribe(hub.join(), ticks_of("A", "*"))
    hub.subscribe(hub.join(), ticks_of("B"))
    for number in range(100):
        publish(hub, ("A", number), ("B", number))
        assert hub._topics.rows == sum(len(one) for state in hub._topics.families[TICKS] for one in state.history) <= 20


async def test_the_end_wakes_every_reader():
    hub = hub_of("A")
    reader = hub.join()
    waiting = asyncio.create_task(reader.wait())
    await asyncio.sleep(0)
    hub.end()
    assert not await waiting
    assert reader.closing == STOPPING
    assert hub.join().closing == STOPPING


def test_a_flood_of_events_is_counted_and_told(monkeypatch):
    monkeypatch.setattr("stockpulse.hub.hub._BACKLOG_ROWS", 2)
    hub = hub_of("A")
    reader = hub.join()
    hub.subscribe(reader, ticks_of("A"))
    for seq in range(1, 6):
        hub.on_ticks(logged((1, seq, 10)))
    work(hub)
    taken = reader.take(100)
    missed = [one for one in taken if isinstance(one, Missed)]
    assert [row["seq"] for one in taken if not isinstance(one, Missed) for row in one.rows] == [1, 2, 3]
    assert sum(one.rows for one in missed) == 2 == hub.unpublished
    again = hub.join()
    assert hub.subscribe(again, ticks_of("A"), {Channel.TICKS: 3}) == set()
