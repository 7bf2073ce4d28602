"""Kafka is stopped, frozen and killed under load. The app reports the outage and bounds its memory; afterwards it
continues by itself.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import psutil
import pytest
from crash_harness import App, Load, Market, NoAnswer, assert_derived_right, seed_of
from crash_kafka import app_on_kafka, assert_log_right, processed, raw_of

from broker import Broker

pytestmark = pytest.mark.timeout(900)

#: A few seconds are enough to see what happens in a longer outage.
OUTAGE_SECONDS = float(os.environ.get("STOCKPULSE_CRASH_OUTAGE_SECONDS", "4"))
NOTICED_SECONDS = 8
BACK_SECONDS = 20
DRAINED_SECONDS = 60
DURABLE_SECONDS = 2
#: A generous bound for the queues and the requests under way.
MOST_GROWTH_MIB = 400
TOPIC = "outage"


@dataclass
class Watcher:
    """Observes /ready and the memory of an app."""

    app: App
    ready: bool = True
    said: str = ""
    peak: float = 0.0
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _watch(self) -> None:
        process = psutil.Process(self.app.pid)
        while True:
            self.peak = max(self.peak, process.memory_info().rss / 2**20)
            with contextlib.suppress(NoAnswer):
                status, answer = await self.app.get("/ready")
                async with self._changed:
                    self.ready = status == 200
                    self.said = "" if self.ready else str(answer)
                    self._changed.notify_all()
            await asyncio.sleep(0.1)

    async def until_ready_is(self, ready: bool, seconds: float) -> float:
        """Wait until /ready says this; return the seconds that it took."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait_for(lambda: self.ready is ready)
        except TimeoutError:
            raise AssertionError(f"/ready is not {ready} after {seconds} s:\n{self.app.tail()}") from None
        return time.monotonic() - started


Outage = Callable[[Broker, Callable[[], Awaitable[None]]], Awaitable[None]]
"""A function that takes a broker away, awaits its argument, and brings the broker back."""


async def stopped(broker: Broker, meanwhile: Callable[[], Awaitable[None]]) -> None:
    await asyncio.to_thread(broker.stop)
    await meanwhile()
    await asyncio.to_thread(broker.start)


async def frozen(broker: Broker, meanwhile: Callable[[], Awaitable[None]]) -> None:
    broker.freeze()
    try:
        await meanwhile()
    finally:
        broker.thaw()


async def killed(broker: Broker, meanwhile: Callable[[], Awaitable[None]]) -> None:
    await asyncio.to_thread(broker.kill)
    await meanwhile()
    await asyncio.to_thread(broker.start)


@pytest.mark.parametrize(
    "outage",
    [
        pytest.param(stopped, marks=pytest.mark.longest),
        pytest.param(frozen, marks=pytest.mark.thorough),
        pytest.param(killed, marks=pytest.mark.longest),
    ],
)
async def test_an_outage_under_load_loses_nothing_and_doubles_nothing(own_broker: Broker, outage: Outage) -> None:
    seed = seed_of(31)
    async with app_on_kafka(own_broker.bootstrap, TOPIC, durable_timeout_seconds=DURABLE_SECONDS) as app:
        load = Load(app, Market(seed, in_parts=True))
        watcher = Watcher(app)

        async def meanwhile() -> None:
            print(f"noticed after {await watcher.until_ready_is(False, NOTICED_SECONDS):.1f} s: {watcher.said}")
            assert "Kafka" in watcher.said
            acknowledged, refused = load.answers["200"], refusals(load)
            await asyncio.sleep(OUTAGE_SECONDS)
            assert not watcher.ready
            assert load.answers["200"] == acknowledged, "acknowledged without a broker"
            assert refusals(load) > refused, "nobody was told"

        async with watcher.watching(), load.flowing():
            await asyncio.sleep(2)
            before = watcher.peak
            await outage(own_broker, meanwhile)
            back = await watcher.until_ready_is(True, BACK_SECONDS)
            acknowledged = load.answers["200"]
            await asyncio.sleep(1)
            assert load.answers["200"] > acknowledged
        started = time.monotonic()
        await processed(app, own_broker.bootstrap, raw_of(TOPIC), DRAINED_SECONDS)
        print(
            f"back after {back:.1f} s, drained {time.monotonic() - started:.1f} s later; {before:.0f} MiB before, at"
            f" most {watcher.peak:.0f}; {load.ticks} ticks; answers {dict(load.answers)}"
        )
        await load.settle()
        await assert_log_right(app, own_broker.bootstrap, raw_of(TOPIC), load.batches)
        await assert_derived_right(app)
        assert watcher.peak - before < MOST_GROWTH_MIB
        assert (await app.terminate())[0] == 0


@pytest.mark.longest
async def test_broker_killed_again_and_again(own_broker: Broker) -> None:
    """Batches under way may have landed or not."""
    seed = seed_of(33)
    async with app_on_kafka(own_broker.bootstrap, TOPIC) as app:
        load = Load(app, Market(seed, in_parts=True))
        watcher = Watcher(app)
        async with watcher.watching(), load.flowing():
            for _ in range(int(os.environ.get("STOCKPULSE_CRASH_KILLS", "2"))):
                await load.sent()
                await asyncio.to_thread(own_broker.kill)
                await asyncio.to_thread(own_broker.start)
                await watcher.until_ready_is(True, BACK_SECONDS)
                acknowledged = load.answers["200"]
                async with asyncio.timeout(BACK_SECONDS):
                    while load.answers["200"] <= acknowledged + 10:
                        await load.sent()
        await load.settle()
        print(f"{load.ticks} ticks; answers {dict(load.answers)}")
        await assert_log_right(app, own_broker.bootstrap, raw_of(TOPIC), load.batches)
        await assert_derived_right(app)


@pytest.mark.longest
async def test_past_the_bound_ticks_are_refused(own_broker: Broker) -> None:
    """More ticks arrive than fit during the outage: memory stays bounded, and accepted ticks are appended once."""
    seed = seed_of(35)
    async with app_on_kafka(own_broker.bootstrap, TOPIC, durable_timeout_seconds=DURABLE_SECONDS) as app:
        market = Market(
            seed, least=40_000, most=60_000, formats=("application/vnd.apache.arrow.stream",), in_parts=True
        )
        load = Load(app, market, connections=16)
        watcher = Watcher(app)

        async def meanwhile() -> None:
            await watcher.until_ready_is(False, NOTICED_SECONDS)
            await asyncio.sleep(OUTAGE_SECONDS)

        async with watcher.watching():
            await asyncio.sleep(1)
            before = watcher.peak
            async with load.flowing():
                await load.sent()
                await frozen(own_broker, meanwhile)
                load.finish()
            await processed(app, own_broker.bootstrap, raw_of(TOPIC), DRAINED_SECONDS)
        print(f"{before:.0f} MiB before, at most {watcher.peak:.0f}; {load.ticks} ticks; answers {dict(load.answers)}")
        assert refusals(load)
        assert watcher.peak - before < 2 * MOST_GROWTH_MIB
        await load.settle()
        await assert_log_right(app, own_broker.bootstrap, raw_of(TOPIC), load.batches)


def refusals(load: Load) -> int:
    """Answers with status 503."""
    return sum(count for code, count in load.answers.items() if code not in {"200", "none"})
