"""Reads a list of indicators from a request: `rsi,macd`, `rsi(7),rsi(21)`, `sma(period=50)`."""

import re
from collections.abc import Mapping
from typing import Final

from stockpulse.errors import InvalidInput
from stockpulse.indicators.aliases import INDICATORS, parameter_name, with_own_names
from stockpulse.indicators.catalogue import CATALOGUE
from stockpulse.indicators.definition import Indicator, format_number
from stockpulse.indicators.evaluation import Instance

MAX_INDICATORS: Final = 50
"""The maximum number of indicators in one request."""

_BETWEEN: Final = re.compile(r",(?![^(]*\))")
_ONE: Final = re.compile(r"\s*(\w{1,40})\s*(?:\(([^()]*)\))?\s*", re.ASCII)


def select(text: str, parameters: Mapping[str, str], field: str = "type") -> list[Instance]:
    """Return the indicators that a text lists. `parameters` apply to every listed indicator that has them.

    Raises InvalidInput with the field or the parameter and its valid values.
    """
    parts = _BETWEEN.split(text)
    if len(parts) > MAX_INDICATORS:
        raise InvalidInput(field, f"got {len(parts)} indicators; takes {MAX_INDICATORS} at most")
    chosen = [_named(part, field) for part in parts]
    for name in parameters:
        if not any(parameter_name(indicator, name) for indicator, _ in chosen):
            known = ", ".join(f"{indicator.name}: {', '.join(_names(indicator)) or 'none'}" for indicator, _ in chosen)
            raise InvalidInput(name[:40], f"is not a parameter of the requested indicators ({known})")
    instances = [Instance(indicator, with_own_names(indicator, parameters) | own) for indicator, own in chosen]
    return list({one.label: one for one in instances}.values())  # drop repetitions


def _names(indicator: Indicator) -> list[str]:
    return [parameter.name for parameter in indicator.parameters]


def _named(part: str, field: str) -> tuple[Indicator, dict[str, str]]:
    found = _ONE.fullmatch(part)
    indicator = INDICATORS.get(found[1].lower()) if found else None
    if found is None or indicator is None:
        raise InvalidInput(field, f"got {part.strip()[:40]!r}; takes one or more of {', '.join(CATALOGUE)}")
    return indicator, _arguments(indicator, found[2] or "")


def _arguments(indicator: Indicator, text: str) -> dict[str, str]:
    """Return the arguments, given in the order of the parameters or by name."""
    values: dict[str, str] = {}
    names = _names(indicator)
    for place, argument in enumerate(text.split(",") if text.strip() else []):
        name, equals, value = (piece.strip() for piece in argument.partition("="))
        if not equals:
            name, value = names[place] if place < len(names) else "", name
        name = parameter_name(indicator, name) or ""
        if not name or name in values:
            raise InvalidInput(indicator.name, f"got {argument.strip()[:40]!r}; takes {', '.join(names) or 'nothing'}")
        values[name] = value
    return values


def column_names(instances: list[Instance]) -> list[str]:
    """Return a name for each output: its own, with the parameters appended where it occurs more than once."""
    outputs = [output for one in instances for output in one.indicator.outputs]
    return [
        output
        if outputs.count(output) == 1
        else "_".join([output, *(format_number(value) for value in one.values.values())])
        for one in instances
        for output in one.indicator.outputs
    ]
