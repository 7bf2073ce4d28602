"""Reads the options of providers from variables: those of the environment, then those of `.env`."""

from collections.abc import Mapping, Sequence

from stockpulse.errors import InvalidInput
from stockpulse.providers.base import Option, ProviderEntry

Variables = Sequence[Mapping[str, str | None]]
"""Sources of variables, the most important first; names are in lower case, and no value is empty."""


def read_options(entry: ProviderEntry, variables: Variables) -> dict[str, str]:
    """Return the values of the entry's options by name, with defaults filled in.

    Raises InvalidInput for an option without a default that is not set; the message names its variable.
    """
    return {option.name: _value(entry, option, variables) for option in entry.options}


def _value(entry: ProviderEntry, option: Option, variables: Variables) -> str:
    for source in variables:
        for name in option.variables:
            if found := source.get(name.lower()):
                return found.strip()
    if option.default is not None:
        return option.default
    also = f" (or {', '.join(option.variables[1:])})" if option.variables[1:] else ""
    raise InvalidInput(option.variables[0] + also, f"is not set, and {entry.name} needs it. {option.description}")
