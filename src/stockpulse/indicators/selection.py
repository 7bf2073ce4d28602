"""Which indicators somebody asks for: `rsi,macd`, `rsi(7),rsi(21)`, `sma(period=50)`."""

import re
from collections.abc import Mapping
from typing import Final

from stockpulse.errors import InvalidInput
from stockpulse.indicators.catalogue import CATALOGUE
from stockpulse.indicators.definition import Indicator, written
from stockpulse.indicators.evaluation import Instance

MOST: Final = 50
"""As many as that at once."""

_BETWEEN: Final = re.compile(r",(?![^(]*\))")
_ONE: Final = re.compile(r"\s*(\w{1,40})\s*(?:\(([^()]*)\))?\s*", re.ASCII)


def select(text: str, parameters: Mapping[str, str], field: str = "type") -> list[Instance]:
    """The indicators that a text lists; `parameters` hold for all of them that have one of the name.

    Raises InvalidInput that names the field or the parameter, and says what it takes.
    """
    parts = _BETWEEN.split(text)
    if len(parts) > MOST:
        raise InvalidInput(field, f"got {len(parts)} indicators; takes {MOST} at most")
    chosen = [_named(part, field) for part in parts]
    for name in parameters:
        if not any(name in _names(indicator) for indicator, _ in chosen):
            known = ", ".join(f"{indicator.name}: {', '.join(_names(indicator)) or 'none'}" for indicator, _ in chosen)
            raise InvalidInput(name[:40], f"is no parameter of what is asked for ({known})")
    instances = [
        Instance(indicator, {name: value for name, value in parameters.items() if name in _names(indicator)} | own)
        for indicator, own in chosen
    ]
    return list({one.label: one for one in instances}.values())  # what is said twice is calculated once


def _names(indicator: Indicator) -> list[str]:
    return [parameter.name for parameter in indicator.parameters]


def _named(part: str, field: str) -> tuple[Indicator, dict[str, str]]:
    found = _ONE.fullmatch(part)
    indicator = CATALOGUE.get(found[1].lower()) if found else None
    if found is None or indicator is None:
        raise InvalidInput(field, f"got {part.strip()[:40]!r}; takes one or more of {', '.join(CATALOGUE)}")
    return indicator, _arguments(indicator, found[2] or "")


def _arguments(indicator: Indicator, text: str) -> dict[str, str]:
    """Arguments in the order of the parameters, or by name."""
    values: dict[str, str] = {}
    names = _names(indicator)
    for place, argument in enumerate(text.split(",") if text.strip() else []):
        name, equals, value = (piece.strip() for piece in argument.partition("="))
        if not equals:
            name, value = names[place] if place < len(names) else "", name
        if name not in names or name in values:
            raise InvalidInput(indicator.name, f"got {argument.strip()[:40]!r}; takes {', '.join(names) or 'nothing'}")
        values[name] = value
    return values


def columns_of(instances: list[Instance]) -> list[str]:
    """A name for each output: its own, or with the parameters where it comes more than once."""
    outputs = [output for one in instances for output in one.indicator.outputs]
    return [
        output if outputs.count(output) == 1 else "_".join([output, *(written(value) for value in one.values.values())])
        for one in instances
        for output in one.indicator.outputs
    ]
