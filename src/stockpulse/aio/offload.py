"""Run small work on the event loop and large work in a thread.

NumPy and Polars release the interpreter while they work, so the event loop continues to serve requests and to send
bytes to the database in the meantime.

Work for requests that read has a few threads of its own: the intake and the flushes never wait for them.
"""

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")

INLINE_ROWS: Final = 2000
"""For up to this number of rows, the work takes about as long as handing it to a thread."""

_LATE_SECONDS: Final = 0.002
_READERS: Final = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="readers")


async def run(rows: int, work: Callable[[], T]) -> T:
    """Run `work` here if it has at most INLINE_ROWS rows, else in a thread; return its result."""
    return work() if rows <= INLINE_ROWS else await asyncio.to_thread(work)


async def run_for_reader(rows: int, work: Callable[[], T]) -> T:
    """Do the same as `run` for a request that reads: its threads are few, and it waits for its turn."""
    return work() if rows <= INLINE_ROWS else await in_reader_thread(work)


async def give_way() -> None:
    """Let other work go first: pause for as long as the event loop takes for one round, if that is long."""
    began = time.perf_counter()
    await asyncio.sleep(0)
    late = time.perf_counter() - began
    if late > _LATE_SECONDS:
        await asyncio.sleep(late)


async def in_reader_thread(work: Callable[[], T]) -> T:
    """Run `work` in one of the threads for requests that read; return its result."""
    return await asyncio.get_running_loop().run_in_executor(_READERS, work)
