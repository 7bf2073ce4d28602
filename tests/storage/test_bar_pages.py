"""Pages over the bars of several symbols, against a recompute from the trades and the calendars."""

import itertools

import numpy as np
import pytest
from test_bar_reader import ALL, COINS, STOCKS, WEEKS, AroundTheClock, NewYork, aggregated, frame_of, trades_of, values

from stockpulse.errors import InvalidInput
from stockpulse.market.intervals import M1, parse_interval
from stockpulse.market.times import micros
from stockpulse.storage import bar_reader
from stockpulse.storage.bar_cursor import Cursor
from stockpulse.testing import SetClock
from store_stack import DAY, HOUR, MINUTE, NOW, SECOND, stack, tick

FAR = NOW + 900 * DAY


async def pages_of(parts, names, interval, start=None, end=None, *, limit, descending=False, cursor=None):
    """The rows of each page, from a cursor to the last page."""
    pages = []
    while True:
        page = await parts.bars.page(
            [parts.symbol(name) for name in names],
            interval,
            start,
            end,
            limit,
            cursor,
            descending=descending,
            closed_until=lambda _: FAR,
        )
        pages.append(list(page.bars.iter_rows(named=True)))
        if page.next is None:
            return pages
        assert page.next == Cursor(pages[-1][-1]["symbol"], micros(pages[-1][-1]["ts"]))
        cursor = Cursor.decode(page.next.encode())


def flat(pages):
    return [(row["symbol"], row["ts"], values(row)) for row in itertools.chain(*pages)]


