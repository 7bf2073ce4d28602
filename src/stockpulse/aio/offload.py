"""Run small work on the event loop and large work in a thread.

NumPy and Polars release the interpreter while they work, so the event loop continues to serve requests and to send
bytes to the database in the meantime.
"""

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

INLINE_ROWS: Final = 2000
"""For up to this number of rows, the work takes about as long as handing it to a thread."""


async def run(rows: int, work: Callable[[], T]) -> T:
    """Run `work` here if it has at most INLINE_ROWS rows, else in a thread; return its result."""
    return work() if rows <= INLINE_ROWS else await asyncio.to_thread(work)
