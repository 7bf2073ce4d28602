"""Pieces of asyncio for every other package: supervised tasks, bounded queues, retries, work in threads."""
