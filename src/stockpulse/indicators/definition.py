"""Indicators: functions in the algebra, with the facts that a user needs."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from stockpulse.errors import InvalidInput
from stockpulse.indicators.algebra import INPUTS, Series

MAX_PERIOD: Final = 5000
"""The longest period, in bars."""

Function = TypeVar("Function", bound=Callable[..., Any])
Value = int | float


def format_number(value: Value) -> str:
    """Return the value of a parameter with all its digits: 14, 2.5, 2 for 2.0, 1 for true."""
    return repr(int(value) if isinstance(value, bool) else value).removesuffix(".0")


def label_of(name: str, values: Mapping[str, Value]) -> str:
    """Return a name with the values of its parameters: `rsi(14)`. Flags that are not set are left out: `vwap`."""
    shown = ", ".join(format_number(value) for value in values.values() if value is not False)
    return f"{name}({shown})" if shown else name


_FLAGS: Final = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


@dataclass(frozen=True)
class Parameter:
    """A parameter: an integer (a number of bars), a float (a factor), or a flag (0 or 1)."""

    name: str
    default: Value | None
    """None: the symbol's calendar decides."""
    minimum: Value
    maximum: Value

    @property
    def is_integer(self) -> bool:
        """True if it takes any integers between its bounds."""
        return isinstance(self.default, int) and not self.is_flag

    @property
    def is_flag(self) -> bool:
        """True if it takes true or false only."""
        return isinstance(self.default, bool)

    def validate(self, value: object) -> Value:
        """Return the value as a number; InvalidInput has the parameter and its valid values."""
        if self.is_flag:
            return self._flag(value)
        kind = "a whole number" if self.is_integer else "a number"
        takes = f"takes {kind} from {self.minimum} to {self.maximum}"
        try:
            number = float(value)  # type: ignore[arg-type]
        except OverflowError:
            raise InvalidInput(self.name, f"got a number that is far too large; {takes}") from None
        except (TypeError, ValueError):
            raise InvalidInput(self.name, f"got {str(value)[:40]!r}; {takes}") from None
        if not self.minimum <= number <= self.maximum or (self.is_integer and number != int(number)):
            raise InvalidInput(self.name, f"got {str(value)[:40]}; {takes}")
        return int(number) if self.is_integer else number

    def _flag(self, value: object) -> Value:
        flag = _FLAGS.get(str(value).lower())
        if flag is None:
            raise InvalidInput(self.name, f"got {str(value)[:40]!r}; takes a flag: true or false")
        return flag


@dataclass(frozen=True, eq=False)
class Indicator:
    """An indicator, to be calculated over any bars with any parameters."""

    name: str
    title: str
    family: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    units: str
    """The unit of its values: price, percent, shares, or a range such as "0 to 100"."""
    source: str
    """The source of the formula."""
    flat: tuple[str, ...]
    """The value of each output while all prices are equal: a number, "price", "null", or "volume" if it decides."""
    parameters: tuple[Parameter, ...]
    function: Callable[..., Any]
    scales: tuple[str, ...]
    """The scale of each output's rounding error: "price", "volume", "money", "percent" or "one"."""

    def validate(self, given: Mapping[str, object]) -> dict[str, Value]:
        """Return values for the parameters: the given values, else the defaults if there are any."""
        values = {}
        for one in self.parameters:
            if one.name in given:
                values[one.name] = one.validate(given[one.name])
            elif one.default is not None:
                values[one.name] = one.default
        unknown = given.keys() - {one.name for one in self.parameters}
        if unknown:
            names = ", ".join(one.name for one in self.parameters) or "it has none"
            raise InvalidInput(min(unknown)[:40], f"is not a parameter of {self.name}: {names}")
        if values.get("fast", 0) > values.get("slow", MAX_PERIOD):
            raise InvalidInput("fast", f"got {values['fast']}; takes no more than slow, which is {values['slow']}")
        return values

    def trace(self, values: Mapping[str, Value]) -> tuple[Series, ...]:
        """Return its outputs as series over symbolic inputs."""
        given = [Series(name=name) for name in self.inputs]
        found = self.function(*given, **values)
        return found if isinstance(found, tuple) else (found,)


def indicator(
    *,
    title: str,
    inputs: str,
    units: str,
    source: str,
    flat: str,
    outputs: str = "",
    scale: str = "",
    minimum: int = 1,
    limits: Mapping[str, tuple[Value, Value]] = {},
) -> Callable[[Callable[..., Any]], Indicator]:
    """Turn a function into an indicator. Its positional arguments are the `inputs`, its keywords the parameters.

    `outputs` names the returned values in order; a single output is named after the function. Periods are at least
    `minimum`; `limits` gives the bounds of other parameters. `flat` has the value of each output while all prices are
    equal. `scale` has the scale of rounding errors, one for all outputs or one for each; by default it follows from
    the unit. The family is the name of the module, and the defaults are the function's.
    """

    def define(function: Callable[..., Any]) -> Indicator:
        name = function.__name__.rstrip("_")
        unknown = set(inputs.split()) - set(INPUTS)
        if unknown:
            raise ValueError(f"{name}: no such inputs: {unknown}")
        return Indicator(
            name=name,
            title=title,
            family=function.__module__.rpartition(".")[2],
            inputs=tuple(inputs.split()),
            outputs=tuple(outputs.split()) or (name,),
            units=units,
            source=source,
            flat=tuple(flat.split()),
            parameters=tuple(_parameters(function, minimum, limits)),
            function=function,
            scales=_scales(scale or _scale_of(units), len(outputs.split()) or 1),
        )

    return define


def _scale_of(units: str) -> str:
    scales = {"price x": "money", "price": "price", "shares": "volume", "-1 to 1": "one"}
    return next((scale for unit, scale in scales.items() if units.startswith(unit)), "percent")


def _scales(scale: str, outputs: int) -> tuple[str, ...]:
    one_for_each = tuple(scale.split())
    return one_for_each if len(one_for_each) == outputs else one_for_each * outputs


def _parameters(
    function: Callable[..., Any], minimum: int, limits: Mapping[str, tuple[Value, Value]]
) -> Iterator[Parameter]:
    for one in inspect.signature(function).parameters.values():
        if one.kind is inspect.Parameter.KEYWORD_ONLY:
            if isinstance(one.default, bool):
                usual: tuple[Value, Value] = (False, True)
            else:
                usual = (minimum, MAX_PERIOD) if isinstance(one.default, int) else (0.0001, 1000.0)
            yield Parameter(one.name, one.default, *limits.get(one.name, usual))
