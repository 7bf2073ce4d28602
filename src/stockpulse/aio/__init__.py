"""Pieces of asyncio that every part may use: the supervisor of tasks, row-bounded queues, work in threads."""
