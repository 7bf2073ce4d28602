"""A bounded queue that counts rows, so that one bound fits small and large batches."""

import asyncio
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class RowQueue(Generic[T]):
    """Items, each with a number of rows. Producers wait while the queue holds too many rows."""

    def __init__(self, most_rows: int) -> None:
        self._most_rows = most_rows
        self._items: deque[tuple[T, int]] = deque()
        self._changed = asyncio.Condition()
        self.rows = 0

    def __len__(self) -> int:
        return len(self._items)

    async def put(self, item: T, rows: int) -> None:
        """Add an item as soon as there is room. An empty queue takes an item of any size."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.rows == 0 or self.rows + rows <= self._most_rows)
            self._items.append((item, rows))
            self.rows += rows
            self._changed.notify_all()

    async def take(self, most_rows: int) -> list[T]:
        """Wait for an item, then remove and return items with up to `most_rows` rows in total, but at least one."""
        async with self._changed:
            await self._changed.wait_for(lambda: bool(self._items))
            taken: list[T] = []
            rows = 0
            while self._items and (not taken or rows + self._items[0][1] <= most_rows):
                item, size = self._items.popleft()
                taken.append(item)
                rows += size
            self.rows -= rows
            self._changed.notify_all()
            return taken