@pytest.mark.parametrize("paging", [13, pytest.param(20_000, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("week", ["spring forward", "thanksgiving"])
async def test_all_pages_together_are_each_bar_once(postgres_dsn, monkeypatch, week, paging):
    monkeypatch.setattr(bar_reader, "_PAGE_ROWS", paging)
    random = np.random.default_rng(sorted(WEEKS).index(week) + paging)
    feeds = {"AMZN": STOCKS, "BTC/USD": COINS, "BRK.B": STOCKS, "STORED": COINS, "FORMING": STOCKS}
    calendars = {name: NewYork() if feed is STOCKS else AroundTheClock() for name, feed in feeds.items()}
    trades = {name: trades_of(random, WEEKS[week], 8, int(random.integers(30, 120))) for name in feeds}
    async with stack(postgres_dsn, clock=SetClock(NOW + 30 * DAY)) as parts:
        for name, feed in feeds.items():
            half = {"STORED": len(trades[name]), "FORMING": 1}.get(name, len(trades[name]) // 2)
            await parts.ingestor.submit(frame_of(name, trades[name][:half]), feed)
            await parts.settled()
            if half < len(trades[name]):
                await parts.ingestor.submit(frame_of(name, trades[name][half:]), feed)
        while parts.shard.offset < parts.journal.head:  # the newest bars are in memory only, or in both places
            await parts.settled()
        for interval in ALL:
            of = {name: [*aggregated(calendars[name], interval, trades[name]).items()] for name in sorted(feeds)}
            for _ in range(6):
                start, end = sorted(WEEKS[week] + int(n) * SECOND for n in random.integers(-DAY.days, 9 * 86_400, 2))
                names = [name for name in feeds if random.random() < 0.7]
                descending = bool(random.integers(2))
                limit = int(random.choice([5, 40, 1000]))
                wanted = []
                for name in sorted(names):
                    inside = [(name, ts, bar) for ts, bar in of[name] if start <= ts < end]
                    wanted += inside[::-1] if descending else inside
                asked = [*names, *names[:1]]  # neither the order nor a repetition matters
                random.shuffle(asked)
                pages = await pages_of(parts, asked, interval, start, end, limit=limit, descending=descending)
                assert all(len(page) == limit for page in pages[:-1])
                assert flat(pages) == wanted, (interval, names, start, end, limit, descending)


class TestEdges:
    @pytest.fixture
    async def parts(self, postgres_dsn):
        async with stack(postgres_dsn) as parts:
            start = NOW.replace(hour=12, minute=0)
            await parts.submit(COINS, *(tick(name, start + n * MINUTE, n + 1) for name in "ABC" for n in range(4)))
            await parts.settled()
            yield parts

    async def test_of_symbols(self, parts):
        names, expected = ["C", "A", "B"], [(name, n) for name in "ABC" for n in range(1, 5)]
        for limit in (1, 3, 4, 5, 11, 12, 13):
            pages = await pages_of(parts, names, M1, limit=limit)
            assert [(row["symbol"], row["close"]) for row in itertools.chain(*pages)] == expected
            assert len(pages) == -(-12 // limit)  # no empty page at the end
        assert await pages_of(parts, [], M1, limit=5) == [[]]
        assert await pages_of(parts, names, M1, NOW + DAY, limit=5) == [[]]

    async def test_of_a_descending_order(self, parts):
        (page,) = await pages_of(parts, ["B", "A"], M1, limit=99, descending=True)
        assert [(row["symbol"], row["close"]) for row in page] == [(name, n) for name in "AB" for n in (4, 3, 2, 1)]
        (page,) = await pages_of(parts, ["B", "A"], parse_interval("2m"), limit=99, descending=True)
        assert [(row["symbol"], row["open"], row["close"]) for row in page] == [
            (name, n - 1, n) for name in "AB" for n in (4, 2)
        ]

    async def test_of_a_cursor(self, parts):
        after = Cursor("B", micros(NOW.replace(hour=12, minute=1)))
        (page,) = await pages_of(parts, ["A", "B", "C"], M1, limit=99, cursor=after)
        assert [(row["symbol"], row["close"]) for row in page] == [("B", 3), ("B", 4), *(("C", n) for n in range(1, 5))]
        (page,) = await pages_of(parts, ["A", "B", "C"], M1, limit=99, cursor=after, descending=True)
        assert [(row["symbol"], row["close"]) for row in page] == [("B", 1), *(("C", n) for n in (4, 3, 2, 1))]
        # The symbol of the cursor need not be among those asked for, and its time may be outside of the range.
        (page,) = await pages_of(parts, ["A", "C"], M1, limit=99, cursor=after)
        assert [row["symbol"] for row in page] == ["C"] * 4
        start = NOW.replace(hour=12, minute=2)
        (page,) = await pages_of(parts, ["B"], M1, start, limit=99, cursor=after)
        assert [row["close"] for row in page] == [3, 4]
        assert await pages_of(parts, ["B"], M1, None, start, limit=99, cursor=Cursor("B", micros(NOW + HOUR))) == [[]]

    async def test_each_symbol_closes_by_its_own_clock(self, parts):
        symbols = [parts.symbol(name) for name in "AB"]
        until = {"A": NOW.replace(hour=12, minute=2), "B": NOW.replace(hour=12, minute=4)}
        page = await parts.bars.page(
            symbols, parse_interval("2m"), None, None, 9, closed_until=lambda symbol: until[symbol.name]
        )
        final = [(row["symbol"], row["close"]) for row in page.bars.iter_rows(named=True) if row["final"]]
        assert final == [("A", 2.0), ("B", 2.0)]  # the newest minute of both is still forming


class TestCursor:
    @pytest.mark.parametrize("symbol", ["A", "BRK.B", "BTC/USD:USDT", "X|Y", "^GSPC", "M&M.NS"])
    def test_survives_as_text_that_needs_no_quoting(self, symbol):
        cursor = Cursor(symbol, micros(NOW))
        text = cursor.encode()
        assert Cursor.decode(text) == cursor
        assert text.replace("-", "").replace("_", "").isalnum()

    @pytest.mark.parametrize("text", ["", "x", "AAPL", "QXw=", "=", "%", "ß", "QQ", "QXwxMjM0NTY3OA==", "QXwtMQ"])
    def test_refuses_other_text(self, text):
        with pytest.raises(InvalidInput, match=r"^page_token: got .*; takes the token of the page before"):
            Cursor.decode(text)
