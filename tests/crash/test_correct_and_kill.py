"""SIGKILL of the app while trades are cancelled and corrected under load: bars are those of the right trades."""

import asyncio
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import asyncpg
import pytest
from crash_harness import (
    SOURCES,
    App,
    Caller,
    Load,
    Market,
    NoAnswer,
    Source,
    Stored,
    Tick,
    assert_derived_right,
    kills_wanted,
    read,
    running_app,
    seed_of,
)
from test_forget_and_kill import assert_bars_are_of

from stockpulse.market.times import micros

SOURCE = {source.name: source for source in SOURCES}


@dataclass
class Trade:
    """A trade that the app has acknowledged, and its present id and values; no price: it is cancelled."""

    source: Source
    symbol: str
    exchange: str | None
    ts: datetime
    trade_id: str
    price: float | None
    size: float


@dataclass
class Corrector:
    """Cancels and corrects acknowledged trades, one at a time. Asks again until it has an answer."""

    app: App
    load: Load
    seed: int
    trades: dict[str, Trade] = field(default_factory=dict)
    messages: list[tuple[Source, dict[str, object]]] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    over: bool = False

    def __post_init__(self) -> None:
        self.caller = Caller(self.app.port)
        self._dice = random.Random(self.seed)
        self._number = 0

    async def run(self) -> None:
        while not self.over:
            await self.act()
            await asyncio.sleep(self._dice.uniform(0, 0.1))

    async def act(self) -> None:
        """Correct some trade, or send an earlier message again."""
        acknowledged = [batch for batch in self.load.batches[-200:] if batch.receipt is not None]
        if not acknowledged:
            return
        if self.messages and self._dice.random() < 0.2:
            source, message = self._dice.choice(self.messages)
            assert (await self.send(source, [message]))["accepted"] == 0
            return
        batch = self._dice.choice(acknowledged)
        rows = [self._dice.randrange(len(batch.ticks)) for _ in range(self._dice.choice([1, 1, 5, 50]))]
        again = [self._dice.choice(list(self.trades))] if self.trades and self._dice.random() < 0.3 else []
        found = batch.ticks[rows].unique("trade_id", maintain_order=True).to_dicts()
        mine = [self.trades.setdefault(row["trade_id"], self._trade(batch.source, row)) for row in found]
        messages = [self._message(trade) for trade in mine]
        await self.send(batch.source, messages)
        for name in again:
            await self.send(self.trades[name].source, [self._message(self.trades[name])])

    def _trade(self, source: Source, row: dict[str, object]) -> Trade:
        return Trade(source, *(row[name] for name in ("symbol", "exchange", "ts", "trade_id", "price", "size")))

    def _message(self, trade: Trade) -> dict[str, object]:
        self._number += 1
        sent = trade.ts + timedelta(milliseconds=self._number)
        message: dict[str, object] = {"symbol": trade.symbol, "trade_id": trade.trade_id, "ts": sent.isoformat()}
        if self._dice.random() < 0.5:
            message["exchange"] = trade.exchange
        trade.price = None
        if self._dice.random() < 0.5:
            trade.price = round(self._dice.uniform(40, 70), 2)
            trade.size = float(self._dice.randrange(1, 500))
            message |= {"price": trade.price, "size": trade.size, "conditions": self._dice.choice(trade.source.codes)}
            if self._dice.random() < 0.5:
                message["new_trade_id"] = trade.trade_id = f"{trade.trade_id}c{self._number}"
        self.messages.append((trade.source, message))
        return message

    async def send(self, source: Source, messages: list[dict[str, object]]) -> dict[str, object]:
        path = f"/ticks/corrections?provider={source.name}&conditions={source.rule}"
        while True:
            try:
                status, answer = await self.caller.call("POST", path, json.dumps(messages).encode(), "application/json")
            except NoAnswer:
                self.answers["none"] += 1
                await asyncio.sleep(0.05)
                continue
            self.answers[str(status)] += 1
            assert status in (200, 503), f"{status}: {answer}"
            if status == 200:
                assert isinstance(answer, dict)
                assert answer["rejected"] == []
                return answer
            await asyncio.sleep(0.1)


async def standing(dsn: str, stored: Stored) -> tuple[list[Tick], dict[tuple[str, str], tuple[datetime, float, float]]]:
    """Return the ticks of the log that no correction after them takes back, and those that the view shows."""
    connection = await asyncpg.connect(dsn)
    try:
        corrections = await connection.fetch("SELECT * FROM corrections")
        about = await connection.fetch(
            "SELECT seq, trade_id, k.provider_id, k.exchange FROM realtime_prices t JOIN tick_kinds k ON k.id = kind_id"
        )
        shown = await connection.fetch("SELECT provider, trade_id, event_time, price, volume FROM stock_ticks")
    finally:
        await connection.close()
    by_id: dict[tuple[int, int, str], list[asyncpg.Record]] = {}
    for one in corrections:
        by_id.setdefault((one["symbol_id"], one["provider_id"], one["trade_id"]), []).append(one)
    details = {row["seq"]: row for row in about}

    def stands(tick: Tick) -> bool:
        mine = details[tick.seq]
        return not any(
            one["seq"] > tick.seq
            and one["exchange"] in (None, mine["exchange"])
            and micros(one["since"]) <= tick.ts <= micros(one["ts"])
            for one in by_id.get((tick.symbol_id, mine["provider_id"], mine["trade_id"]), ())
        )

    return [tick for tick in stored.log if stands(tick)], {(row[0], row[1]): tuple(row)[2:] for row in shown}


@pytest.mark.thorough
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kills", [1, pytest.param(3, marks=pytest.mark.longest)])
async def test_killed_while_trades_are_corrected(kills: int) -> None:
    seed = seed_of(31)
    dice = random.Random(seed)
    async with running_app() as app:
        load = Load(app, Market(seed, least=50, most=400, in_parts=True))
        corrector = Corrector(app, load, seed)
        async with load.flowing():
            await asyncio.sleep(2)
            correcting = asyncio.create_task(corrector.run())
            for _ in range(kills_wanted(kills)):
                await asyncio.sleep(dice.uniform(1.0, 6.0))
                await app.kill()
                await app.start()
            await asyncio.sleep(1)
            corrector.over = True
            await correcting
        corrector.caller.close()
        await load.settle()
        stored = await read(app.dsn)
        ticks, shown = await standing(app.dsn, stored)
        print(f"{len(stored.log)} ticks, {len(ticks)} stand; {len(corrector.messages)} messages {corrector.answers}")
        assert len(ticks) == len(shown) < len(stored.log)
        assert_bars_are_of(stored, ticks)
        await assert_derived_right(app)
        wrong = [
            (trade, have)
            for trade in corrector.trades.values()
            if (have := shown.get((trade.source.name, trade.trade_id)))
            != (None if trade.price is None else (trade.ts, trade.price, trade.size))
        ]
        assert not wrong, wrong[:5]
