"""Where work on a batch is done: small ones here and now, large ones in a thread.

NumPy and Polars let go of the interpreter while they work, so that requests are answered, and the next bytes
sent to the database, meanwhile.
"""

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

INLINE_ROWS: Final = 2000
"""Up to here the work takes about as long as handing it to a thread."""


async def run(rows: int, work: Callable[[], T]) -> T:
    """The result of `work` on so many rows."""
    return work() if rows <= INLINE_ROWS else await asyncio.to_thread(work)
