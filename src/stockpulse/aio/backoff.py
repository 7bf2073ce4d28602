"""Delays between attempts: they grow, have a cap, and are jittered, so that many clients do not come back at once."""

import random


class Backoff:
    """Growing delays in seconds."""

    def __init__(self, first: float = 0.5, longest: float = 60.0) -> None:
        self._first = first
        self._longest = longest
        self._next = first

    def next(self) -> float:
        """Return the next delay: a random part, at least half, of a time that doubles up to the longest."""
        delay, self._next = self._next, min(2 * self._next, self._longest)
        return delay * random.uniform(0.5, 1.0)  # noqa: S311 - jitter

    def reset(self) -> None:
        """Begin with the first delay again."""
        self._next = self._first
