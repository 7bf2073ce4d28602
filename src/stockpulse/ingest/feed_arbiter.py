"""Chooses one provider for the bars of a symbol that several stream; with all of them, volumes would double."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

SILENCE_MICROS: Final = 60_000_000
"""A feed that sent no tick for a minute loses the lead to the next one that does."""


_MANY: Final = 10_000
"""Above this number, leads that were lost to silence are forgotten."""


@dataclass
class _Lead:
    provider: str
    standing: int
    last_heard: int


class FeedArbiter:
    """Decides, before the log and for good, which provider's ticks build the bars of a symbol on a day.

    The first provider leads until it is silent for a minute. A provider on standby, such as the simulated market, loses
    the lead to any other at once. Each day of event time has a lead of its own: a backfill of last week by one provider
    and a live stream by another do not count a trade twice, so both build bars.
    """

    def __init__(self, standby: Iterable[str] = ()) -> None:
        self._standby = frozenset(standby)
        self._leads: dict[tuple[str, int], _Lead] = {}
        self._many = _MANY

    def followers(self, symbols: Iterable[str], provider: str, now: int, day: int = 0) -> set[str]:
        """Return the symbols that another provider leads on a day of event time, in days since 1970.

        `now` is the time of receipt in UTC microseconds.
        """
        standing = 0 if provider in self._standby else 1
        found = {symbol for symbol in symbols if not self._leads_with((symbol, day), provider, standing, now)}
        if len(self._leads) > self._many:
            self._leads = {key: lead for key, lead in self._leads.items() if now - lead.last_heard <= SILENCE_MICROS}
            self._many = max(_MANY, 2 * len(self._leads))
        return found

    def _leads_with(self, key: tuple[str, int], provider: str, standing: int, now: int) -> bool:
        lead = self._leads.get(key)
        if (
            lead is None
            or lead.provider == provider
            or standing > lead.standing
            or now - lead.last_heard > SILENCE_MICROS
        ):
            self._leads[key] = _Lead(provider, standing, now)
            return True
        return False
