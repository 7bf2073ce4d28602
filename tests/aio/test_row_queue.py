"""Queues bound rows and not items, keep their order, and survive the cancellation of a waiting task."""

import asyncio
import contextlib

from hypothesis import given
from hypothesis import strategies as st

from stockpulse.aio.row_queue import RowQueue


async def settle():
    """Let every task run until it waits."""
    for _ in range(20):
        await asyncio.sleep(0)


async def cancelled(task):
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


class TestTake:
    async def test_all_that_has_piled_up_in_order(self):
        queue = RowQueue(100)
        for item in "abc":
            await queue.put(item, 10)
        assert (len(queue), queue.rows) == (3, 30)
        assert await queue.take(100) == ["a", "b", "c"]
        assert (len(queue), queue.rows) == (0, 0)

    async def test_no_more_rows_than_wanted(self):
        queue = RowQueue(100)
        for item in "abc":
            await queue.put(item, 10)
        assert await queue.take(20) == ["a", "b"]
        assert await queue.take(20) == ["c"]

    async def test_an_item_larger_than_wanted_comes_alone(self):
        queue = RowQueue(100)
        await queue.put("large", 90)
        await queue.put("small", 1)
        assert await queue.take(10) == ["large"]
        assert await queue.take(10) == ["small"]

    async def test_waits_for_the_first_item(self):
        queue = RowQueue(100)
        taker = asyncio.create_task(queue.take(10))
        await settle()
        assert not taker.done()
        await queue.put("a", 1)
        assert await taker == ["a"]


class TestPut:
    async def test_waits_while_there_is_no_room(self):
        queue = RowQueue(10)
        await queue.put("a", 6)
        putter = asyncio.create_task(queue.put("b", 5))
        await settle()
        assert not putter.done()
        assert queue.rows == 6
        assert await queue.take(10) == ["a"]
        await putter
        assert await queue.take(10) == ["b"]

    async def test_fills_the_bound_to_the_last_row(self):
        queue = RowQueue(10)
        await queue.put("a", 6)
        await asyncio.wait_for(queue.put("b", 4), 1)
        assert queue.rows == 10

    async def test_an_item_larger_than_the_bound_goes_in_alone(self):
        queue = RowQueue(10)
        await asyncio.wait_for(queue.put("huge", 25), 1)
        putter = asyncio.create_task(queue.put("b", 1))
        await settle()
        assert not putter.done()
        assert await queue.take(1) == ["huge"]
        await putter
        assert queue.rows == 1

    async def test_who_waited_first_goes_first(self):
        queue = RowQueue(10)
        await queue.put(0, 10)
        putters = [asyncio.create_task(queue.put(number, 10)) for number in range(1, 6)]
        order = []
        for _ in range(6):
            await settle()
            order += await queue.take(10)
        await asyncio.gather(*putters)
        assert order == list(range(6))


class TestCancellation:
    async def test_of_a_waiting_put_leaves_nothing(self):
        queue = RowQueue(10)
        await queue.put("a", 10)
        putter = asyncio.create_task(queue.put("b", 1))
        await settle()
        await cancelled(putter)
        assert await queue.take(100) == ["a"]
        assert (len(queue), queue.rows) == (0, 0)

    async def test_of_a_waiting_take_loses_nothing(self):
        queue = RowQueue(10)
        taker = asyncio.create_task(queue.take(10))
        await settle()
        await cancelled(taker)
        await queue.put("a", 1)
        assert await asyncio.wait_for(queue.take(10), 1) == ["a"]

    async def test_of_a_take_that_has_just_been_woken_loses_nothing(self):
        # Simulate `asyncio.wait_for` when its time is up at the moment when an item arrives.
        for turns in range(8):
            queue = RowQueue(10)
            taker = asyncio.create_task(queue.take(10))
            await settle()
            await queue.put("a", 1)
            for _ in range(turns):
                await asyncio.sleep(0)
            taker.cancel()
            try:
                taken = await taker
            except asyncio.CancelledError:
                taken = await asyncio.wait_for(queue.take(10), 1)
            assert taken == ["a"], f"cancelled {turns} turns after the item came"

    async def test_of_one_waiting_put_lets_the_next_one_in(self):
        queue = RowQueue(10)
        await queue.put("a", 10)
        first = asyncio.create_task(queue.put("b", 5))
        second = asyncio.create_task(queue.put("c", 5))
        await settle()
        await cancelled(first)
        assert await queue.take(10) == ["a"]
        await asyncio.wait_for(second, 1)
        assert await queue.take(10) == ["c"]

    async def test_a_take_within_a_time_never_loses_an_item(self):
        queue = RowQueue(50)

        async def produce():
            for number in range(300):
                await queue.put(number, 7)
                if number % 3 == 0:
                    await asyncio.sleep(0.0005)

        producer = asyncio.create_task(produce())
        taken = []
        while len(taken) < 300:
            with contextlib.suppress(TimeoutError):
                taken += await asyncio.wait_for(queue.take(20), 0.0004)
        await producer
        assert taken == list(range(300))


@given(
    sizes=st.lists(st.integers(1, 30), max_size=40),
    bound=st.integers(1, 40),
    most=st.integers(1, 40),
    producers=st.integers(1, 3),
)
def test_the_bound_holds_and_nothing_is_lost(sizes, bound, most, producers):
    async def run():
        queue = RowQueue(bound)

        async def produce(mine):
            for number in range(mine, len(sizes), producers):
                await queue.put((mine, number), sizes[number])
                assert queue.rows <= max(bound, sizes[number])

        tasks = [asyncio.create_task(produce(mine)) for mine in range(producers)]
        taken = []
        while len(taken) < len(sizes):
            batch = await asyncio.wait_for(queue.take(most), 5)
            assert sum(sizes[number] for _, number in batch) <= max(most, sizes[batch[0][1]])
            assert len(batch) == 1 or sum(sizes[number] for _, number in batch) <= most
            taken += batch
        await asyncio.gather(*tasks)
        for mine in range(producers):
            own = [number for who, number in taken if who == mine]
            assert own == list(range(mine, len(sizes), producers))
        assert (len(queue), queue.rows) == (0, 0)

    asyncio.run(run())
