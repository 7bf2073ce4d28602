"""The facts about each provider, for the list of providers: its data, its limits, its key, its use."""

from dataclasses import dataclass

from stockpulse.errors import InvalidInput
from stockpulse.pipeline.sources import Sources
from stockpulse.providers.base import Capabilities, ProviderEntry


@dataclass(frozen=True)
class ProviderFacts:
    """A provider as people see it."""

    entry: ProviderEntry
    has: Capabilities
    """Its data, on the user's plan if the key is set."""
    key: str
    """not needed, set, or missing"""
    why: str | None
    """The reason why it cannot be used: a missing key, a setting that is not valid."""
    delay_seconds: float | None
    """The delay of its data by contract; None if it cannot be used."""
    uses: tuple[str, ...]
    """feed, fallback"""


def facts_of_all(sources: Sources) -> list[ProviderFacts]:
    """Return the facts about all known providers. Asks no provider."""
    return [_facts_of(entry, sources) for entry in sources.entries]


def _facts_of(entry: ProviderEntry, sources: Sources) -> ProviderFacts:
    uses = sources.uses_of(entry.name)
    try:
        source = sources.named(entry.name)
    except InvalidInput as wrong:
        return ProviderFacts(entry, entry.capabilities, _key_of(entry, str(wrong)), str(wrong), None, uses)
    return ProviderFacts(entry, source.has, _key_of(entry, None), None, source.provider.delay_seconds, uses)


def _key_of(entry: ProviderEntry, why: str | None) -> str:
    required = [option for option in entry.options if option.default is None]
    if not required:
        return "not needed"
    missing = why is not None and "is not set" in why and any(why.startswith(one.variables[0]) for one in required)
    return "missing" if missing else "set"
