"""The budget of memory: reservations never exceed it, and those who wait get their turn."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stockpulse.api.budget import SMALL_BYTES, Share
from stockpulse.errors import TooLarge, Unavailable

MB = 2**20
LONG = 60.0


async def turns():
    """Let all that can run now do so."""
    for _ in range(5):
        await asyncio.sleep(0)


class Requests:
    """Requests that hold bytes of a share until they are told to end."""

    def __init__(self, share):
        self.share = share
        self.started = []
        self._tasks = {}
        self._ends = {}

    async def start(self, name, count):
        """Start a request; it is in `started` once it has its bytes."""
        self._ends[name] = asyncio.Event()
        self._tasks[name] = asyncio.create_task(self._run(name, count))
        await turns()

    async def _run(self, name, count):
        async with self.share.reservation() as room:
            await room.grow_to(count, "ask for less")
            self.started.append(name)
            await self._ends[name].wait()

    async def end(self, name):
        self._ends[name].set()
        await self._tasks[name]
        await turns()

    async def cancel(self, name):
        self._tasks[name].cancel()
        await asyncio.gather(self._tasks[name], return_exceptions=True)
        await turns()


async def test_what_is_held_comes_back():
    share = Share(64 * MB, LONG)
    async with share.reservation() as room:
        await room.grow_to(10 * MB, "")
        await room.grow_to(12 * MB, "")
        await room.grow_to(3 * MB, "")  # it has that already
        assert (room.held, share.free) == (12 * MB, 52 * MB)
        room.shrink_to(2 * MB)
        assert (room.held, share.free) == (2 * MB, 62 * MB)
    assert share.free == 64 * MB


async def test_a_fault_gives_all_back():
    share = Share(64 * MB, LONG)

    async def fail():
        async with share.reservation() as room:
            await room.grow_to(10 * MB, "")
            raise ValueError("lost")

    with pytest.raises(ValueError, match="lost"):
        await fail()
    assert share.free == 64 * MB


async def test_turns_are_in_the_order_of_asking():
    requests = Requests(Share(64 * MB, LONG))
    await requests.start("a", 40 * MB)
    await requests.start("b", 30 * MB)
    await requests.start("c", 5 * MB)  # would fit, and does not overtake
    assert requests.started == ["a"]
    await requests.end("a")
    assert requests.started == ["a", "b", "c"]


async def test_one_that_stops_waiting_lets_those_behind_it_pass():
    requests = Requests(Share(64 * MB, LONG))
    await requests.start("a", 40 * MB)
    await requests.start("b", 30 * MB)
    await requests.start("c", 5 * MB)
    await requests.cancel("b")
    assert requests.started == ["a", "c"]
    await requests.end("a")
    await requests.end("c")
    assert requests.share.free == requests.share.total


async def test_small_requests_do_not_wait_for_large_ones():
    requests = Requests(Share(64 * MB, LONG))
    await requests.start("large", 56 * MB)
    await requests.start("next", 8 * MB)
    await requests.start("small", SMALL_BYTES)
    assert requests.started == ["large", "small"]


async def test_in_vain():
    share = Share(64 * MB, wait_seconds=0.01)
    requests = Requests(share)
    await requests.start("a", 50 * MB)
    async with share.reservation() as room:
        await room.grow_to(2 * MB, "")
        with pytest.raises(Unavailable, match=r"STOCKPULSE_REQUEST_MEMORY_MB allows"):
            await room.grow_to(20 * MB, "")
        assert room.held == 2 * MB
    await requests.end("a")
    assert share.free == share.total


async def test_all_may_give_up_at_the_same_moment():
    """The time of some is over while others get their bytes."""
    share = Share(64 * MB, wait_seconds=0.05)

    async def body():
        async with share.reservation() as room:
            for megabytes in range(1, 21):
                await room.grow_to(megabytes * MB, "")
                await asyncio.sleep(0)

    ends = await asyncio.gather(*(body() for _ in range(10)), return_exceptions=True)
    assert {type(end) for end in ends} <= {type(None), Unavailable}
    assert share.free == share.total


async def test_one_that_never_fits():
    share = Share(64 * MB, LONG)
    async with share.reservation() as room:
        with pytest.raises(TooLarge, match=r"57 MB of memory, and one request may have 56 MB: ask for less, or raise"):
            await room.grow_to(56 * MB + 1, "ask for less")


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 3), st.booleans()), max_size=25))
def test_the_share_is_never_exceeded(requests):
    async def check():
        share = Share(64 * MB, LONG)
        held = 0

        async def one(megabytes, turns, _):
            nonlocal held
            async with share.reservation() as room:
                await room.grow_to(megabytes * MB // 2, "")
                held += room.held
                try:
                    assert held <= share.total
                    assert share.free >= 0
                    for _ in range(turns):
                        await asyncio.sleep(0)
                finally:
                    held -= room.held

        tasks = [asyncio.create_task(one(*request)) for request in requests]
        await asyncio.sleep(0)
        for task, (_, _, cancelled) in zip(tasks, requests, strict=True):
            if cancelled:
                task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert not [end for end in ends if isinstance(end, Exception)]
        assert (held, share.free) == (0, share.total)

    asyncio.run(check())
