"""Bounded queues that count rows, so that one bound fits small batches and large ones."""

import asyncio
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class RowQueue(Generic[T]):
    """Items with a number of rows each; who puts waits while there are too many."""

    def __init__(self, most_rows: int) -> None:
        self._most_rows = most_rows
        self._items: deque[tuple[T, int]] = deque()
        self._changed = asyncio.Condition()
        self.rows = 0

    def __len__(self) -> int:
        return len(self._items)

    async def put(self, item: T, rows: int) -> None:
        """Add an item, once there is room. An item larger than the bound goes in when the queue is empty."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.rows == 0 or self.rows + rows <= self._most_rows)
            self._items.append((item, rows))
            self.rows += rows
            self._changed.notify_all()

    async def take(self, most_rows: int) -> list[T]:
        """All that has piled up, but no more than so many rows (one item at least); waits for the first."""
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
