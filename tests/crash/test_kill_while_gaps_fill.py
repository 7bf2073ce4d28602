"""SIGKILL while the gaps of a feed are being filled: in the end each trade of the source is stored once.

The source has a trade every 20 ms, whose number, price and size follow from its time; it knows its past. Its stream
breaks at random; its past is read in slow pages, some of which fail. A file tells it that the trouble is over.
"""

import asyncio
import random
import time
from pathlib import Path

import pytest
from crash_harness import MINUTE, RIGHT_FLAGS, bars_of, read_stopped, running_app, until_true

from plugin_package import lay_out
from stockpulse.market.schemas import COUNTS_FOR_PRICE, COUNTS_FOR_VOLUME

pytestmark = pytest.mark.timeout(300)

SOURCE = '''
import asyncio
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

from stockpulse.providers.base import Capabilities, ProviderBase, ProviderEntry
from stockpulse.providers.faults import Unreachable
from stockpulse.testing import ticks_frame

EVERY = 20_000
"""Microseconds between two trades."""
BEGIN = datetime(1970, 1, 1, tzinfo=UTC)


def number_at(at):
    return (at - BEGIN) // timedelta(microseconds=EVERY)


def trade(number):
    return {
        "symbol": "AB"[number % 2],
        "ts": BEGIN + timedelta(microseconds=number * EVERY),
        "price": 100.0 + number % 997 / 100,
        "size": 1.0 + number % 13,
        "exchange": "XY"[number // 2 % 2],
        "trade_id": str(number),
    }


class Source(ProviderBase):
    name = "source"
    calendar = "24/7"

    async def stream(self):
        calm = Path("calm")
        sent = number_at(datetime.now(UTC)) - random.choice([0, 50])
        breaks_at = datetime.now(UTC) + timedelta(seconds=random.uniform(2, 8))
        while True:
            newest = number_at(datetime.now(UTC))
            if not calm.exists() and datetime.now(UTC) > breaks_at:
                raise Unreachable("the stream of source is broken off")
            if newest > sent:
                yield ticks_frame(*[trade(number) for number in range(sent + 1, newest + 1)])
                sent = newest
            await asyncio.sleep(0.02)

    async def trades(self, symbols, start, end):
        known = range(number_at(start), min(number_at(end), number_at(datetime.now(UTC))) + 1)
        rows = [one for one in map(trade, known) if start <= one["ts"] < end]
        for symbol in symbols:
            mine = [one for one in rows if one["symbol"] == symbol]
            for first in range(0, len(mine), 10):
                await asyncio.sleep(0.02)
                if not Path("calm").exists() and random.random() < 0.05:
                    raise Unreachable("source does not answer")
                yield ticks_frame(*mine[first : first + 10])


ENTRY = ProviderEntry("source", lambda _config: Source(), capabilities=Capabilities(trades=True))
'''


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    lay_out(site, "source-feed", {"source_feed.py": SOURCE}, {"source": "source_feed:ENTRY"})
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=":")
    monkeypatch.setitem(RIGHT_FLAGS, ("source", ""), COUNTS_FOR_PRICE | COUNTS_FOR_VOLUME)


@pytest.mark.longest
async def test_each_trade_is_stored_once(source: None) -> None:
    kills = 0
    async with running_app(provider="source", symbols="A,B") as app:

        async def gaps() -> dict[str, int]:
            _, health = await app.get("/health")
            return health["feeds"]["source"]["gaps"]  # type: ignore[index, call-overload, no-any-return]

        deadline = time.monotonic() + 60
        while kills < 3 and time.monotonic() < deadline:
            await asyncio.sleep(random.uniform(0.5, 2))
            if (await gaps()).get("filling"):
                await app.kill()
                kills += 1
                await asyncio.sleep(random.uniform(0, 2))
                await app.start()
        (app.folder / "calm").touch()
        await asyncio.sleep(2)

        async def all_filled() -> bool:
            return (await gaps()).keys() == {"filled"}

        await until_true(all_filled, "all gaps are filled", 120)
        found = await gaps()
        await app.terminate()
        stored = await read_stopped(app.folder)
    numbers = sorted(map(int, stored.sent["trade_id"]))
    print(f"{len(numbers)} trades, {kills} kills, gaps {found}")
    assert kills > 1
    assert found["filled"] > kills
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    wanted, have = (
        {key: bar for key, bar in bars.items() if key[1] < stored.log[-1].ts // MINUTE * MINUTE}
        for bars in (bars_of(stored.log)["1m"], stored.bars["1m"])
    )
    assert len(wanted) > 2
    assert have == wanted
