"""Remembers what a provider refuses, so that it is not asked for the same again and again."""

from collections.abc import Callable, Hashable
from datetime import datetime, timedelta
from typing import Final

from stockpulse.providers.faults import NotEntitled, UnknownSymbol

LASTS: Final = timedelta(hours=1)
"""A plan may be changed, and a symbol may be listed."""


class Refusals:
    """The refusals of the last hour, by what was asked for."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._known: dict[Hashable, tuple[datetime, NotEntitled | UnknownSymbol]] = {}

    def add(self, key: Hashable, fault: NotEntitled | UnknownSymbol) -> None:
        """Remember a refusal."""
        self._known = {one: known for one, known in self._known.items() if self._now() < known[0]}
        self._known[key] = (self._now() + LASTS, fault)

    def of(self, key: Hashable) -> NotEntitled | UnknownSymbol | None:
        """Return the fault with which this was refused; None if it was not."""
        until, fault = self._known.get(key, (None, None))
        if until is None or fault is None or self._now() >= until:
            return None
        return type(fault)(str(fault), fault.symbol)
