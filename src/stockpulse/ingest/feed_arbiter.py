"""When several providers stream one symbol, its bars are built from one of them, or volumes would double."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

SILENCE_MICROS: Final = 60_000_000
"""After a minute without a tick of the first feed, another takes its place."""


@dataclass
class _Lead:
    provider: str
    standing: int
    last_heard: int


class FeedArbiter:
    """Decides, once and before the log, which provider's ticks build the bars of a symbol.

    The first to come leads, until it is silent for a minute. Real data takes over from simulated data at once.
    """

    def __init__(self, standby: Iterable[str] = ()) -> None:
        self._standby = frozenset(standby)
        self._leads: dict[str, _Lead] = {}

    def followers(self, symbols: Iterable[str], provider: str, now: int) -> set[str]:
        """Those of the symbols that another provider leads; `now` is the time of receipt in UTC microseconds."""
        standing = 0 if provider in self._standby else 1
        return {symbol for symbol in symbols if not self._leads_with(symbol, provider, standing, now)}

    def _leads_with(self, symbol: str, provider: str, standing: int, now: int) -> bool:
        lead = self._leads.get(symbol)
        if (
            lead is None
            or lead.provider == provider
            or standing > lead.standing
            or now - lead.last_heard > SILENCE_MICROS
        ):
            self._leads[symbol] = _Lead(provider, standing, now)
            return True
        return False
