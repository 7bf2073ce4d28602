"""Reading one item ahead."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TypeVar

_T = TypeVar("_T")


async def ahead(items: AsyncIterator[_T]) -> AsyncGenerator[_T, None]:
    """Yield the same items, reading the next one while the last one is processed."""

    async def read() -> _T | None:
        return await anext(items, None)

    coming = asyncio.create_task(read())
    try:
        while (item := await coming) is not None:
            coming = asyncio.create_task(read())
            yield item
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)
