"""From one log to the other and back: no tick is lost or stored twice, and revisions keep growing."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app_process import AppProcess
from kafka_app import (
    PARTITIONS,
    Serve,
    StoredTick,
    assert_bars_right,
    command,
    on_kafka,
    put,
    rows,
    stored_bars,
    stored_ticks,
    symbols_on,
    trade,
    until,
)
from stockpulse.errors import OtherJournal

T0 = datetime(2026, 3, 2, 15, 30, tzinfo=UTC)
JSON = {"Content-Type": "application/json"}
OURS = "/ticks?provider=ours&calendar=24/7&clock=event"
SYMBOLS = [symbols_on(number, 1)[0] for number in range(PARTITIONS)]
ON_POSTGRES: dict[str, Any] = {"calendar": "24/7"}
MINUTES = 10
"""Between the times of two phases."""

Tick = dict[str, Any]


def ticks_of(phase: int) -> list[Tick]:
    """Ticks of the time of a phase, then late ticks for the bars of all phases before, including opens and closes."""
    made = []
    for of_phase in (phase, *range(phase)):
        start = T0 + timedelta(minutes=MINUTES * of_phase)
        for number, symbol in enumerate(SYMBOLS):
            for at in range(5):
                ts = start + timedelta(seconds=30 * at - phase * (at in {0, 4}) + of_phase)
                price = 100 + number + phase * 7 - at * (-1) ** phase
                made.append(trade(symbol, ts, price, 1 + at / 8, f"{symbol}-{phase}-{of_phase}-{at}"))
    return made


async def post(client: httpx2.AsyncClient, ticks: list[Tick]) -> Tick:
    response = await client.post(OURS, json=ticks)
    assert response.status_code == 200, response.text
    answer: Tick = response.json()
    return answer


async def send_all(client: httpx2.AsyncClient, ticks: list[Tick]) -> None:
    """Send, and wait until the bars are stored."""
    assert (await post(client, ticks))["accepted"] == len(ticks)
    assert (await client.post(f"{OURS}&end_of_stream=true")).status_code == 200


async def move(dsn: str, settings: dict[str, Any], target: str) -> None:
    status, said = await command(dsn, settings, "move", target)
    assert status == 0, said
    assert f"moved to {target}" in said


async def assert_stored(dsn: str, sent: list[Tick]) -> None:
    """Each of these ticks once, as it was sent, and the bars that they all make."""
    ticks = await stored_ticks(dsn)
    have = sorted((one.trade_id, one.symbol, one.ts, one.price, one.size) for one in ticks)  # type: ignore[type-var]
    want = sorted((t["trade_id"], t["symbol"], datetime.fromisoformat(t["ts"]), t["price"], t["size"]) for t in sent)
    assert have == want, f"{len(have)} stored, {len(want)} sent"
    await assert_bars_right(dsn, ticks)


async def assert_served(client: httpx2.AsyncClient, ticks: list[StoredTick]) -> None:
    """Readers see the ticks of all logs."""
    for symbol in SYMBOLS:
        ours = sorted((one for one in ticks if one.symbol == symbol), key=lambda one: (one.ts, one.seq), reverse=True)
        answer = (await client.get("/ticks/latest", params={"symbol": symbol, "limit": 1000})).json()["ticks"]
        assert [one["trade_id"] for one in answer] == [one.trade_id for one in ours]
        newest = ours[: len(ours) // 2]
        answer = (await client.get("/ticks/latest", params={"symbol": symbol, "limit": len(newest)})).json()["ticks"]
        assert [one["trade_id"] for one in answer] == [one.trade_id for one in newest]
        summary = (await client.get("/ticks/summary", params={"symbol": symbol, "minutes": 120})).json()
        as_of = datetime.fromisoformat(summary["as_of"])
        assert as_of == ours[0].ts
        within = [one for one in ours if one.ts <= as_of]
        assert summary["count"] == len(within), summary
        assert summary["sum_volume"] == pytest.approx(sum(one.size for one in within))


@pytest.mark.thorough
async def test_there_and_back_with_ticks_in_every_phase(
    serve: Serve, postgres_dsn: str, kafka: str, topic: str
) -> None:
    with_kafka = on_kafka(kafka, topic)
    phases = [("postgres", ON_POSTGRES), ("kafka", with_kafka), ("postgres", ON_POSTGRES), ("kafka", with_kafka)]
    sent: list[Tick] = []
    before: dict[Any, Any] = {}
    for phase, (target, settings) in enumerate(phases):
        if phase:
            await move(postgres_dsn, with_kafka, target)
        async with serve(postgres_dsn, **settings) as client:
            if sent:
                await assert_served(client, await stored_ticks(postgres_dsn))
            newest = max((tick.seq for tick in await stored_ticks(postgres_dsn)), default=0)
            await send_all(client, ticks_of(phase))
            sent += ticks_of(phase)
            ticks = await stored_ticks(postgres_dsn) if target == "postgres" else await all_stored(postgres_dsn, sent)
            await assert_served(client, ticks)
        await assert_stored(postgres_dsn, sent)
        assert min(tick.seq for tick in ticks if str(tick.trade_id).split("-")[1] == str(phase)) > newest
        bars = await stored_bars(postgres_dsn, 60)
        assert before.keys() <= bars.keys()
        assert all(bars[key][-1] > bar[-1] for key, bar in before.items() if bars[key] != bar)
        assert sum(bars[key] != bar for key, bar in before.items()) >= phase * len(SYMBOLS), "none was revised"
        before = bars
        # The other log is refused, with the command that moves.
        with pytest.raises(OtherJournal, match=r"`stockpulse move (kafka|postgres)` moves everything"):
            async with serve(postgres_dsn, **(ON_POSTGRES if target == "kafka" else with_kafka)):
                pass
        status, said = await command(postgres_dsn, with_kafka, "move", target)
        assert status != 0
        assert "already" in said
    assert len(await rows(postgres_dsn, "SELECT FROM checkpoints")) == PARTITIONS


async def all_stored(dsn: str, sent: list[Tick]) -> list[StoredTick]:
    async def are_there() -> bool:
        return len(await stored_ticks(dsn)) == len(sent)

    await until(are_there, "that all ticks are stored")
    return await stored_ticks(dsn)


@pytest.mark.thorough
async def test_what_came_before_a_move_is_known_again_after_it(
    serve: Serve, postgres_dsn: str, kafka: str, topic: str
) -> None:
    """A client whose answer was lost sends again, to the log of that time."""
    with_kafka = on_kafka(kafka, topic)
    sent: list[Tick] = []
    phases = [("postgres", ON_POSTGRES), ("kafka", with_kafka), ("postgres", ON_POSTGRES)]
    for phase, (target, settings) in enumerate(phases):
        if phase:
            await move(postgres_dsn, with_kafka, target)
        async with serve(postgres_dsn, **settings) as client:
            if sent:
                answer = await post(client, sent)
                assert (answer["accepted"], answer["duplicates"]) == (0, len(sent)), f"on {target}"
            await send_all(client, ticks_of(phase))
            sent += ticks_of(phase)
    await assert_stored(postgres_dsn, sent)


@pytest.mark.longest
async def test_trades_of_the_log_before_are_corrected_in_the_log_of_now(
    serve: Serve, postgres_dsn: str, kafka: str, topic: str
) -> None:
    """Corrections move too: the same again changes nothing, and a trade of the log before can be cancelled."""
    with_kafka = on_kafka(kafka, topic)
    symbol = SYMBOLS[2]
    sent = [trade(symbol, T0 + timedelta(seconds=at), 10.0 + at, 1, str(at)) for at in range(6)]
    later = (T0 + timedelta(minutes=1)).isoformat()
    fixes = [{"symbol": symbol, "ts": later, "trade_id": str(at)} for at in range(3)]
    fixes[1] |= {"price": 50, "size": 2}
    phases = [("postgres", ON_POSTGRES), ("kafka", with_kafka), ("postgres", ON_POSTGRES)]
    stand = {str(at): 10.0 + at for at in range(6)}
    for phase, (target, settings) in enumerate(phases):
        if phase:
            await move(postgres_dsn, with_kafka, target)
        async with serve(postgres_dsn, **settings) as client:
            answer = await post(client, sent)
            assert (answer["accepted"], answer["duplicates"]) == ((0, 6) if phase else (6, 0)), f"on {target}"
            if phase:
                assert await corrected(client, *fixes[:phase]) == 0
            assert await corrected(client, fixes[phase]) == 1
            stand.pop(str(phase))
            if phase == 1:
                stand["1"] = 50

            async def are_served(client: httpx2.AsyncClient = client) -> bool:
                answer = await client.get("/ticks/latest", params={"symbol": symbol})
                return {one["trade_id"]: one["price"] for one in answer.json()["ticks"]} == stand

            await until(are_served, f"that the right trades are served on {target}")
    assert await rows(postgres_dsn, "SELECT high, low, trade_count FROM bars_1m") == [(50, 13, 4)]


async def corrected(client: httpx2.AsyncClient, *fixes: Tick) -> int:
    answer = await client.post("/ticks/corrections?provider=ours", json=list(fixes))
    assert answer.status_code == 200, answer.text
    accepted: int = answer.json()["accepted"]
    return accepted


@pytest.mark.thorough
async def test_move_works_in_what_a_killed_app_left(
    serve: Serve, postgres_dsn: str, kafka: str, topic: str, tmp_path: Path
) -> None:
    """First ours in the log inside the database, then what others wrote to the topic while nothing ran."""
    with_kafka = on_kafka(kafka, topic)
    app = AppProcess(tmp_path / "app", database_url=postgres_dsn, **ON_POSTGRES).start()
    try:
        async with httpx2.AsyncClient(base_url=app.url, timeout=30, headers=JSON) as client:
            await post(client, ticks_of(0))
            await asyncio.sleep(1)
            left = ticks_of(1)
            await post(client, left)
    finally:
        app.kill()
    [(head,)] = await rows(postgres_dsn, "SELECT head FROM journal_heads")
    [(offset,)] = await rows(postgres_dsn, "SELECT journal_offset FROM checkpoints")
    assert offset < head, "nothing was left"
    await move(postgres_dsn, with_kafka, "kafka")
    async with serve(postgres_dsn, **with_kafka) as client:
        await client.post(f"{OURS}&end_of_stream=true")
    sent = [*ticks_of(0), *left]
    await assert_stored(postgres_dsn, sent)
    foreign = [one | {"provider": "ours"} for one in ticks_of(2)]
    await put(kafka, f"{topic}.raw", [(SYMBOLS.index(one["symbol"]), one["symbol"], one) for one in foreign])
    await move(postgres_dsn, with_kafka, "postgres")
    async with serve(postgres_dsn, **ON_POSTGRES) as client:
        await client.post(f"{OURS}&end_of_stream=true")
        await assert_served(client, await stored_ticks(postgres_dsn))
    await assert_stored(postgres_dsn, [*sent, *ticks_of(2)])


@pytest.mark.thorough
async def test_who_still_works_on_the_log_that_was_left_spoils_nothing(
    serve: Serve, postgres_dsn: str, kafka: str, topic: str, tmp_path: Path
) -> None:
    """It ends by itself, and the database stays as the move has left it."""
    with_kafka = on_kafka(kafka, topic)
    settings = {"kafka_bootstrap_servers": kafka, **with_kafka}
    async with serve(postgres_dsn, **with_kafka) as client:
        await send_all(client, ticks_of(0))
    worker = AppProcess(tmp_path / "worker", role="process", database_url=postgres_dsn, **settings).start()
    try:
        async with httpx2.AsyncClient(base_url=worker.url, timeout=30, headers=JSON) as client:

            async def has_all() -> bool:
                return len((await client.get("/health")).json()["shards"]) == PARTITIONS

            await until(has_all, "that it works on all shards")
        await move(postgres_dsn, with_kafka, "postgres")
        foreign = [(SYMBOLS.index(one["symbol"]), one["symbol"], one) for one in ticks_of(1)]
        await put(kafka, f"{topic}.raw", foreign)
        assert worker._process is not None
        with_status = await asyncio.to_thread(worker._process.wait, 30)
        assert with_status != 0
    finally:
        worker.kill()
    said = worker.log.read_text()
    assert "the database follows another log" in said or "stockpulse move" in said, said[-3000:]
    assert await rows(postgres_dsn, "SELECT shard, journal FROM checkpoints") == [(0, "postgres")]
    await assert_stored(postgres_dsn, ticks_of(0))
