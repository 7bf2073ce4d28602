"""The facts about each provider, for the list of providers: its data, its limits, its key, its use."""

from dataclasses import dataclass

from stockpulse.errors import InvalidInput
from stockpulse.pipeline.sources import Sources
from stockpulse.providers.base import Capabilities, ProviderEntry


@dataclass(frozen=True)
class ProviderFacts:
    """A provider as people see it."""

    entry: ProviderEntry
    key: str
    """not needed, set, or missing"""
    why: str | None
    """The reason why it cannot be used: a missing key, a setting that is not valid."""
    delay_seconds: float | None
    """The delay of its data by contract; None if it cannot be used."""
    uses: tuple[str, ...]
    """feed, fallback"""

    @property
    def has(self) -> Capabilities:
        """The data that the provider has."""
        return self.entry.capabilities


def facts_of_all(sources: Sources) -> list[ProviderFacts]:
    """Return the facts about all known providers. Asks no provider."""
    return [_facts_of(entry, sources) for entry in sources.entries]


def _facts_of(entry: ProviderEntry, sources: Sources) -> ProviderFacts:
    why = delay = None
    try:
        delay = sources.named(entry.name).provider.delay_seconds
    except InvalidInput as wrong:
        why = str(wrong)
    return ProviderFacts(entry, _key_of(entry, why), why, delay, sources.uses_of(entry.name))


def _key_of(entry: ProviderEntry, why: str | None) -> str:
    required = [option for option in entry.options if option.default is None]
    if not required:
        return "not needed"
    missing = why is not None and "is not set" in why and any(why.startswith(one.variables[0]) for one in required)
    return "missing" if missing else "set"
