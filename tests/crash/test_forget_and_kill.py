"""SIGKILL of the app while it forgets under load: bars are those of the remaining ticks, bit for bit."""

import asyncio
import contextlib
import random
from collections import Counter
from pathlib import Path
from urllib.parse import urlencode

import asyncpg
import pytest
from crash_harness import (
    BAR,
    BEGIN,
    SOURCES,
    App,
    Caller,
    Load,
    Market,
    NoAnswer,
    Stored,
    Tick,
    assert_derived_right,
    bars_of,
    kills_wanted,
    read,
    running_app,
    seed_of,
)

from stockpulse.market.times import from_micros, micros

_HOUR = 3_600_000_000


class Forgetter:
    """Takes ticks back: a stretch of a symbol, of a provider, or of both. Asks again until it has an answer."""

    def __init__(self, app: App, seed: int) -> None:
        self.caller = Caller(app.port)
        self._dice = random.Random(seed)
        self.answers: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()

    async def run(self) -> None:
        while True:
            await self.forget(self._query())
            await asyncio.sleep(self._dice.uniform(0, 0.4))

    def _query(self) -> dict[str, str]:
        source = self._dice.choice(SOURCES)
        middle = micros(BEGIN) + int(self._dice.choice([1, 1, -300]) * self._dice.random() * _HOUR)
        reach = int(self._dice.choice([0.01, 0.1, 24]) * _HOUR)
        query = {"start": _text(middle - reach), "end": _text(middle + reach)}
        if self._dice.random() < 0.8:
            query["symbol"] = self._dice.choice(source.symbols)
        if len(query) == 2 or self._dice.random() < 0.5:
            query["provider"] = source.name
        return query

    async def forget(self, query: dict[str, str]) -> None:
        """Take back the ticks of the query; ask again until there is an answer."""
        while True:
            try:
                status, answer = await self.caller.call("DELETE", f"/ticks?{urlencode(query)}")
            except NoAnswer:
                self.answers["none"] += 1
                await asyncio.sleep(0.05)
                continue
            self.answers[str(status)] += 1
            assert status in (200, 202, 404, 503), f"{status}: {answer}"
            if status == 503:
                await asyncio.sleep(0.1)
                continue
            if status == 200:
                assert isinstance(answer, dict)
                self.counts.update({name: value for name, value in answer.items() if type(value) is int})
            return


def _text(instant: int) -> str:
    return from_micros(instant).isoformat()


async def standing(dsn: str, stored: Stored) -> list[Tick]:
    """The ticks of the log that no forget after them takes back."""
    connection = await asyncpg.connect(dsn)
    try:
        forgets = await connection.fetch("SELECT * FROM forgets")
        providers = dict(
            map(
                tuple,
                await connection.fetch(
                    "SELECT seq, provider_id FROM realtime_prices t JOIN tick_kinds k ON k.id = t.kind_id"
                ),
            )
        )
    finally:
        await connection.close()
    assert forgets
    ranges = [
        (one["seq"], one["symbol_id"], one["provider_id"], micros(one["start_at"]), micros(one["end_at"]))
        for one in forgets
    ]
    return [
        tick
        for tick in stored.log
        if not any(
            seq > tick.seq
            and symbol in (None, tick.symbol_id)
            and provider in (None, providers[tick.seq])
            and start <= tick.ts < end
            for seq, symbol, provider, start, end in ranges
        )
    ]


def assert_bars_are_of(stored: Stored, ticks: list[Tick]) -> None:
    """Compare all values but the revisions, which a forget raises."""
    at = BAR.index("revision")
    for interval, bars in bars_of(ticks).items():
        have = stored.bars[interval]
        missing, more = sorted(bars.keys() - have.keys()), sorted(have.keys() - bars.keys())
        assert (missing, more) == ([], []), f"{interval}: {len(missing)} are missing, {len(more)} should not be"
        wrong = [
            key for key in bars if (*have[key][:at], *have[key][at + 1 :]) != (*bars[key][:at], *bars[key][at + 1 :])
        ]
        assert not wrong, f"{len(wrong)} of {len(bars)} bars {interval} are wrong: {wrong[:5]}"
        assert all(have[key][at] >= bars[key][at] for key in bars)


def _without(row: tuple[object, ...], at: int) -> tuple[object, ...]:
    return (*row[:at], *row[at + 1 :])


@pytest.mark.thorough
@pytest.mark.timeout(3600)
async def test_killed_while_it_forgets(tmp_path: Path) -> None:
    seed = seed_of(21)
    dice = random.Random(seed)
    async with running_app() as app:
        load, forgetter = Load(app, Market(seed, least=50, most=400, in_parts=True)), Forgetter(app, seed)
        async with load.flowing():
            await asyncio.sleep(2)
            forgetting = asyncio.create_task(forgetter.run())
            for _ in range(kills_wanted(3)):
                await asyncio.sleep(dice.uniform(0.5, 3.0))
                await app.kill()
                await app.start()
            forgetting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await forgetting
            await forgetter.forget({"symbol": SOURCES[0].symbols[0]})  # of this one there are ticks, for certain
            await app.kill()
            await app.start()
        await load.settle()
        stored = await read(app.dsn)
        ticks = await standing(app.dsn, stored)
        print(f"{len(stored.log)} ticks, {len(ticks)} stand; {dict(forgetter.answers)} {dict(forgetter.counts)}")
        assert len(ticks) < len(stored.log)
        assert forgetter.counts["bars_refused"] == 0
        assert_bars_are_of(stored, ticks)
        await assert_derived_right(app)
        query = {"symbol": SOURCES[0].symbols[0], "limit": 10_000}
        forgetter.caller.close()  # the server has closed it, since it was idle
        status, latest = await forgetter.caller.call("GET", f"/ticks/latest?{urlencode(query)}")
        forgetter.caller.close()
        assert status == 200, latest
        assert isinstance(latest, dict)
        assert {tick["seq"] for tick in latest["ticks"]} <= {tick.seq for tick in ticks}
